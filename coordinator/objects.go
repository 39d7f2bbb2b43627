package coordinator

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/repository"
	"github.com/skerry-metal/skerry/coordinator/secrets"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/storage/state"
)

// objects is the catalog: a store behind, a snapshot in front.
type objects struct {
	store   store.Store
	secrets *secrets.Secrets
	audit   *auditlog.Log
	now     func() time.Time

	mu      sync.Mutex // guards what follows; held over a commit so that the cache follows the store
	catalog *intent.Catalog
	at      uint64                 // revision of store.CatalogKey that the catalog is of
	reports map[string]*siteReport // by site

	snap  atomic.Pointer[snapshot]
	dirty func(sites []string) // asks the publisher; set once before use, like the next
	users func()               // User objects moved
}

type snapshot struct {
	catalog *intent.Catalog
	rev     uint64
}

func objectKey(k intent.Key) string { return store.ObjectKey(string(k.Kind), k.Scope, k.Name) }

func openObjects(ctx context.Context, s store.Store, sec *secrets.Secrets, audit *auditlog.Log, now func() time.Time) (*objects, error) {
	o := &objects{store: s, secrets: sec, audit: audit, now: now, reports: map[string]*siteReport{}}
	if err := o.load(ctx); err != nil {
		return nil, err
	}
	if err := o.loadReports(ctx); err != nil {
		return nil, err
	}
	return o, o.refresh(ctx)
}

// load reads the catalog. The caller holds the lock or is alone.
func (o *objects) load(ctx context.Context) error {
	at, err := o.stands(ctx) // first: objects that are newer than this make the next commit load again
	if err != nil {
		return err
	}
	c := intent.NewCatalog()
	err = o.store.Range(ctx, "object/", "", func(e store.Entry) error {
		obj := &intent.Object{}
		if err := obj.UnmarshalJSON(e.Value); err != nil {
			return fmt.Errorf("cannot read %s: %w", e.Key, err)
		}
		c.Put(obj)
		return nil
	})
	if err != nil {
		return err
	}
	o.catalog, o.at = c, at
	return nil
}

// stands returns the revision of the stored catalog.
func (o *objects) stands(ctx context.Context) (uint64, error) {
	e, err := o.store.Get(ctx, store.CatalogKey)
	if err != nil && !errors.Is(err, store.ErrAbsent) {
		return 0, err
	}
	return e.Rev, nil
}

// refresh makes the snapshot anew. The caller holds the lock or is alone.
func (o *objects) refresh(ctx context.Context) error {
	rev, err := o.store.Wait(ctx, 0)
	if err != nil {
		return err
	}
	c := o.catalog.Clone()
	for site, r := range o.reports {
		r.fill(c, site)
	}
	o.snap.Store(&snapshot{c, rev})
	return nil
}

// Snapshot returns the objects with the statuses that sites last reported.
func (o *objects) Snapshot() (*intent.Catalog, uint64) {
	s := o.snap.Load()
	return s.catalog, s.rev
}

// change is one object of a batch, worked out.
type change struct {
	old, obj *intent.Object // obj nil: deleted
	action   string
	secret   map[string]string
}

// tellUsers says that users moved, if one did; the snapshot has it already.
func (o *objects) tellUsers(changes []change) {
	user := func(x *intent.Object) bool { return x != nil && x.Kind == intent.KindUser }
	if slices.ContainsFunc(changes, func(c change) bool { return c.action != "unchanged" && (user(c.obj) || user(c.old)) }) {
		o.users()
	}
}

// Apply changes all or nothing; see api.Backend. extra is committed together with the objects.
func (o *objects) Apply(ctx context.Context, by api.Caller, b api.Batch, extra store.Commit) ([]api.Result, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.store.(store.Shared); ok { // what another coordinator answered a moment ago counts here too
		if _, err := o.catchUp(ctx); err != nil {
			return nil, storeError(err)
		}
	}
	for races := 0; ; races++ {
		res, err := o.apply(ctx, by, b, extra)
		if !errors.Is(err, store.ErrConflict) {
			return res, err
		}
		if moved, lerr := o.catchUp(ctx); lerr != nil {
			return nil, storeError(lerr)
		} else if !moved || races == maxRaces {
			return nil, api.ErrPrecondition
		}
	}
}

