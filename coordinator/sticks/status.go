package sticks

import (
	"context"

	"github.com/skerry-metal/skerry/coordinator/rotation"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
)

// IntentStatus implements api.Documents: for every agent of a roster what it said last, by report, session or stick.
func (d *Desk) IntentStatus(ctx context.Context, site string) (*api.IntentStatus, error) {
	keys, err := d.Keys(ctx)
	if err != nil {
		return nil, err
	}
	up := map[string]uplink.SessionInfo{}
	for _, x := range d.Sessions() {
		up[x.Site+"/"+x.Agent] = x
	}
	out := &api.IntentStatus{At: keys.At, By: d.ID, Sites: []api.SiteDocument{}}
	for _, sk := range keys.Sites {
		if site != "" && sk.Site != site {
			continue
		}
		s := api.SiteDocument{Site: sk.Site, Agents: []api.AgentDocument{}}
		if s.Heads, err = d.heads(ctx, sk.Site); err != nil {
			return nil, err
		}
		held, err := d.Held(ctx, sk.Site)
		if err != nil {
			return nil, err
		}
		if held != "" {
			s.Out = held
		}
		heard := d.Reports(sk.Site)
		for _, a := range sk.Agents {
			if a.State == intent.StateAgent {
				s.Agents = append(s.Agents, d.agent(s, a, heard.Contacts[a.ID], up))
			}
		}
		out.Sites = append(out.Sites, s)
	}
	if site != "" && len(out.Sites) == 0 {
		return nil, api.ErrNotFound
	}
	return out, nil
}

// agent is one row: the newer of what the agent reported and what its session says.
func (d *Desk) agent(s api.SiteDocument, a api.AgentKeys, said rotation.Contact, up map[string]uplink.SessionInfo) api.AgentDocument {
	head, forks := said.Head, a.Forks
	if said.Keys != nil {
		forks += said.Keys.IntentForks
	}
	if x, live := up[s.Site+"/"+a.ID]; live && x.Applied.Intent.Compare(head) > 0 {
		head = x.Applied.Intent
	}
	row := api.AgentDocument{ID: a.ID, Contact: a.Contact, Rejected: said.Rejected, Forks: forks, Heads: api.StreamHeads{
		Trust: intent.Head{Seq: a.Trust}, Revocation: intent.Head{Epoch: s.Heads.Revocation.Epoch, Seq: a.Revocation}, Intent: head, Active: head,
	}}
	row.Advise(s.Site, s.Heads)
	return row
}
