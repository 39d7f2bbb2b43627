package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Rotate implements api.Keys.
func (r *Rotation) Rotate(ctx context.Context, by api.Caller, q api.RotateRequest) (*api.RotationStatus, error) {
	switch q.What {
	case api.RotateAgent:
		return r.rotateAgents(ctx, by, q)
	default: // ca, writer, root: made by trust documents
		return r.Domain.Rotate(ctx, by, q)
	}
}

// Rotations implements api.Keys.
func (r *Rotation) Rotations(ctx context.Context) (*api.RotationList, error) {
	s, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	out := &api.RotationList{Items: []api.RotationStatus{}}
	for _, rec := range s.records {
		if rec.open() {
			out.Items = append(out.Items, *r.statusOf(s, rec.who(), []*record{rec}))
		}
	}
	items, err := r.Domain.Rotations(ctx)
	if err != nil {
		return nil, err
	}
	out.Items = append(out.Items, items...)
	if st := r.certificates(s); st.Phase != api.PhaseDone {
		out.Items = append(out.Items, *st)
	}
	return out, nil
}

// rotateAgents begins the rotation of one agent's keys or of those of all agents of a site, or says how far it is.
func (r *Rotation) rotateAgents(ctx context.Context, by api.Caller, q api.RotateRequest) (*api.RotationStatus, error) {
	if q.All == (q.Agent != "") || q.Site == "" {
		return nil, api.Refuse("name a site and one agent of it, or all of them")
	}
	s, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	target := q.Site
	if !q.All {
		target += "/" + q.Agent
	}
	var ids []string
	if roster := s.rosters[q.Site]; roster != nil {
		for _, a := range roster.Agents { // by rank
			if a.State == intent.StateAgent && (q.All || a.ID == q.Agent) {
				ids = append(ids, a.ID)
			}
		}
	}
	if len(ids) == 0 {
		return nil, api.ErrNotFound
	}
	var recs []*record
	for _, id := range ids {
		rec, err := r.record(ctx, q.Site, id)
		if err != nil {
			return nil, err
		}
		if begins := rec.Phase == "" || q.Again && !rec.open(); begins && q.DryRun {
			rec.enter(api.PhaseAccept, r.Now())
			rec.Begun = rec.Since
		} else if begins || rec.open() && q.ForceAfterSeconds > 0 && !q.DryRun {
			line := by.Audit("rotate", "Agent "+rec.who(), "")
			if rec, err = r.begin(ctx, q.Site, id, by.User, time.Duration(q.ForceAfterSeconds)*time.Second, &line); err != nil {
				return nil, conflicted(err)
			}
		}
		recs = append(recs, rec)
	}
	if s.records, err = r.ledger(ctx, ledgerPrefix); err != nil {
		return nil, err
	}
	st := r.statusOf(s, target, recs)
	switch {
	case q.DryRun && st.Phase != api.PhaseDone:
		st.Next = "nothing was changed; without --dry-run each agent makes new keys, one after the other"
	case st.Phase == api.PhaseDone:
		st.Next = "the last rotation is done; --again begins a new one"
	}
	return st, nil
}

func conflicted(err error) error {
	if errors.Is(err, store.ErrConflict) {
		return &api.Error{Status: 409, Type: "conflict", Detail: "another coordinator was faster; repeat the command"}
	}
	return err
}

// statusOf says how far rotations are: of one agent, or of several as one.
func (r *Rotation) statusOf(s *scene, target string, recs []*record) *api.RotationStatus {
	st := &api.RotationStatus{What: api.RotateAgent, Target: target, Phase: api.PhaseDone, Trust: r.Trust.Head(), Steps: []api.RotationStep{}, Ledger: []api.RotationRow{}}
	accept, use, retire := api.RotationStep{Phase: api.PhaseAccept}, api.RotationStep{Phase: api.PhaseUse}, api.RotationStep{Phase: api.PhaseRetire}
	for _, rec := range recs {
		if st.Started.IsZero() || rec.Begun.Before(st.Started) {
			st.Started = rec.Begun
		}
		if order(rec.Phase) < order(st.Phase) {
			st.Phase = rec.Phase
		}
		st.Ledger = append(st.Ledger, api.RotationRow{Agent: rec.who(), Phase: rec.Phase, Since: rec.Since, Held: s.heldBy(rec, r.Now())})
		heard := func(step *api.RotationStep, p place) {
			if len(recs) > 1 {
				step.Of++
				step.Have += min(int(p.Seq), 1)
				return
			}
			for _, a := range s.rosters[rec.Site].Agents {
				if a.State != intent.StateAgent {
					continue
				}
				step.Of++
				if p.Seq > 0 && s.has(rec.Site, a.ID, p) {
					step.Have++
				}
			}
			if p.Generation > 0 {
				step.Text = fmt.Sprintf("roster %d", p.Generation)
			}
		}
		heard(&accept, rec.Listed)
		heard(&retire, rec.Retired)
		use.Of++
		if order(rec.Phase) > order(api.PhaseUse) {
			use.Have++
		}
		if !rec.Key.IsZero() && len(recs) == 1 {
			use.Text = "key " + rec.Key.Short()
		}
	}
	st.Steps = append(st.Steps, accept)
	if order(st.Phase) >= order(api.PhaseUse) || use.Have > 0 {
		st.Steps = append(st.Steps, use)
	}
	if order(st.Phase) >= order(api.PhaseRetire) || retire.Have > 0 {
		st.Steps = append(st.Steps, retire)
	}
	if st.Waits() {
		st.Next = "it goes on by itself when they are back; this command shows how far it is"
	}
	return st
}

