package sticks

import (
	"context"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// IntentStatus implements api.Documents: how far the signed streams are at the agents of this site, as this one sees it.
func (d *Desk) IntentStatus(_ context.Context, site string) (*api.IntentStatus, error) {
	if site != "" && site != d.Site {
		return nil, api.ErrNotFound
	}
	now, _ := d.Floor.Now()
	s := api.SiteDocument{Site: d.Site, Heads: d.Above(), Beacon: d.Beacon(), Agents: []api.AgentDocument{}}
	up := d.Uplink()
	if !up.Heard.IsZero() {
		at := up.Heard.UTC()
		s.Heard = &at
	}
	if !up.Up {
		s.Out = "no coordinator is heard: carry `skerry site export " + d.Site + "` up and `skerry intent export " + d.Site + "` down"
	}
	st := d.In.Replica.State()
	for _, r := range st.Roster.Agents {
		a := api.AgentDocument{ID: r.ID}
		if r.ID == d.Self {
			a.Contact, a.Rejected, a.Heads = &now, st.Rejected, d.heads()
			for _, forks := range []func() ([]*intent.Envelope, error){d.In.Replica.TrustForks, d.In.Replica.IntentForks} {
				if envs, err := forks(); err == nil { // else the bucket is on hold, which is told elsewhere
					a.Forks += len(envs)
				}
			}
		} else {
			d.seen(&a, now)
		}
		a.Advise(d.Site, s.Heads)
		s.Agents = append(s.Agents, a)
	}
	return &api.IntentStatus{At: now, By: d.Site + "/" + d.Self, Sites: []api.SiteDocument{s}}, nil
}

// seen fills in what gossip says of a peer: its active head, and the heads of the other streams.
func (d *Desk) seen(a *api.AgentDocument, now time.Time) {
	for _, m := range d.Members() {
		if m.ID != a.ID || m.Since.IsZero() {
			continue
		}
		at := m.Since.UTC() // since when it is silent
		if m.Alive {
			at = now
		}
		a.Contact = &at
		active := intent.Head{Epoch: m.Tags.Intent.Epoch, Seq: m.Tags.Intent.Seq}
		a.Heads = api.StreamHeads{
			Trust: intent.Head{Seq: m.Tags.Trust.Seq}, Revocation: intent.Head{Epoch: m.Tags.Revocation.Epoch, Seq: m.Tags.Revocation.Seq},
			Intent: active, Active: active,
		}
	}
}
