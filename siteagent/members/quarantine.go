package members

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// Config is what a Keeper works with.
type Config struct {
	Domain, Site, Self string
	Replica            *replica.Replica
	Journal            *claim.Journal
	Keys               func() []*seal.Keys // that this agent holds, those in use first
	// Alive lists the agents that this one sees, itself among them.
	Alive      func() []claim.Member
	Recovering func() bool
	// Close ends the sessions of who may not speak any more, and returns how many.
	Close func() int
	// Addr and Boot are where this agent is reached; an admission says so.
	Addr, Boot []string
	Audit      *auditlog.Log
	Log        *slog.Logger
}

// Keeper keeps the site's own decisions about its agents. Safe for concurrent use.
type Keeper struct {
	Config
	keys    bootKeys
	obeying sync.Mutex // who obeys an order ends the sessions, and counts them
}

// New returns a keeper; Obey puts into force what the journal holds already.
func New(cfg Config) *Keeper { return &Keeper{Config: cfg} }

// kindQuarantine is the journal's kind of quarantine orders; the key is TARGET/N/SIGNER, so that none replaces another.
const kindQuarantine = "quarantine"

// Quarantine makes one signed act that cuts an agent off at its site, or lets it back. It works with nobody above.
// Errors: api.ErrNotFound for an agent that the signed roster does not list.
func (k *Keeper) Quarantine(ctx context.Context, by api.Caller, agent string, r api.QuarantineRequest) (*api.QuarantineResult, error) {
	st := k.Replica.State()
	if !lists(st.Signed, agent) {
		return nil, api.ErrNotFound
	}
	if agent == k.Self {
		return nil, api.Refuse("an agent neither quarantines itself nor lifts its own quarantine; ask another one of the site")
	}
	d := k.Replica.Decisions()
	have := d.Quarantined[agent]
	if have.On == r.On {
		return k.result(agent, have, 0), nil // it is so already
	}
	order := replica.Order{N: have.N + 1, On: r.On, By: k.Self}
	if r.DryRun {
		d.Quarantined[agent] = order
		res := k.result(agent, order, 0)
		res.Agents, res.Generation = ids(replica.Effective(k.Site, k.Self, st.Signed, k.Replica.Revocations(), d))
		return res, nil
	}
	q := intent.Quarantine{
		Site: k.Site, Agent: k.Self, Time: time.Now().UTC(), Target: intent.QuarantineTarget{Agent: agent}, N: order.N, On: r.On, By: by.User, Reason: r.Reason,
	}
	payload, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("cannot encode quarantine: %w", err)
	}
	env, err := document.Sign(intent.PayloadQuarantine, payload, k.Keys()[0].Sign)
	if err != nil {
		return nil, err
	}
	kind, what := "agent.quarantined", agent+" is cut off: "
	if !r.On {
		kind, what = "agent.released", agent+" is let back: "
	}
	closed, err := k.order(ctx, claim.Draft{Kind: kindQuarantine, Key: fmt.Sprintf("%s/%d/%s", agent, q.N, k.Self), Body: env},
		k.Audit.Draft(by.Audit(kind, "Agent "+k.Site+"/"+agent, r.Reason)))
	if err != nil {
		return nil, err
	}
	// Only now are peers waited for: the order is in force here, and it may be the peer that was cut off that does not answer.
	err = k.Journal.Append(ctx, claim.Replicated,
		reconcile.Event("", "", intent.Epoch{}, kind, what+r.Reason, map[string]string{"by": by.User, "via": by.Via, "n": fmt.Sprint(q.N)}))
	if err != nil && !errors.Is(err, claim.ErrWaitingPeer) {
		return nil, err
	}
	return k.result(agent, order, closed), nil
}

// Double cuts off an agent whose identity speaks from two boxes: nobody can tell which of them is the right one.
func (k *Keeper) Double(ctx context.Context, agent string) {
	k.Log.Error("two boxes are one agent; both are cut off until an operator decides", "agent", agent)
	by := api.Caller{Via: "agent:" + k.Self}
	_, err := k.Quarantine(context.WithoutCancel(ctx), by, agent, api.QuarantineRequest{
		On: true, Reason: "two boxes speak as " + agent + ": turn one off, then lift this, or revoke the agent",
	})
	if err != nil {
		k.Log.Error("double not cut off", "agent", agent, "err", err)
	}
}

