package publish

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// Publisher appends to the chains of the sites.
type Publisher struct {
	Store  store.Store
	Signer crypto.Signer // Ed25519, the writer of Epoch
	Epoch  uint64
	Now    func() time.Time
}

func chainKey(site string, seq uint64) string { return fmt.Sprintf("chain/%s/%016x", site, seq) }
func headKey(site string) string              { return "head/" + site }
func publishedKey(site, uid string) string    { return "published/" + site + "/" + uid }

// Head returns the head of a site's chain and the guard that holds it in place; the zero head for a new site.
func (p *Publisher) Head(ctx context.Context, site string) (intent.Head, store.Guard, error) {
	g := store.Guard{Key: headKey(site)}
	e, err := p.Store.Get(ctx, g.Key)
	if errors.Is(err, store.ErrAbsent) {
		return intent.Head{}, g, nil
	}
	if err != nil {
		return intent.Head{}, g, err
	}
	g.Rev = e.Rev
	var h intent.Head
	if err := json.Unmarshal(e.Value, &h); err != nil {
		return h, g, fmt.Errorf("cannot read head of %s: %w", site, err)
	}
	return h, g, nil
}

// Published returns what the chain of a site last said, by uid.
func (p *Publisher) Published(ctx context.Context, site string) (map[string]Published, error) {
	m := map[string]Published{}
	prefix := publishedKey(site, "")
	err := p.Store.Range(ctx, prefix, "", func(e store.Entry) error {
		var v Published
		if err := json.Unmarshal(e.Value, &v); err != nil {
			return err
		}
		m[e.Key[len(prefix):]] = v
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read what %s was told: %w", site, err)
	}
	return m, nil
}

// Sync appends what leads the site from what it was told to the catalog, and returns the new head. Nothing to say appends
// nothing.
func (p *Publisher) Sync(ctx context.Context, c *intent.Catalog, site string) (intent.Head, error) {
	want := Compile(c, site)
	was, err := p.Published(ctx, site)
	if err != nil {
		return intent.Head{}, err
	}
	tombs, puts, err := Diff(want, was)
	if err != nil {
		return intent.Head{}, err
	}
	keys := map[string]intent.Key{}
	for _, o := range want {
		keys[o.Metadata.UID] = o.Key()
	}
	for _, t := range tombs {
		var gone []string
		for _, o := range t.Objects {
			gone = append(gone, publishedKey(site, o.UID))
		}
		if err := p.Append(ctx, site, intent.EntryTombstone, t, store.Commit{Delete: gone}); err != nil {
			return intent.Head{}, err
		}
	}
	for _, b := range puts {
		told := map[string][]byte{}
		for _, o := range b.Objects {
			v, err := json.Marshal(Published{Key: keys[o.UID], Rev: o.Rev})
			if err != nil {
				return intent.Head{}, fmt.Errorf("cannot encode what %s is told: %w", site, err)
			}
			told[publishedKey(site, o.UID)] = v
		}
		if err := p.Append(ctx, site, intent.EntryPut, b, store.Commit{Put: told}); err != nil {
			return intent.Head{}, err
		}
	}
	h, _, err := p.Head(ctx, site)
	return h, err
}

// Append signs one entry onto the site's head and commits it together with more. Errors: store.ErrConflict when another
// writer was faster; nothing was written then.
func (p *Publisher) Append(ctx context.Context, site string, kind intent.EntryKind, body any, more store.Commit) error {
	head, guard, err := p.Head(ctx, site)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("cannot encode %s entry: %w", kind, err)
	}
	e := intent.Entry{
		Header: document.Follow(head, intent.StreamIntent, p.Epoch, p.Now()),
		Site:   site, Kind: kind, Body: raw,
	}
	payload, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("cannot encode %s entry: %w", kind, err)
	}
	if _, err := intent.DecodeEntry(payload); err != nil {
		return fmt.Errorf("cannot publish to %s: own entry is refused: %w", site, err)
	}
	env, err := document.Sign(intent.PayloadIntent, payload, p.Signer)
	if err != nil {
		return fmt.Errorf("cannot sign entry for %s: %w", site, err)
	}
	wire, err := document.Encode(env)
	if err != nil {
		return fmt.Errorf("cannot encode entry for %s: %w", site, err)
	}
	newHead, err := json.Marshal(e.Head(payload))
	if err != nil {
		return fmt.Errorf("cannot encode head of %s: %w", site, err)
	}
	if more.Put == nil {
		more.Put = map[string][]byte{}
	}
	more.Put[chainKey(site, e.Seq)] = wire
	more.Put[headKey(site)] = newHead
	more.If = append(more.If, guard)
	if _, err := p.Store.Commit(ctx, more); err != nil {
		return fmt.Errorf("cannot append to chain of %s: %w", site, err)
	}
	return nil
}

// Feed calls fn for the envelopes of a site's chain from seq on, in order.
func (p *Publisher) Feed(ctx context.Context, site string, from uint64, fn func(*intent.Envelope) error) error {
	return p.Store.Range(ctx, "chain/"+site+"/", chainKey(site, from), func(e store.Entry) error {
		env, err := document.Decode(e.Value)
		if err != nil {
			return fmt.Errorf("cannot read chain of %s: %w", site, err)
		}
		return fn(env)
	})
}
