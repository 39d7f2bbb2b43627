package sticks

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/proposals"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/rotation"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/stick"
	"github.com/skerry-metal/skerry/mesh/uplink"
)

// Desk is the coordinator's. All fields are set before use.
type Desk struct {
	ID, Domain  string
	Store       store.Store
	Trust       *publish.Trust
	Revocations *publish.Revocations
	Pub         *publish.Publisher
	Audit       *auditlog.Log
	Proposals   *proposals.Desk
	Roster      func(ctx context.Context, site string) (*intent.RosterBody, error) // nil: a site without agents
	Admit       func(ctx context.Context, site string, env *intent.Envelope) error
	// Report keeps how a site said it is, as of a time.
	Report func(ctx context.Context, site string, r intent.Report, at time.Time) error
	// Keys, Reports, Sessions and Held are what IntentStatus shows.
	Keys     func(ctx context.Context) (*api.KeyStatus, error)
	Reports  func(site string) rotation.Heard
	Sessions func() []uplink.SessionInfo
	Held     func(ctx context.Context, site string) (string, error) // why nothing is published there
	Now      func() time.Time
}

// ExportStick implements api.Documents: trust and revocations from the first, intent from q.From on. Secrets are sealed in it, as
// in the chain.
func (d *Desk) ExportStick(ctx context.Context, w io.Writer, q api.StickQuery) error {
	if r, err := d.Roster(ctx, q.Site); err != nil || r == nil {
		return orNotFound(err)
	}
	out, err := stick.NewWriter(w, stick.Header{Way: stick.Down, Domain: d.Domain, Site: q.Site, By: d.ID, Made: d.Now().UTC().Truncate(time.Second), From: q.From})
	if err != nil {
		return err
	}
	for _, env := range d.Trust.From(1) {
		if err := out.Put(&stick.Line{Trust: env}); err != nil {
			return err
		}
	}
	err = d.Revocations.Feed(ctx, 1, func(env *intent.Envelope) error { return out.Put(&stick.Line{Revocation: env}) })
	if err != nil {
		return err
	}
	err = d.Pub.Feed(ctx, q.Site, q.From, func(env *intent.Envelope) error { return out.Put(&stick.Line{Intent: env}) })
	if err != nil {
		return err
	}
	return out.End()
}

func orNotFound(err error) error {
	if err == nil {
		return api.ErrNotFound
	}
	return err
}

// heads are those that a site would be told now.
func (d *Desk) heads(ctx context.Context, site string) (api.StreamHeads, error) {
	head, _, err := d.Pub.Head(ctx, site)
	if err != nil {
		return api.StreamHeads{}, fmt.Errorf("cannot read head of %s: %w", site, err)
	}
	return api.StreamHeads{Trust: d.Trust.Head(), Revocation: d.Revocations.Head(), Intent: head, Active: head}, nil
}

var _ api.Documents = (*Desk)(nil)
