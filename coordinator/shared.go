package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
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
	_, seen := c.objects.Snapshot()
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

func (c *Coordinator) takeChanges(ctx context.Context, s store.Shared, since uint64) error {
	if err := c.objects.takeReports(ctx, s, since); err != nil {
		return err
	}
	for prefix, take := range map[string]func(site string){"trust/": c.rotation.Reload, "revocation/": c.revoker.reload, "roster/": c.rosterChanged, "head/": c.uplink.Notify} {
		err := s.Changes(ctx, prefix, since, func(e store.Entry) error {
			take(e.Key[len(prefix):])
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// takeReports takes catalog and reports.
func (o *objects) takeReports(ctx context.Context, s store.Shared, since uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.catchUp(ctx); err != nil {
		return err
	}
	err := s.Changes(ctx, "report/", since, func(e store.Entry) error {
		r := &siteReport{}
		if err := json.Unmarshal(e.Value, r); err != nil {
			return fmt.Errorf("cannot read %s: %w", e.Key, err)
		}
		o.reports[e.Key[len("report/"):]] = r
		return nil
	})
	if err != nil {
		return err
	}
	return o.refresh(ctx)
}
