package siteagent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// begin reads the stick that a spare brings, before it takes its place: with no peer there it would stand without any intent. Read
// again after a crash, it changes nothing. What is refused stops the spare: somebody gave it a wrong file.
func (a *Agent) begin(ctx context.Context) error {
	if replaces, err := a.place(); a.cfg.Import == "" || replaces == "" || err != nil {
		return err
	}
	f, err := os.Open(a.cfg.Import)
	if err != nil {
		return fmt.Errorf("cannot read stick: %w", err)
	}
	defer f.Close()
	res, err := a.sticks.Take(ctx, f, false)
	if err == nil && len(res.Refused) > 0 {
		err = errors.New(res.Refused[0].Why)
	}
	if err != nil {
		return fmt.Errorf("cannot begin with stick %s: %w", a.cfg.Import, err)
	}
	if res.Partial != "" {
		a.cfg.Logger.Warn("the stick was not read to its end; what verified counts", "why", res.Partial)
	}
	a.cfg.Logger.Info("stick taken", "by", res.By, "made", res.Made, "intent", res.After.Active.Seq, "trust", res.After.Trust.Seq)
	return nil
}

// wireSticks says what of this agent goes onto a stick.
func (a *Agent) wireSticks() {
	a.sticks.Report = func() intent.Report { return a.backend.report(a.life) }
	a.sticks.Overrides = func() (out []*intent.Envelope) {
		for _, rec := range a.over.pending() {
			out = append(out, &rec.Envelope)
		}
		return out
	}
	a.sticks.Admissions, a.sticks.Orders, a.sticks.Audit = a.members.Admissions, a.members.Orders, a.audit.Export
	a.sticks.Note = func(ctx context.Context, r intent.AuditRecord) error {
		return a.journal.Append(ctx, claim.Local, a.audit.Draft(r))
	}
	a.sticks.Floor, a.sticks.Members, a.sticks.Uplink = a.floor, a.gossip.Members, func() uplink.Status { return a.uplink.Status() }
	a.sticks.Beacon = a.fresh.Word
	a.sticks.Above = func() (h api.StreamHeads) {
		if last := a.above.Load(); last != nil {
			h.Trust, h.Revocation, h.Intent = last.Trust, last.Revocation, last.Intent
		}
		return h
	}
}