// order is the place of a phase.
func order(phase string) int {
	return slices.Index([]string{"", api.PhaseAccept, api.PhaseUse, api.PhaseRetire, api.PhaseDone}, phase)
}

// heldBy says who is waited for; empty while the rotation moves, or is done.
func (s *scene) heldBy(rec *record, now time.Time) string {
	_, up := s.up[rec.who()]
	switch {
	case !rec.open():
		return ""
	case rec.Phase == api.PhaseRetire && !rec.Out:
		var who []string
		for _, id := range s.waited(rec, now) {
			if at, ever := s.contact(rec.Site, id); ever {
				who = append(who, fmt.Sprintf("%s/%s, heard %s ago", rec.Site, id, ago(now.Sub(at))))
			} else {
				who = append(who, fmt.Sprintf("%s/%s, never heard", rec.Site, id))
			}
		}
		if len(who) == 0 {
			return ""
		}
		return "waits for " + strings.Join(who, "; ") + "; --force-after AGE retires without"
	case !up:
		if at, ever := s.contact(rec.Site, rec.Agent); ever {
			return "offline, heard " + ago(now.Sub(at)) + " ago"
		}
		return "offline, never heard"
	case rec.Phase == api.PhaseAccept && !rec.Ordered:
		if o := s.inWayOf(rec, now); o != nil {
			return "after " + o.who()
		}
	}
	return ""
}

func ago(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// certificates says how many agents have a certificate under the CA of this coordinator, which the trust document says is to be
// used, and how many speak with it. Done while it is not to be used, and when all do.
func (r *Rotation) certificates(s *scene) *api.RotationStatus {
	st := &api.RotationStatus{What: api.RotateCA, Phase: api.PhaseDone, Trust: r.Trust.Head(), Ledger: []api.RotationRow{}}
	listed, used := api.RotationStep{Phase: api.PhaseAccept, Text: "certificates in rosters"}, api.RotationStep{Phase: api.PhaseUse, Text: "agents that show them"}
	ca := intent.DigestOf(r.CA().RawSubjectPublicKeyInfo)
	for site, roster := range s.rosters {
		for _, a := range roster.Agents {
			if a.State != intent.StateAgent {
				continue
			}
			listed.Of++
			used.Of++
			x, up := s.up[site+"/"+a.ID]
			has := certified(a, r.CA())
			if has {
				listed.Have++
			}
			if up && x.CA == ca {
				used.Have++
				continue
			}
			row := api.RotationRow{Agent: site + "/" + a.ID, Phase: api.PhaseAccept, Since: r.Now().UTC()}
			if has {
				row.Phase = api.PhaseUse
			}
			if !up {
				row.Held = "offline"
				if at, ever := s.contact(site, a.ID); ever {
					row.Held, row.Since = "offline, heard "+ago(r.Now().Sub(at))+" ago", at
				}
			}
			if has && !up { // nobody knows what it would show; it shows what the roster says when it is back
				continue
			}
			st.Ledger = append(st.Ledger, row)
		}
	}
	slices.SortFunc(st.Ledger, func(x, y api.RotationRow) int { return strings.Compare(x.Agent, y.Agent) })
	st.Steps = []api.RotationStep{listed, used}
	if r.uses() && len(st.Ledger) > 0 {
		st.Phase = st.Ledger[0].Phase
		for _, row := range st.Ledger {
			if order(row.Phase) < order(st.Phase) {
				st.Phase = row.Phase
			}
		}
	}
	return st
}

// Lacks says of each agent that does not show a certificate under the CA of this coordinator what it lacks. One that is away and has
// its certificate in the roster lacks nothing: it takes it when it is back.
func (r *Rotation) Lacks(ctx context.Context) (map[string]string, error) {
	s, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, row := range r.certificates(s).Ledger {
		if out[row.Agent] = "it has no certificate under the new CA"; row.Phase == api.PhaseUse {
			out[row.Agent] = "it shows the certificate of before"
		}
	}
	return out, nil
}
