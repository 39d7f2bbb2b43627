package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/document"
)

// Admit implements api.Backend: what a spare brings by itself, because it is alone. Whom it replaces must neither be connected,
// nor rest, nor be alive as the site says: a kit that got lost takes nobody's place. Errors: 409 then, 422 for what is no admission.
func (b *backend) Admit(ctx context.Context, site string, env *intent.Envelope) error {
	return b.admit(ctx, site, env, func(agent string) bool { return b.connected(site, agent) || b.objects.sees(site, agent) })
}

// admit makes a spare that took a place at its site an agent of the roster, and takes out the one that it replaced. Told again, it
// changes nothing.
func (b *backend) admit(ctx context.Context, site string, env *intent.Envelope, alive func(agent string) bool) error {
	roster, err := b.agents.Roster(ctx, site)
	if err != nil {
		return err
	}
	if roster == nil {
		return api.ErrNotFound
	}
	a, err := document.OpenAdmission(env, site, roster)
	if err != nil {
		return api.Refuse(err.Error())
	}
	c, _ := b.objects.Snapshot()
	old, _, ok := intent.Lookup[*intent.AgentSpec](c, intent.KindAgent, site, a.Spare)
	if !ok || !old.Spare {
		return nil // taken before, or revoked meanwhile
	}
	if alive(a.Replaces) {
		return &api.Error{Status: http.StatusConflict, Type: "alive", Detail: a.Replaces + " is connected, or was a moment ago; stop it, or revoke it, first"}
	}
	if err := b.agents.seat(ctx, a); err != nil {
		return fmt.Errorf("cannot admit %s/%s: %w", site, a.Spare, err)
	}
	return b.agents.Sync(ctx, site)
}

// seat makes a spare an agent and takes whom it replaced out, in one commit.
func (a *agents) seat(ctx context.Context, ad *intent.Admission) error {
	c, _ := a.objects.Snapshot()
	key := func(id string) intent.Key { return intent.Key{Kind: intent.KindAgent, Scope: ad.Site, Name: id} }
	obj := c.Get(key(ad.Spare)).Clone()
	spec := obj.Spec.(*intent.AgentSpec)
	spec.Spare, spec.Management, spec.Boot = false, ad.Addr[0], ad.Boot
	batch := batchOf(obj, fmt.Sprintf("spare %s took the place of %s at %s", ad.Spare, ad.Replaces, ad.Site))
	if c.Get(key(ad.Replaces)) != nil {
		batch.Delete = []intent.Key{key(ad.Replaces)}
	}
	_, err := a.objects.Apply(ctx, apiCaller("admission", ad.Spare), batch, store.Commit{})
	return err
}

// takeAdmission takes what an agent of the site brings over its session: the site has admitted the spare, which is enough.
func (c *Coordinator) takeAdmission(w http.ResponseWriter, r *http.Request) {
	peer := transport.PeerFrom(r.Context())
	var env intent.Envelope
	if !readUp(w, r, &env) {
		return
	}
	if err := c.backend.admit(r.Context(), peer.Site, &env, func(agent string) bool { return agent == peer.ID }); err != nil {
		c.cfg.Logger.Warn("admission refused", "site", peer.Site, "agent", peer.ID, "err", err)
		status := http.StatusServiceUnavailable
		var e *api.Error
		if errors.As(err, &e) {
			status = e.Status
			c.refused(r.Context(), peer.String(), "admission", err)
		}
		http.Error(w, err.Error(), status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"decision": "admitted"}) // a broken session is noticed by its owner
}
