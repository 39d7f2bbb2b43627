package coordinator

import (
	"context"
	"errors"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/trust"
)

// Several coordinators over one store: each keeps the catalog in front of it, and follows what the others write.

// catchUp loads the catalog again if somebody else changed it. The caller holds the lock.
func (o *objects) catchUp(ctx context.Context) (moved bool, err error) {
	at, err := o.stands(ctx)
	if err != nil || at == o.at {
		return false, err
	}
	was := o.catalog
	if err := o.load(ctx); err != nil {
		return false, err
	}
	changes := between(was, o.catalog)
	if sites := o.touched(changes); len(sites) > 0 {
		o.dirty(sites) // who wrote it publishes it, unless it died in between
	}
	if err := o.refresh(ctx); err != nil {
		return true, err
	}
	o.tellUsers(changes)
	return true, nil
}

// between lists what differs.
func between(was, is *intent.Catalog) []change {
	var out []change
	for _, o := range is.List("") {
		if old := was.Get(o.Key()); old == nil || old.Metadata.UID != o.Metadata.UID || old.Metadata.Rev != o.Metadata.Rev {
			out = append(out, change{old: old, obj: o})
		}
	}
	for _, o := range was.List("") {
		if is.Get(o.Key()) == nil {
			out = append(out, change{old: o})
		}
	}
	return out
}

// fresh makes the catalog at least as new as the store is now.
func (o *objects) fresh(ctx context.Context) error {
	if _, ok := o.store.(store.Shared); !ok {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err := o.catchUp(ctx)
	return err
}

// followRetry is how long a coordinator rests that could not read what moved.
const followRetry = time.Second

// follow brings what this process holds in memory up to what other coordinators wrote, until ctx ends.
func (c *Coordinator) follow(ctx context.Context) error {
	s, ok := c.store.(store.Shared)
	if !ok {
		<-ctx.Done()
		return nil
	}
	seen := c.opened
	for {
		rev, err := s.Wait(ctx, seen)
		if err == nil {
			err = c.takeChanges(ctx, s, seen)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			seen = rev
			continue
		}
		c.cfg.Logger.Warn("store not followed; what was read last is served", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followRetry):
		}
	}
}

// takeChanges takes what moved since a revision. What could not be read is an error: it is taken again.
// It keeps nothing else from being taken.
func (c *Coordinator) takeChanges(ctx context.Context, s store.Shared, since uint64) error {
	err := c.objects.takeReports(ctx, s, since)
	notify := func(_ context.Context, site string) error { c.uplink.Notify(site); return nil }
	for prefix, take := range map[string]func(ctx context.Context, site string) error{"trust/": c.rotation.Reload, "revocation/": c.revoker.reload, "roster/": c.takeRoster, "head/": notify} {
		cerr := s.Changes(ctx, prefix, since, func(e store.Entry) error {
			err = errors.Join(err, take(ctx, e.Key[len(prefix):]))
			return nil
		})
		err = errors.Join(err, cerr)
	}
	return err
}

// takeReports takes catalog and reports.
func (o *objects) takeReports(ctx context.Context, s store.Shared, since uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.catchUp(ctx); err != nil {
		return err
	}
	if err := s.Changes(ctx, "report/", since, o.keepReport); err != nil {
		return err
	}
	return o.refresh(ctx)
}

func (c *Coordinator) rosterChanged(site string) {
	if err := c.takeRoster(context.Background(), site); err != nil {
		c.cfg.Logger.Error("roster not read", "site", site, "err", err)
	}
}

func (c *Coordinator) takeRoster(ctx context.Context, site string) error {
	r, err := c.agents.Roster(ctx, site)
	if err != nil {
		return err
	}
	c.editView(func(v *trust.View) *trust.View { return v.WithRoster(site, r) })
	c.closeGone()
	return nil
}
