package members

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// An agent that was cut off, or whose place a spare took, has no session any more by which its peers' journals would come. It asks them
// as one that was away does (siteagent/catchup), and is told the newest order about it, or that admission, and nothing else.

// About returns the newest order about an agent, and its number; nil and 0: there was none.
func (k *Keeper) About(agent string) (*intent.Envelope, uint64) {
	env, q := k.about(agent)
	if q == nil {
		return nil, 0
	}
	return env, q.N
}

func (k *Keeper) about(agent string) (best *intent.Envelope, newest *intent.Quarantine) {
	var stands replica.Order
	roster := k.Replica.State().Signed
	for _, r := range k.Journal.View(kindQuarantine) {
		env := &intent.Envelope{}
		if json.Unmarshal(r.Body, env) != nil {
			continue // not ours, or of a later version
		}
		q, err := document.OpenQuarantine(env, k.Site, roster)
		if err != nil || q.Target.Agent != agent {
			continue
		}
		if o := (replica.Order{N: q.N, On: q.On}); o.Outranks(stands) {
			best, newest, stands = env, q, o
		}
	}
	return best, newest
}

// Replacing returns the admission of the spare that has an agent's place, and its name; nil and "": none has.
func (k *Keeper) Replacing(agent string) (*intent.Envelope, string) {
	members := k.Replica.Roster()
	for _, r := range k.Journal.View(kindAdmission) {
		env := &intent.Envelope{}
		if json.Unmarshal(r.Body, env) != nil {
			continue // as above
		}
		if a, err := k.openAdmission(env); err == nil && a.Replaces == agent && lists(members, a.Spare) {
			return env, a.Spare
		}
	}
	return nil, ""
}

// Told takes an order about this agent, or the admission of a spare in its place, that somebody else gave it. Errors: document's of what
// is neither, the journal's.
func (k *Keeper) Told(ctx context.Context, env *intent.Envelope) error {
	if env.PayloadType == intent.PayloadAdmission {
		return k.replaced(ctx, env)
	}
	return k.ordered(ctx, env)
}

func (k *Keeper) replaced(ctx context.Context, env *intent.Envelope) error {
	a, err := k.openAdmission(env)
	if err != nil {
		return err
	}
	if a.Replaces != k.Self {
		return fmt.Errorf("cannot make way for %s, which replaces %q: %w", a.Spare, a.Replaces, document.ErrAdmission)
	}
	if _, known := k.Replica.Decisions().Admitted[a.Spare]; known {
		return nil
	}
	text := a.Spare + " took the place of " + k.Self + ", which was told so"
	k.Log.WarnContext(ctx, text)
	_, err = k.order(ctx, claim.Draft{Kind: kindAdmission, Key: a.Spare + "/" + k.Self, Body: env},
		reconcile.Event("", "", intent.Epoch{}, "agent.replaced", text, map[string]string{"spare": a.Spare, "replaces": k.Self}))
	return err
}

// ordered takes an order about this agent. It counts as one from the journal does, if who signed it counts
// here: a box that this agent cut off cuts nobody off any more.
func (k *Keeper) ordered(ctx context.Context, env *intent.Envelope) error {
	st := k.Replica.State()
	q, err := document.OpenQuarantine(env, k.Site, st.Signed)
	if err != nil {
		return err
	}
	o := replica.Order{N: q.N, On: q.On, By: q.Agent}
	switch {
	case q.Target.Agent != k.Self:
		return fmt.Errorf("cannot obey quarantine %d of %q: it is not about %s", q.N, q.Target.Agent, k.Self)
	case !lists(st.Roster, q.Agent):
		return fmt.Errorf("cannot obey quarantine %d by %s: %s does not count here: %w", q.N, q.Agent, q.Agent, document.ErrSigner)
	case !o.Outranks(k.Replica.Decisions().Quarantined[k.Self]):
		return nil
	}
	kind, text := "agent.quarantined", k.Self+" was told that it is cut off"
	if !q.On {
		kind, text = "agent.released", k.Self+" was told that it is let back"
	}
	k.Log.WarnContext(ctx, text, "by", q.By, "at", q.Agent, "n", q.N, "reason", q.Reason)
	_, err = k.order(ctx, claim.Draft{Kind: kindQuarantine, Key: fmt.Sprintf("%s/%d/%s", k.Self, q.N, q.Agent), Body: env},
		reconcile.Event("", "", intent.Epoch{}, kind, text+": "+q.Reason, map[string]string{"by": q.By, "via": "agent:" + q.Agent, "n": fmt.Sprint(q.N)}))
	return err
}

// Barred says of each agent of the signed roster that does not count, as this agent has it, why. Spares that wait are left out.
func (k *Keeper) Barred() map[string]string {
	st, d := k.Replica.State(), k.Replica.Decisions()
	out, by := map[string]string{}, map[string]string{}
	for spare, a := range d.Admitted {
		by[a.Replaces] = spare
	}
	for _, a := range st.Signed.Agents {
		_, admitted := d.Admitted[a.ID]
		switch {
		case lists(st.Roster, a.ID) || a.State == intent.StateSpare && !admitted:
		case k.Replica.Revoked(intent.RevokeAgent, k.Site+"/"+a.ID):
			out[a.ID] = "revoked"
		case d.Quarantined[a.ID].On:
			out[a.ID] = fmt.Sprintf("in quarantine, order %d", d.Quarantined[a.ID].N)
			if _, q := k.about(a.ID); q != nil && q.On {
				out[a.ID] += fmt.Sprintf(" by %s at %s: %s", q.By, q.Agent, q.Reason)
			}
		case by[a.ID] != "":
			out[a.ID] = "replaced by " + by[a.ID]
		default:
			out[a.ID] = "its key is revoked"
		}
	}
	return out
}
