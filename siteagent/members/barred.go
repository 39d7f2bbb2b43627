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

// An agent that was cut off has no session any more by which its peers' journals would come. It asks them as one that was away does
// (siteagent/catchup), and is told the newest order about it, and nothing else.

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

// Told takes an order about this agent that somebody else gave it. It counts as one from the journal does, if who signed it counts
// here: a box that this agent cut off cuts nobody off any more. Errors: document's of an order that is none, the journal's.
func (k *Keeper) Told(ctx context.Context, env *intent.Envelope) error {
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
