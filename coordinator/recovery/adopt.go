package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// adoption takes entries of a site's chain that this store does not have, and the writer signed once, as if they had just been
// published from here: the chain, what the site was told, and the catalog that this came from.
type adoption struct {
	store store.Store
	site  string
	chain document.IntentChain
	rev   uint64      // of the head's record
	hold  store.Guard // the site is held, and by the hold that the caller saw
	lost  []string    // secrets whose newest value only the site has

	waits  []waiting // entries of a retired writer that none of a current one has followed yet
	octets int       // of waits

	put    map[string][]byte // of the entry at hand
	gone   []string
	guards []store.Guard
}

// BootKey is the name of the secret that sites make boot tokens with: nobody sets it, a new one is made when it is lost.
const BootKey = "skerry-boot"

// maxRaces is how often another coordinator may be faster.
const maxRaces = 20

// waiting is an entry that was verified, and where the chain stands with it.
type waiting struct {
	env   *intent.Envelope
	entry *intent.Entry
	chain document.IntentChain
}

// maxWaiting bounds the octets of entries that wait for one of a current writer.
const maxWaiting = 64 << 20

// take appends env, one commit for each; an entry of a retired writer waits for one of a current writer that follows it. It
// returns how many were appended. Errors: those of document.IntentChain; what came before stays.
func (a *adoption) take(ctx context.Context, env *intent.Envelope) (int, error) {
	run := a.chain
	if len(a.waits) > 0 {
		run = a.waits[len(a.waits)-1].chain
	}
	e, counts, err := run.Take(env)
	if errors.Is(err, document.ErrKnown) {
		return 0, nil
	}
	if errors.Is(err, document.ErrReplay) {
		return 0, a.sameBefore(ctx, env)
	}
	if err != nil {
		return 0, err
	}
	a.waits, a.octets = append(a.waits, waiting{env, e, run}), a.octets+len(env.Payload)
	if !counts && a.octets < maxWaiting {
		return 0, nil
	}
	if !counts {
		return 0, a.settled()
	}
	n := 0
	for len(a.waits) > 0 {
		if err := a.append(ctx, a.waits[0]); err != nil {
			return n, err
		}
		a.waits = a.waits[1:]
		n++
	}
	a.waits, a.octets = nil, 0
	return n, nil
}

// settled tells whether nothing waits any more. Errors: document.ErrRetired.
func (a *adoption) settled() error {
	if len(a.waits) == 0 {
		return nil
	}
	return fmt.Errorf("cannot adopt %d entries of %s: %w", len(a.waits), a.site, document.ErrRetired)
}

// append commits one entry, with the catalog that it came from.
func (a *adoption) append(ctx context.Context, w waiting) error {
	body, err := w.entry.DecodeBody()
	if err != nil {
		return err
	}
	for races := 0; ; races++ {
		rev, err := a.commit(ctx, w.env, w.entry, body)
		if err == nil {
			a.chain, a.rev = w.chain, rev
			return nil
		}
		if !errors.Is(err, store.ErrConflict) || races == maxRaces {
			return err
		}
	}
}

// sameBefore tells a fork below the head from an entry that is known.
func (a *adoption) sameBefore(ctx context.Context, env *intent.Envelope) error {
	e, err := intent.DecodeEntry(env.Payload)
	if err != nil {
		return err
	}
	ours, err := publish.At(ctx, a.store, a.site, e.Seq)
	if err != nil {
		return err
	}
	if ours.Digest() != env.Digest() {
		return fmt.Errorf("cannot adopt entry %d of %s: another one stands here: %w", e.Seq, a.site, document.ErrFork)
	}
	return nil
}