func (o *objects) apply(ctx context.Context, by api.Caller, b api.Batch, extra store.Commit) ([]api.Result, error) {
	next := o.catalog.Clone()
	var changes []change
	for _, k := range b.Delete {
		old := next.Get(k)
		if old == nil {
			return nil, api.ErrNotFound
		}
		if m, ok := b.IfMatch[k]; ok && m != "*" && m != api.ETag(old) {
			return nil, api.ErrPrecondition
		}
		next.Delete(k)
		changes = append(changes, change{old: old, action: "deleted"})
	}
	for _, p := range b.Put {
		c, err := o.prepare(ctx, next, p, b)
		if err != nil {
			return nil, err
		}
		next.Put(c.obj)
		changes = append(changes, c)
	}
	if ps := next.Check(); len(ps) > 0 {
		return nil, api.Invalid(ps)
	}
	results := results(changes)
	if b.DryRun {
		return results, nil
	}
	if err := o.notHeld(ctx, changes); err != nil {
		return nil, err
	}
	if err := o.commit(ctx, by, b, changes, next, extra); err != nil {
		return nil, err
	}
	o.catalog = next
	if err := o.refresh(ctx); err != nil {
		return nil, err
	}
	o.tellUsers(changes)
	if sites := o.touched(changes); len(sites) > 0 {
		o.dirty(sites)
	}
	return results, nil
}

// prepare gives a new version its identity, and keeps what a document may leave out: tokens and secret values.
func (o *objects) prepare(ctx context.Context, c *intent.Catalog, p *intent.Object, b api.Batch) (change, error) {
	obj := p.Clone()
	obj.Status = nil
	old := c.Get(obj.Key())
	anew := slices.Contains(b.Delete, obj.Key()) // compared when it was deleted, and another object since
	if m, ok := b.IfMatch[obj.Key()]; ok && !anew && (old == nil || (m != "*" && m != api.ETag(old))) {
		return change{}, api.ErrPrecondition
	}
	if b.IfNone[obj.Key()] && old != nil {
		return change{}, api.ErrPrecondition
	}
	ch := change{old: old, obj: obj}
	if s, ok := obj.Spec.(*intent.SecretSpec); ok {
		if obj.Metadata.Name == secrets.BootKey {
			return ch, api.Invalid([]intent.ObjectProblem{{Key: obj.Key(), Problem: intent.Problem{Path: "metadata.name", What: secrets.BootKey + " is the site's own", Fix: "choose another name"}}})
		}
		ch.secret, s.Data = s.Data, nil
		var err error
		if s.Ver, err = o.secrets.Version(ctx, obj.Metadata.Site, obj.Metadata.Name); err != nil {
			return ch, err
		}
		if len(ch.secret) > 0 {
			s.Ver++
		} else if old == nil {
			return ch, api.Invalid([]intent.ObjectProblem{{Key: obj.Key(), Problem: intent.Problem{Path: "spec.data", What: "a new secret has no value", Fix: "give spec.data"}}})
		}
	}
	if u, ok := obj.Spec.(*intent.UserSpec); ok && u.Tokens == nil && old != nil {
		u.Tokens = old.Spec.(*intent.UserSpec).Tokens
	}
	now := o.now().UTC().Truncate(time.Second)
	if old == nil {
		ch.action = "created"
		if obj.Metadata.UID == "" || c.ByUID(obj.Metadata.UID) != nil {
			obj.Metadata.UID = newUID()
		}
		obj.Metadata.Rev, obj.Metadata.Created, obj.Metadata.Origin = 1, &now, ""
		return ch, nil
	}
	obj.Metadata.UID, obj.Metadata.Created, obj.Metadata.Origin, obj.Metadata.Rev = old.Metadata.UID, old.Metadata.Created, "", old.Metadata.Rev
	if ch.action = "unchanged"; !sameContent(old, obj) {
		ch.action = "changed"
		obj.Metadata.Rev++
	}
	return ch, nil
}

// hasAsset tells whether an asset has the digest now: by the store, not only by what this process has heard.
func (o *objects) hasAsset(ctx context.Context, d intent.Digest) bool {
	if err := o.fresh(ctx); err != nil {
		return true // nobody knows
	}
	c, _ := o.Snapshot()
	return slices.ContainsFunc(c.List(intent.KindAsset), func(x *intent.Object) bool { return x.Spec.(*intent.AssetSpec).Digest == d })
}