// CloseGone ends the sessions of who may not speak any more; what an order ends is left to who obeys it, and counts.
func (k *Keeper) CloseGone() {
	k.obeying.Lock()
	defer k.obeying.Unlock()
	k.Close()
}

// order journals one order and puts it into force, before Run does.
func (k *Keeper) order(ctx context.Context, drafts ...claim.Draft) (closed int, err error) {
	k.obeying.Lock()
	defer k.obeying.Unlock()
	if err := k.Journal.Append(ctx, claim.Local, drafts...); err != nil {
		return 0, err
	}
	return k.obey()
}

func (k *Keeper) result(agent string, o replica.Order, closed int) *api.QuarantineResult {
	res := &api.QuarantineResult{Agent: k.Site + "/" + agent, On: o.On, N: o.N, Closed: closed}
	res.Agents, res.Generation = ids(k.Replica.State().Roster)
	return res
}

func ids(r *intent.RosterBody) ([]string, uint64) {
	out := []string{}
	for _, a := range r.Agents {
		out = append(out, a.ID)
	}
	return out, r.Generation
}

func lists(r *intent.RosterBody, agent string) bool {
	return slices.ContainsFunc(r.Agents, func(a intent.RosterAgent) bool { return a.ID == agent })
}

// Obey puts the journal's orders and admissions into force and ends the sessions of whom they cut off; it returns how many. An
// order counts when an agent of the signed roster signed it, an admission when its spare did, whoever brought them; nobody
// quarantines or lets back himself.
func (k *Keeper) Obey() (closed int, err error) {
	k.obeying.Lock()
	defer k.obeying.Unlock()
	return k.obey()
}

func (k *Keeper) obey() (closed int, err error) {
	d := replica.Decisions{}.Clone()
	roster := k.Replica.State().Signed
	for _, r := range k.Journal.View(kindQuarantine) {
		var env intent.Envelope
		if json.Unmarshal(r.Body, &env) != nil {
			continue // not ours, or of a later version: it changes nothing
		}
		q, err := document.OpenQuarantine(&env, k.Site, roster)
		if err != nil {
			k.Log.Debug("quarantine order is not obeyed", "from", r.Agent, "err", err)
			continue
		}
		if o := (replica.Order{N: q.N, On: q.On, By: q.Agent}); o.Outranks(d.Quarantined[q.Target.Agent]) {
			d.Quarantined[q.Target.Agent] = o
		}
	}
	for _, r := range k.Journal.View(kindAdmission) {
		var env intent.Envelope
		if json.Unmarshal(r.Body, &env) != nil {
			continue // as above
		}
		if a, err := k.openAdmission(&env); err == nil {
			d.Admitted[a.Spare] = replica.Admission{Replaces: a.Replaces, Addr: a.Addr, Boot: a.Boot}
		} else {
			k.Log.Debug("admission does not count", "from", r.Agent, "err", err)
		}
	}
	changed, err := k.Replica.Obey(d)
	if !changed || err != nil {
		return 0, err
	}
	return k.Close(), nil
}

// Orders lists the quarantine orders of the journal that an agent of the roster signed.
func (k *Keeper) Orders() (out []*intent.Envelope) {
	roster := k.Replica.State().Signed
	for _, r := range k.Journal.View(kindQuarantine) {
		env := &intent.Envelope{}
		if json.Unmarshal(r.Body, env) != nil {
			continue
		}
		if _, err := document.OpenQuarantine(env, k.Site, roster); err == nil {
			out = append(out, env)
		}
	}
	return out
}

// Run puts orders and admissions into force as they come into the journal, and makes the boot key that they ask for.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		_, journaled := k.Journal.Rev()
		moved := k.Replica.State().Wake
		if _, err := k.Obey(); err != nil {
			k.Log.Error("quarantine not kept", "err", err)
		}
		if err := k.renewBootKey(ctx); err != nil && ctx.Err() == nil {
			k.Log.Warn("boot key not renewed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-journaled:
		case <-moved:
		}
	}
}
