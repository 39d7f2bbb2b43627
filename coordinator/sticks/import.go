package sticks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/skerry-metal/skerry/coordinator/proposals"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/pki/document"
)

// ImportStick implements api.Documents: what a site brings up.
func (d *Desk) ImportStick(ctx context.Context, by api.Caller, site string, r io.Reader, dryRun bool) (*api.StickResult, error) {
	if roster, err := d.Roster(ctx, site); err != nil || roster == nil {
		return nil, orNotFound(err)
	}
	rd, err := stick.NewReader(r)
	if err != nil {
		return nil, invalid(err.Error())
	}
	switch h := rd.Header; {
	case h.Way != stick.Up:
		return nil, invalid("this stick goes down: take it to an agent of its site, `skerry --context SITE intent import`")
	case h.Site != site || h.Domain != d.Domain:
		return nil, invalid(fmt.Sprintf("this stick is of site %s of %s, asked was %s of %s", h.Site, h.Domain, site, d.Domain))
	}
	before, err := d.heads(ctx, site)
	if err != nil {
		return nil, err
	}
	t := &taking{Desk: d, site: site, dry: dryRun, res: &api.StickResult{
		Site: site, By: rd.Header.By, Made: rd.Header.Made, DryRun: dryRun, Before: before, Taken: map[string]int{}, Known: map[string]int{},
	}}
	if err := t.lines(ctx, rd); err != nil {
		return nil, err
	}
	if t.res.After, err = d.heads(ctx, site); err != nil || dryRun {
		return t.res, err
	}
	line := by.Audit("site.import", "Site "+site, fmt.Sprintf("stick of %s, made %s: %v taken, %d refused", t.res.By, t.res.Made.UTC().Format("2006-01-02 15:04"), t.res.Taken, len(t.res.Refused)))
	_, err = d.Audit.Commit(ctx, line, store.Commit{})
	return t.res, err
}

func invalid(detail string) error {
	return &api.Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: detail}
}

// taking is one stick on its way in.
type taking struct {
	*Desk
	site string
	dry  bool
	res  *api.StickResult
}

// lines takes one document after the other. Errors: ctx's.
func (t *taking) lines(ctx context.Context, rd *stick.Reader) error {
	for {
		l, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			t.res.Partial = err.Error()
			return ctx.Err()
		}
		kind, _ := l.Kind()
		fresh, err := t.one(ctx, l)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			t.res.Refuse(rd.Line, kind, err)
		case fresh:
			t.res.Taken[kind]++
		default:
			t.res.Known[kind]++
		}
	}
}

// errWay says that a document is on the wrong stick.
var errWay = errors.New("it goes down, and is not a coordinator's to take")

// one takes one document as if the agent's session had brought it; fresh is false for what was here.
func (t *taking) one(ctx context.Context, l *stick.Line) (fresh bool, err error) {
	switch {
	case l.Override != nil:
		return t.override(ctx, l.Override)
	case l.Admission != nil:
		return t.admission(ctx, l.Admission)
	case l.Quarantine != nil:
		return t.quarantine(ctx, l.Quarantine)
	case l.Audit != nil:
		return t.audit(ctx, *l.Audit)
	case l.Report != nil:
		return t.report(ctx, l.Report)
	case l.Events != nil:
		return t.events(ctx, l.Events)
	}
	return false, errWay
}

func (t *taking) audit(ctx context.Context, b intent.AuditBundle) (bool, error) {
	if t.dry {
		return true, t.Audit.Verify(ctx, t.site, b)
	}
	was, err := t.Audit.Places(ctx, t.site)
	if err != nil {
		return false, err
	}
	// Not as from its own agent: who carries a stick may have left out what lies between, and that must not close the chain.
	if err := t.Audit.Join(ctx, t.site, "stick of "+t.res.By, b); err != nil {
		return false, err
	}
	now, err := t.Audit.Places(ctx, t.site)
	return !slices.Equal(was, now), err
}

func (t *taking) override(ctx context.Context, env *intent.Envelope) (bool, error) {
	decision, err := t.Proposals.Preview(ctx, t.site, env)
	settled := decision == proposals.Settled
	if !t.dry && err == nil {
		decision, err = t.Proposals.Take(ctx, t.site, env) // also of one that was settled: we may have died before its ack
	}
	if err != nil {
		return false, err
	}
	if settled {
		decision = proposals.Settled
	}
	t.res.Notes = append(t.res.Notes, t.decided(env, decision))
	return !settled, nil
}

