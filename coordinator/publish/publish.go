package publish

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// Publisher appends to the chains of the sites.
type Publisher struct {
	Store  store.Store
	Signer func() crypto.Signer // Ed25519, as it is now
	// Epoch is that of a key in the newest trust document. Errors: ErrNoWriter.
	Epoch func(crypto.PublicKey) (uint64, error)
	Now   func() time.Time
	// Requires names what a site must have before it follows the next entry.
	Requires func() intent.Requires
	// Catalog is asked for how long a site's beacons count.
	Catalog func() *intent.Catalog
	Folds   *Folds // nil: each snapshot reads the whole chain
}

// ErrNoWriter says that trust does not let the writer key that is here sign anything new.
var ErrNoWriter = errors.New("the writer key of this coordinator is not a current one of the trust document")

// EpochOf returns the epoch in which key may sign under t. Errors: ErrNoWriter.
func EpochOf(t *intent.TrustBody, key crypto.PublicKey) (uint64, error) {
	pub, ok := key.(ed25519.PublicKey)
	for _, w := range t.Writers {
		if ok && w.State != intent.KeyRetire && bytes.Equal(w.Key, document.MarshalKey(pub)) {
			return w.Epoch, nil
		}
	}
	return 0, fmt.Errorf("cannot sign under trust %d: %w", t.Seq, ErrNoWriter)
}

// staleAfter is how long a beacon counts at a site, as its entries say it.
func (p *Publisher) staleAfter(site string) string {
	if s, _, ok := intent.Lookup[*intent.SiteSpec](p.Catalog(), intent.KindSite, "", site); ok && s.StaleAfter != "" {
		return s.StaleAfter
	}
	return intent.DefaultStaleAfter.String()
}

func chainKey(site string, seq uint64) string { return fmt.Sprintf("chain/%s/%016x", site, seq) }

// HeadKey is the key of a site's head.
func HeadKey(site string) string { return "head/" + site }

// PublishedKey is the key of the Published of one object.
func PublishedKey(site, uid string) string { return "published/" + site + "/" + uid }

// BuriedKey is the key of the generation below which an object is not told to a site again: the site has its tombstone, and
// the catalog, which is older, has the object for the sake of others.
func BuriedKey(site, uid string) string { return "buried/" + site + "/" + uid }

// At returns one entry of a chain. Errors: store.ErrAbsent.
func At(ctx context.Context, s store.Store, site string, seq uint64) (*intent.Envelope, error) {
	e, err := s.Get(ctx, chainKey(site, seq))
	if err != nil {
		return nil, err
	}
	return document.Decode(e.Value)
}

// ToldElsewhere tells whether another site than site has the object.
func ToldElsewhere(ctx context.Context, s store.Store, site, uid string) (bool, error) {
	found := false
	err := s.Range(ctx, "published/", "", func(e store.Entry) error {
		if strings.HasSuffix(e.Key, "/"+uid) && e.Key != PublishedKey(site, uid) {
			found = true
			return store.ErrStop
		}
		return nil
	})
	return found, err
}

