package coordinator

import (
	"context"
	"errors"
	"slices"

	"github.com/skerry-metal/skerry/coordinator/recovery"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
)

func (c *Coordinator) newRecovery() *recovery.Recovery {
	return &recovery.Recovery{
		Store: c.store, Writers: func() []intent.Writer { return c.trust.Body().Writers }, Without: c.cfg.Without, Log: c.cfg.Logger, Lock: c.lockSite,
		Audit: func(ctx context.Context, what string) {
			r := intent.AuditRecord{User: c.id, Via: "recovery", Verb: "recover", Result: intent.AuditDone, Reason: what}
			if _, err := c.audit.Commit(ctx, r, store.Commit{}); err != nil {
				c.cfg.Logger.Error("recovery not kept in the audit log", "err", err)
			}
		},
		Reload: c.reload,
		Release: func(site string) {
			c.markDirty(c.objects.sitesNow())
			c.uplink.Notify(site)
		},
	}
}

// reload reads the catalog again, and who may speak.
func (c *Coordinator) reload(ctx context.Context) error {
	c.objects.mu.Lock()
	err := c.objects.load(ctx)
	if err == nil {
		err = c.objects.refresh(ctx)
	}
	c.objects.mu.Unlock()
	return errors.Join(err, c.loadView(ctx))
}

// heard hooks the sessions: each is asked in a goroutine of its own, which ends with the session.
func (c *Coordinator) heard(ctx context.Context, site, agent string, heads uplink.Heads) {
	c.hearing.Go(func() {
		c.rotation.Hear(ctx, site, agent, heads.Trust) // before what the writers signed
		c.revoker.hear(ctx, site, agent, heads.Revocation)
		c.recovery.Hear(ctx, site, agent, heads.Intent)
		c.rotation.Moved()
	})
}

// notHeld refuses a change that a held site would be told: what is known of its objects may be old.
func (o *objects) notHeld(ctx context.Context, changes []change) error {
	held, err := recovery.Held(ctx, o.store)
	if err != nil || len(held) == 0 {
		return err
	}
	for _, s := range o.touched(changes) {
		if slices.Contains(held, s) {
			return api.Refuse("site " + s + " is held: this coordinator is an older copy, and has not heard from all of its agents yet; `skerry site status " + s + "` names them")
		}
	}
	return nil
}