func (a *adoption) commit(ctx context.Context, env *intent.Envelope, e *intent.Entry, body any) (uint64, error) {
	cat, err := a.store.Get(ctx, store.CatalogKey)
	if err != nil && !errors.Is(err, store.ErrAbsent) {
		return 0, err
	}
	a.guards = []store.Guard{{Key: publish.HeadKey(a.site), Rev: a.rev}, a.hold, {Key: store.CatalogKey, Rev: cat.Rev}}
	a.gone = nil
	if a.put, err = publish.Link(a.site, env, e.Head(env.Payload)); err != nil {
		return 0, err
	}
	a.put[store.CatalogKey] = nil
	switch b := body.(type) {
	case *intent.PutBody:
		err = a.each(len(b.Objects), func(i int) error { return a.object(ctx, b.Objects[i]) })
	case *intent.TombstoneBody:
		err = a.each(len(b.Objects), func(i int) error { return a.tombstone(ctx, b.Objects[i]) })
	case *intent.RosterBody:
		err = a.roster(ctx, b)
	case *intent.SecretBody:
		err = a.secret(ctx, b)
	case *intent.AckBody:
		a.put[store.AckKey(a.site, b.Override)] = strconv.AppendUint(nil, e.Seq, 10)
		if b.Decision == "adopt" {
			a.put[store.OverrideKey(a.site, b.Override)] = strconv.AppendUint(nil, b.Rev, 10)
		} else {
			a.put[store.OverrideKey(a.site, b.Override)] = []byte(b.Decision)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("cannot adopt entry %d of %s: %w", e.Seq, a.site, err)
	}
	a.gone = slices.DeleteFunc(a.gone, func(k string) bool { _, put := a.put[k]; return put })
	return a.store.Commit(ctx, store.Commit{If: a.guards, Put: a.put, Delete: a.gone})
}

func (a *adoption) each(n int, fn func(i int) error) error {
	for i := range n {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

// stored reads an object as it stands, this entry's changes included; nil for none.
func (a *adoption) stored(ctx context.Context, k intent.Key) (*intent.Object, error) {
	v, ok := a.put[objectKey(k)]
	if !ok {
		e, err := a.store.Get(ctx, objectKey(k))
		if errors.Is(err, store.ErrAbsent) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		v = e.Value
	}
	o := &intent.Object{}
	return o, o.UnmarshalJSON(v)
}

// object takes what the site was told of one object into the catalog, unless the catalog has a newer generation from another site.
func (a *adoption) object(ctx context.Context, p intent.PutObject) error {
	o, err := intent.DecodeObject(p.Doc)
	if err != nil {
		return err
	}
	k := o.Key()
	told, err := json.Marshal(publish.Published{Key: k, Rev: p.Rev})
	if err != nil {
		return err
	}
	a.put[publish.PublishedKey(a.site, p.UID)] = told
	a.gone = append(a.gone, publish.BuriedKey(a.site, p.UID))
	old, err := a.stored(ctx, k)
	if err != nil {
		return err
	}
	if old != nil && old.Metadata.UID == p.UID && old.Metadata.Rev >= p.Rev {
		return nil
	}
	v, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if old != nil && old.Metadata.UID != p.UID {
		if yields, err := a.rivals(ctx, old, k, p.UID, v); err != nil || yields {
			return err
		}
	}
	a.put[objectKey(k)] = v
	a.gone = append(a.gone, rivalKey(k, p.UID))
	if s, ok := o.Spec.(*intent.SecretSpec); ok {
		return a.newer(ctx, o.Metadata.Name, s.Ver)
	}
	return nil
}

// newer notes that the site has a version of a secret. A value that is older than it must not be told to anybody any more.
func (a *adoption) newer(ctx context.Context, name string, ver uint64) error {
	v, ok := a.put[store.VersionKey(a.site, name)]
	if !ok {
		e, err := a.store.Get(ctx, store.VersionKey(a.site, name))
		if err != nil && !errors.Is(err, store.ErrAbsent) {
			return err
		}
		v = e.Value
	}
	if known, err := strconv.ParseUint(string(v), 10, 64); err == nil && known >= ver {
		return nil
	}
	a.put[store.VersionKey(a.site, name)] = strconv.AppendUint(nil, ver, 10)
	a.gone = append(a.gone, store.SecretKey(a.site, name))
	if name != BootKey {
		a.lost = append(a.lost, fmt.Sprintf("%s/%s", a.site, name))
	}
	return nil
}

// tombstone removes an object from the catalog when the tombstone can only mean that. What several sites share may have left this
// site only: then it stays until the others were heard, and this site is not told of it again (publish.BuriedKey).
func (a *adoption) tombstone(ctx context.Context, t intent.TombstoneObject) error {
	key := publish.PublishedKey(a.site, t.UID)
	e, err := a.store.Get(ctx, key)
	if errors.Is(err, store.ErrAbsent) {
		return nil // never told, as far as is known: nothing to remove
	}
	if err != nil {
		return err
	}
	var told publish.Published
	if err := json.Unmarshal(e.Value, &told); err != nil {
		return err
	}
	a.gone = append(a.gone, key)
	a.gone = append(a.gone, rivalKey(told.Key, t.UID))
	o, err := a.stored(ctx, told.Key)
	if err != nil || o == nil || o.Metadata.UID != t.UID || o.Metadata.Rev >= t.Rev {
		return err
	}
	if told.Key.Scope != a.site { // the chain of another site may tell it again, from before it was deleted
		a.put[publish.BuriedKey(a.site, t.UID)] = strconv.AppendUint(nil, t.Rev, 10)
	}
	switch t.Kind {
	case intent.KindProject, intent.KindUser, intent.KindSSHKey:
		elsewhere, err := publish.ToldElsewhere(ctx, a.store, a.site, t.UID)
		if err != nil || elsewhere {
			return err
		}
	}
	if t.Kind == intent.KindSecret {
		a.gone = append(a.gone, store.SecretKey(a.site, o.Metadata.Name))
	}
	return a.succeed(ctx, told.Key, t.UID)
}

// roster takes the keys of the agents, and makes an object for one whose own comes later in the chain, or never came.
func (a *adoption) roster(ctx context.Context, b *intent.RosterBody) error {
	v, err := json.Marshal(b)
	if err != nil {
		return err
	}
	a.put[store.RosterKey(a.site)] = v
	for _, r := range b.Agents {
		if a.put[store.AgentKey(a.site, r.ID)], err = json.Marshal(r); err != nil {
			return err
		}
		o := &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindAgent, Metadata: intent.Metadata{Name: r.ID, Site: a.site, UID: "roster-" + a.site + "-" + r.ID, Rev: 1}}
		if old, err := a.stored(ctx, o.Key()); err != nil || old != nil {
			if err != nil {
				return err
			}
			continue
		}
		spec := &intent.AgentSpec{Boot: r.Boot, Roles: r.Roles, Rank: int(r.Rank), Spare: r.State == intent.StateSpare}
		if len(r.Addr) > 0 {
			spec.Management = r.Addr[0]
		}
		o.Spec = spec
		if a.put[objectKey(o.Key())], err = json.Marshal(o); err != nil {
			return err
		}
	}
	return nil
}

// secret notes what agents were told. The data keys were made by a store that is lost: the next ones get higher numbers.
func (a *adoption) secret(ctx context.Context, b *intent.SecretBody) error {
	for _, d := range b.DEKs {
		a.put[store.DEKNumberKey(a.site, d.To)] = strconv.AppendUint(nil, d.DEK, 10)
		a.gone = append(a.gone, store.DEKKey(a.site, d.To))
	}
	for _, r := range b.Records {
		a.put[store.ToldKey(a.site, r.To, r.Name)] = strconv.AppendUint(nil, r.Ver, 10)
		if err := a.newer(ctx, r.Name, r.Ver); err != nil {
			return err
		}
	}
	return nil
}

func objectKey(k intent.Key) string { return store.ObjectKey(string(k.Kind), k.Scope, k.Name) }