// Head returns the head of a site's chain and the guard that holds it in place; the zero head for a new site.
func (p *Publisher) Head(ctx context.Context, site string) (intent.Head, store.Guard, error) {
	g := store.Guard{Key: HeadKey(site)}
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
	prefix := PublishedKey(site, "")
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

// ErrHeld says that a site is not published to: this store is, or may be, an older copy, and the site was not heard yet.
var ErrHeld = errors.New("the site is held until it was heard")

// PendingKey is there from a restore until an operator says that nothing is missing any more.
const PendingKey = "recovering"

// HeldKey is the key whose presence holds a site. Every append has its absence as a guard.
func HeldKey(site string) string { return "held/" + site }

// Chain is the chain of one site as it stood when it was opened. What is worked out from a store that is read after Open fits
// the head that Append names: when somebody else wrote meanwhile, Append writes nothing. Not safe for concurrent use.
type Chain struct {
	p     *Publisher
	site  string
	head  intent.Head
	guard store.Guard
}

// Open reads the head. Errors: ErrHeld.
func (p *Publisher) Open(ctx context.Context, site string) (*Chain, error) {
	if _, err := p.Store.Get(ctx, HeldKey(site)); err == nil {
		return nil, fmt.Errorf("cannot publish to %s: %w", site, ErrHeld)
	} else if !errors.Is(err, store.ErrAbsent) {
		return nil, err
	}
	head, guard, err := p.Head(ctx, site)
	return &Chain{p, site, head, guard}, err
}

// Head is that of the last append, or of Open.
func (c *Chain) Head() intent.Head { return c.head }

// Sync appends what leads the site from what it was told to the catalog. Nothing to say appends nothing.
func (c *Chain) Sync(ctx context.Context, catalog *intent.Catalog) error {
	was, err := c.p.Published(ctx, c.site)
	if err != nil {
		return err
	}
	want, err := c.unburied(ctx, Compile(catalog, c.site))
	if err == nil {
		want, err = c.unheld(ctx, want, was)
	}
	if err != nil {
		return err
	}
	tombs, puts, err := Diff(want, was)
	if err != nil {
		return err
	}
	keys := map[string]intent.Key{}
	for _, o := range want {
		keys[o.Metadata.UID] = o.Key()
	}
	for _, t := range tombs {
		var gone []string
		for _, o := range t.Objects {
			gone = append(gone, PublishedKey(c.site, o.UID))
		}
		if err := c.Append(ctx, intent.EntryTombstone, t, store.Commit{Delete: gone}); err != nil {
			return err
		}
	}
	for _, b := range puts {
		told := map[string][]byte{}
		for _, o := range b.Objects {
			v, err := json.Marshal(Published{Key: keys[o.UID], Rev: o.Rev})
			if err != nil {
				return fmt.Errorf("cannot encode what %s is told: %w", c.site, err)
			}
			told[PublishedKey(c.site, o.UID)] = v
		}
		if err := c.Append(ctx, intent.EntryPut, b, store.Commit{Put: told}); err != nil {
			return err
		}
	}
	return nil
}

// Vouch appends a snapshot, which changes nothing, when the end of the chain was signed in an earlier epoch: what a retired writer signed
// counts only below an entry of a current one, and a wrong snapshot only until the next.
func (c *Chain) Vouch(ctx context.Context) error {
	epoch, err := c.p.Epoch(c.p.Signer().Public())
	if err != nil || c.head.Seq == 0 || c.head.Epoch >= epoch {
		return err
	}
	sum, err := c.sum(ctx, nil)
	if err != nil {
		return err
	}
	return c.Append(ctx, intent.EntrySnapshot, sum, store.Commit{})
}

// unheld leaves out what is new to the site and was told to a site that is held: it may have been deleted there since. The end of
// that hold asks again.
func (c *Chain) unheld(ctx context.Context, want []*intent.Object, was map[string]Published) ([]*intent.Object, error) {
	var held []string
	err := c.p.Store.Range(ctx, HeldKey(""), "", func(e store.Entry) error {
		held = append(held, e.Key[len(HeldKey("")):])
		return nil
	})
	for _, site := range held {
		if err != nil {
			break
		}
		var there map[string]Published
		there, err = c.p.Published(ctx, site)
		want = slices.DeleteFunc(want, func(o *intent.Object) bool {
			_, here := was[o.Metadata.UID]
			_, elsewhere := there[o.Metadata.UID]
			return !here && elsewhere
		})
	}
	return want, err
}

// unburied leaves out what is buried at the site.
func (c *Chain) unburied(ctx context.Context, want []*intent.Object) ([]*intent.Object, error) {
	buried := map[string]uint64{}
	prefix := BuriedKey(c.site, "")
	err := c.p.Store.Range(ctx, prefix, "", func(e store.Entry) (err error) {
		buried[e.Key[len(prefix):]], err = strconv.ParseUint(string(e.Value), 10, 64)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read what %s buried: %w", c.site, err)
	}
	return slices.DeleteFunc(want, func(o *intent.Object) bool { return o.Metadata.Rev < buried[o.Metadata.UID] }), nil
}

// Append signs one entry onto the head and commits it together with more. What is signed leaves this process only by way of
// the store. A snapshot follows it in the same commit where one is due. Errors: store.ErrConflict when another writer was faster,
// nothing was written then; store.ErrUnknown, the entry is in the chain or never will be. After an error the chain is opened anew.
func (c *Chain) Append(ctx context.Context, kind intent.EntryKind, body any, more store.Commit) error {
	put, head, err := c.sign(c.head, kind, body, nil)
	if err == nil && (head.Seq+1)%SnapshotEvery == 0 {
		var sum intent.SnapshotBody
		if sum, err = c.sum(ctx, put[chainKey(c.site, head.Seq)]); err == nil {
			put, head, err = c.sign(head, intent.EntrySnapshot, sum, put)
		}
	}
	if err != nil {
		return err
	}
	maps.Copy(put, more.Put)
	more.Put = put
	more.If = append(more.If, c.guard, store.Guard{Key: HeldKey(c.site)})
	rev, err := c.p.Store.Commit(ctx, more)
	if err != nil {
		return fmt.Errorf("cannot append to chain of %s: %w", c.site, err)
	}
	var stored [][]byte
	for seq := c.head.Seq + 1; seq <= head.Seq; seq++ {
		stored = append(stored, put[chainKey(c.site, seq)])
	}
	c.p.Folds.follow(c.site, c.head, stored)
	c.head, c.guard.Rev = head, rev
	return nil
}

// sign makes the entry that follows head, and returns its records beside put and the head that it leads to.
func (c *Chain) sign(head intent.Head, kind intent.EntryKind, body any, put map[string][]byte) (map[string][]byte, intent.Head, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, head, fmt.Errorf("cannot encode %s entry: %w", kind, err)
	}
	signer := c.p.Signer()
	epoch, err := c.p.Epoch(signer.Public())
	if err == nil && epoch < head.Epoch { // another coordinator over this store has the next writer: no site would take the entry
		err = fmt.Errorf("cannot publish to %s: its chain is at epoch %d, the writer here is of %d: copy keys/ of the coordinator that made the new one, and start this one again: %w", c.site, head.Epoch, epoch, ErrNoWriter)
	}
	if err != nil {
		return nil, head, err
	}
	e := intent.Entry{
		Header: document.Follow(head, intent.StreamIntent, epoch, c.p.Now()),
		Site:   c.site, Requires: c.p.Requires(), Kind: kind, Body: raw, StaleAfter: c.p.staleAfter(c.site),
	}
	payload, err := json.Marshal(e)
	if err != nil {
		return nil, head, fmt.Errorf("cannot encode %s entry: %w", kind, err)
	}
	if _, err := intent.DecodeEntry(payload); err != nil {
		return nil, head, fmt.Errorf("cannot publish to %s: own entry is refused: %w", c.site, err)
	}
	env, err := document.Sign(intent.PayloadIntent, payload, signer)
	if err != nil {
		return nil, head, fmt.Errorf("cannot sign entry for %s: %w", c.site, err)
	}
	head = e.Head(payload)
	records, err := Link(c.site, env, head)
	if err != nil {
		return nil, head, err
	}
	for key, v := range put {
		if key != HeadKey(c.site) {
			records[key] = v
		}
	}
	return records, head, nil
}

// Link returns the records that make env the end of a site's chain, with the head that it leads to.
func Link(site string, env *intent.Envelope, head intent.Head) (map[string][]byte, error) {
	wire, err := document.Encode(env)
	if err != nil {
		return nil, fmt.Errorf("cannot encode entry for %s: %w", site, err)
	}
	h, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("cannot encode head of %s: %w", site, err)
	}
	return map[string][]byte{chainKey(site, head.Seq): wire, HeadKey(site): h}, nil
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
