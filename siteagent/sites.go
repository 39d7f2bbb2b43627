package siteagent

import (
	"cmp"
	"context"
	"slices"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/siteagent/intake"
)

// gatewaysOf is how many agents of a site, by rank, gossip with other sites.
const gatewaysOf = 2

// gateway is an agent's name in the pool of sites.
func gateway(p transport.Peer) string { return p.ID + "." + p.Site }

// reached lists the agents of the sites that this one reaches, by site, each in the order of rank.
func (a *Agent) reached() map[string][]*intent.Object {
	s := a.site.Spec()
	if s == nil || len(s.Peers) == 0 {
		return nil
	}
	out := map[string][]*intent.Object{}
	for _, o := range a.site.Now().Overlay.Catalog.List(intent.KindAgent) {
		if at := o.Metadata.Site; at != a.id.Site && slices.Contains(s.Peers, at) {
			out[at] = append(out[at], o)
		}
	}
	for _, agents := range out {
		slices.SortStableFunc(agents, func(x, y *intent.Object) int {
			return cmp.Compare(x.Spec.(*intent.AgentSpec).Rank, y.Spec.(*intent.AgentSpec).Rank)
		})
	}
	return out
}

// otherSites names them.
func (a *Agent) otherSites() map[string][]string {
	out := map[string][]string{}
	for site, agents := range a.reached() {
		for _, o := range agents {
			out[site] = append(out[site], o.Metadata.Name)
		}
	}
	return out
}

// gateways lists who is in the pool of sites: the two agents of the lowest ranks of this site and of each that it reaches. To an agent
// that is none of them it is a pool of its own.
func (a *Agent) gateways() []gossip.Node {
	roster := slices.Clone(a.replica.Neighbours().Agents)
	slices.SortStableFunc(roster, func(x, y intent.RosterAgent) int { return cmp.Compare(x.Rank, y.Rank) })
	own := gossip.Roster(a.id.Site, &intent.RosterBody{Agents: roster})
	is := func(n gossip.Node) bool { return n.Peer.ID == a.id.Agent }
	var out []gossip.Node
	if first := own[:min(len(own), gatewaysOf)]; slices.ContainsFunc(first, is) {
		out = slices.Clone(first)
		for site, agents := range a.reached() {
			for _, o := range agents[:min(len(agents), gatewaysOf)] {
				out = append(out, gossip.Node{Peer: transport.Peer{Site: site, ID: o.Metadata.Name}, Addr: []string{o.Spec.(*intent.AgentSpec).Management}})
			}
		}
	} else if i := slices.IndexFunc(own, is); i >= 0 {
		out = own[i : i+1]
	}
	for i := range out {
		out[i].ID = gateway(out[i].Peer)
	}
	return out
}

// followSites takes what gateways of other sites have of the streams that are of the whole domain: who may speak, and who no more.
func (a *Agent) followSites(ctx context.Context, from *intake.Peers) {
	for _, m := range a.sites.Members() {
		if m.Alive && m.Peer.Site != a.id.Site {
			m.Tags.Intent = gossip.Hint{} // each site has its own
			from.Follow(ctx, m.ID, a.end.RoundTripper(m.Peer), m.Tags)
		}
	}
}

// heardSites says how it stands with the gateways of other sites, at an agent that is one itself.
func (a *Agent) heardSites() (out []api.Gateway) {
	for _, m := range a.sites.Members() {
		if m.Peer.Site == a.id.Site {
			continue
		}
		g := api.Gateway{Site: m.Peer.Site, Agent: m.Peer.ID, Alive: "unknown", Since: m.Since}
		if !m.Since.IsZero() {
			g.Alive = map[bool]string{true: "yes", false: "no"}[m.Alive]
		}
		out = append(out, g)
	}
	return out
}

// setHead tells all pools where a stream is.
func (a *Agent) setHead(stream string, h intent.Head) {
	a.gossip.SetHead(stream, h)
	if stream == intent.StreamIntent {
		return
	}
	a.sites.SetHead(stream, h)
	if stream == intent.StreamTrust {
		forks := func(t *gossip.Tags) { t.Evidence = a.replica.TrustEvidence() }
		a.gossip.SetTags(forks)
		a.sites.SetTags(forks)
	}
}