func newUID() string {
	b := make([]byte, 12)
	rand.Read(b) // never fails: crypto/rand, Go 1.24
	return fmt.Sprintf("%x", b)
}

func sameContent(a, b *intent.Object) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

func results(changes []change) []api.Result {
	var out []api.Result
	for _, c := range changes {
		o := c.obj
		if o == nil {
			o = c.old
		}
		out = append(out, api.Result{Object: o.Key(), Action: c.action, UID: o.Metadata.UID, Rev: o.Metadata.Rev})
	}
	return out
}

func (o *objects) commit(ctx context.Context, by api.Caller, b api.Batch, changes []change, next *intent.Catalog, extra store.Commit) error {
	c := store.Commit{If: append(slices.Clone(extra.If), store.Guard{Key: store.CatalogKey, Rev: o.at}), Put: maps.Clone(extra.Put), Delete: slices.Clone(extra.Delete)}
	if c.Put == nil {
		c.Put = map[string][]byte{}
	}
	c.Put[store.CatalogKey] = nil
	for _, ch := range changes {
		if ch.obj == nil {
			c.Delete = append(c.Delete, objectKey(ch.old.Key()))
			if err := repository.Mark(c.Put, ch.old, next, o.now()); err != nil {
				return err
			}
			if ch.old.Kind == intent.KindSecret { // its version stays, see secrets.Version
				c.Delete = append(c.Delete, store.SecretKey(ch.old.Metadata.Site, ch.old.Metadata.Name))
			}
			continue
		}
		repository.Unmark(&c, ch.obj) // deletions come first in changes
		if ch.action == "unchanged" {
			continue
		}
		v, err := json.Marshal(ch.obj)
		if err != nil {
			return fmt.Errorf("cannot encode %s: %w", ch.obj.Key(), err)
		}
		c.Put[objectKey(ch.obj.Key())] = v
		if len(ch.secret) > 0 {
			plain, err := json.Marshal(ch.secret)
			if err != nil {
				return fmt.Errorf("cannot encode %s: %w", ch.obj.Key(), err)
			}
			if err := o.secrets.Put(c.Put, ch.obj.Metadata.Site, ch.obj.Metadata.Name, ch.obj.Spec.(*intent.SecretSpec).Ver, seal.NewSecret(plain)); err != nil {
				return err
			}
		}
	}
	c.Delete = slices.DeleteFunc(c.Delete, func(k string) bool { _, put := c.Put[k]; return put }) // deleted and made anew
	line := by.Audit("apply", "", b.Reason)
	line.Time, line.Did = o.now(), api.AuditDid(results(changes))
	rev, err := o.audit.Commit(ctx, line, c)
	if errors.Is(err, store.ErrConflict) {
		return err
	}
	if err != nil {
		return storeError(err)
	}
	o.at = rev
	return nil
}

// storeError names a full disk and a lost answer; the rest is ours.
func storeError(err error) error {
	if errors.Is(err, store.ErrUnknown) {
		return &api.Error{Status: http.StatusServiceUnavailable, Type: "outcome-unknown", Detail: "the store went away before it answered: look whether the change is there, then make it again"}
	}
	if errors.Is(err, state.ErrFull) {
		return api.ErrFull
	}
	return &api.Error{Status: http.StatusInternalServerError, Type: "internal", Detail: err.Error()}
}

// touched lists the sites whose chain may have to say something new.
func (o *objects) touched(changes []change) []string {
	sites := map[string]bool{}
	for _, ch := range changes {
		if ch.action == "unchanged" {
			continue
		}
		for _, x := range []*intent.Object{ch.old, ch.obj} {
			if x == nil {
				continue
			}
			if x.Metadata.Site == "" {
				return siteNames(o.catalog) // shared kinds go everywhere
			}
			sites[x.Metadata.Site] = true
		}
	}
	var out []string
	for s := range sites {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// sitesNow lists the sites of the snapshot.
func (o *objects) sitesNow() []string {
	c, _ := o.Snapshot()
	return siteNames(c)
}

func siteNames(c *intent.Catalog) []string {
	var out []string
	for _, s := range c.List(intent.KindSite) {
		out = append(out, s.Metadata.Name)
	}
	return out
}