// decided says what becomes of an override, in words.
func (t *taking) decided(env *intent.Envelope, decision string) string {
	o := intent.Override{}
	if err := intent.DecodeStrict(env.Payload, &o); err != nil {
		return decision // it was decoded before
	}
	switch decision {
	case proposals.Conflict:
		return fmt.Sprintf("override %s of %s waits for a person: `skerry override list --site %s`", o.ID, o.Key, t.site)
	case proposals.Settled:
		return fmt.Sprintf("override %s of %s was settled before", o.ID, o.Key)
	}
	return fmt.Sprintf("override %s of %s: %s; its ack goes down with the next `skerry intent export %s`", o.ID, o.Key, decision, t.site)
}

// signer verifies that an agent of the site's roster signed env.
func (t *taking) signer(ctx context.Context, env *intent.Envelope, payloadType string) (string, *intent.RosterBody, error) {
	roster, err := t.Roster(ctx, t.site)
	if err != nil || roster == nil {
		return "", nil, orNotFound(err)
	}
	id, err := document.SignedByAgent(env, payloadType, roster)
	if err == nil && t.Revocations.Has(intent.RevokeAgent, t.site+"/"+id) {
		err = fmt.Errorf("agent %s was revoked: %w", id, document.ErrSigner)
	}
	return id, roster, err
}

func (t *taking) admission(ctx context.Context, env *intent.Envelope) (bool, error) {
	_, roster, err := t.signer(ctx, env, intent.PayloadAdmission)
	if err != nil {
		return false, err
	}
	a, err := document.OpenAdmission(env, t.site, roster)
	if err != nil {
		return false, err
	}
	for _, r := range roster.Agents {
		if r.ID == a.Spare && r.State != intent.StateSpare {
			return false, nil // taken before
		}
	}
	if !t.dry {
		if err := t.Admit(ctx, t.site, env); err != nil {
			return false, err
		}
	}
	t.res.Notes = append(t.res.Notes, fmt.Sprintf("spare %s took the place of %s; make a new kit", a.Spare, a.Replaces))
	return true, nil
}

// quarantine is told to a person: cutting an agent off for good is a revocation, and his to decide.
func (t *taking) quarantine(ctx context.Context, env *intent.Envelope) (bool, error) {
	_, roster, err := t.signer(ctx, env, intent.PayloadQuarantine)
	if err != nil {
		return false, err
	}
	q, err := document.OpenQuarantine(env, t.site, roster)
	if err != nil {
		return false, err
	}
	if q.On {
		t.res.Notes = append(t.res.Notes, fmt.Sprintf("%s was cut off at the site by %s at %s (%s): `skerry agent revoke %s/%s` makes it final", q.Target.Agent, q.By, q.Agent, q.Reason, t.site, q.Target.Agent))
	}
	return true, nil
}

// report keeps how the site was when the stick was written.
func (t *taking) report(ctx context.Context, env *intent.Envelope) (bool, error) {
	id, _, err := t.signer(ctx, env, stick.PayloadReport)
	if err != nil {
		return false, err
	}
	r := intent.Report{}
	if err := intent.DecodeStrict(env.Payload, &r); err != nil {
		return false, err
	}
	if r.Site != t.site || r.Agent != id {
		return false, fmt.Errorf("a report of %s/%s signed by %s: %w", r.Site, r.Agent, id, document.ErrOtherSite)
	}
	at, now := r.Time.UTC(), t.Now().UTC()
	if at.After(now) { // its clock is wrong
		at = now
	}
	if c, ok := t.Reports(t.site).Contacts[id]; ok && !c.At.Before(at) {
		return false, nil
	}
	if !t.dry {
		err = t.Report(ctx, t.site, r, at)
	}
	return err == nil, err
}

// events keeps the newest events: the site cannot be asked for them.
func (t *taking) events(ctx context.Context, env *intent.Envelope) (bool, error) {
	id, _, err := t.signer(ctx, env, stick.PayloadEvents)
	if err != nil {
		return false, err
	}
	b := stick.Events{}
	if err := intent.DecodeStrict(env.Payload, &b); err != nil {
		return false, err
	}
	if b.Site != t.site || b.Agent != id {
		return false, fmt.Errorf("events of %s/%s signed by %s: %w", b.Site, b.Agent, id, document.ErrOtherSite)
	}
	return t.keepEvents(ctx, b.Events)
}
