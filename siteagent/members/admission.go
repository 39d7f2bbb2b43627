package members

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// kindAdmission is the journal's kind of spares that took an agent's place; the key is SPARE/BEARER, so that whoever brings one
// first hides no other.
const kindAdmission = "admission"

// ErrAlive says that the agent which a spare wants to replace is seen alive.
var ErrAlive = errors.New("it is alive; stop it, or quarantine it first")

// Entered tells whether this agent's own admission is in its journal.
func (k *Keeper) Entered() bool { return Entered(k.Journal, k.Self) }

// Entered tells whether a journal holds the admission of its own agent.
func Entered(j *claim.Journal, self string) bool {
	_, ok := claim.Load[intent.Envelope](j, kindAdmission, self+"/"+self)
	return ok
}

// NewAdmission signs this agent's admission in the place of another one; Enter puts it into force here.
func (k *Keeper) NewAdmission(replaces string) (*intent.Envelope, error) {
	a := intent.Admission{Site: k.Site, Spare: k.Self, Replaces: replaces, Time: time.Now().UTC(), Addr: k.Addr, Boot: k.Boot}
	payload, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("cannot encode admission: %w", err)
	}
	return document.Sign(intent.PayloadAdmission, payload, k.Keys()[0].Sign)
}

// Enter journals this agent's own admission. The caller has made sure that whom it replaces does not answer.
func (k *Keeper) Enter(ctx context.Context, env *intent.Envelope) error { return k.admit(ctx, env) }

// Admit takes the admission that a spare brings. What it returned nil for is on disk and in force.
// Errors: document.ErrAdmission, ErrAlive, the journal's.
func (k *Keeper) Admit(ctx context.Context, env *intent.Envelope) error {
	a, err := k.openAdmission(env)
	if err != nil {
		return err
	}
	for _, m := range k.Alive() {
		if m.ID == a.Replaces && m.Alive {
			return fmt.Errorf("cannot admit %s in the place of %s: %w", a.Spare, a.Replaces, ErrAlive)
		}
	}
	return k.admit(ctx, env)
}

func (k *Keeper) admit(ctx context.Context, env *intent.Envelope) error {
	a, err := k.openAdmission(env)
	if err != nil {
		return err
	}
	if old, known := k.Replica.Decisions().Admitted[a.Spare]; known && old.Replaces == a.Replaces {
		return nil
	}
	err = k.Journal.Append(ctx, claim.Replicated,
		claim.Draft{Kind: kindAdmission, Key: a.Spare + "/" + k.Self, Body: env},
		k.Audit.Draft(intent.AuditRecord{
			Time: time.Now(), User: a.Spare, Via: "agent", Verb: "agent.admit", Object: "Agent " + k.Site + "/" + a.Spare, Result: intent.AuditDone,
			Reason: "in the place of " + a.Replaces,
		}),
		reconcile.Event("", "", intent.Epoch{}, "agent.admitted", a.Spare+" takes the place of "+a.Replaces, map[string]string{"spare": a.Spare, "replaces": a.Replaces}))
	if err != nil && !errors.Is(err, claim.ErrWaitingPeer) {
		return err
	}
	_, err = k.Obey()
	return err
}

// openAdmission verifies env and that it replaces an agent of the roster. One that was revoked, and left the roster, does not do: a
// kit that got lost would fit in at any time.
func (k *Keeper) openAdmission(env *intent.Envelope) (*intent.Admission, error) {
	roster := k.Replica.State().Signed
	a, err := document.OpenAdmission(env, k.Site, roster)
	if err != nil {
		return nil, err
	}
	if !lists(roster, a.Replaces) {
		return nil, fmt.Errorf("cannot admit %s in the place of %q, which is no agent of %s: %w", a.Spare, a.Replaces, k.Site, document.ErrAdmission)
	}
	return a, nil
}

// Admissions lists the admissions that the coordinator has not taken into its roster yet.
func (k *Keeper) Admissions() (out []*intent.Envelope) {
	roster, seen := k.Replica.State().Signed, map[string]bool{}
	for _, r := range k.Journal.View(kindAdmission) {
		env := &intent.Envelope{}
		if json.Unmarshal(r.Body, env) != nil {
			continue
		}
		a, err := k.openAdmission(env)
		if err != nil || seen[a.Spare] {
			continue
		}
		for _, m := range roster.Agents {
			if m.ID == a.Spare && m.State == intent.StateSpare {
				seen[a.Spare], out = true, append(out, env)
			}
		}
	}
	return out
}
