package abroad

import (
	"cmp"
	"slices"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
)

// gatewaysOf is how many agents of a site, by rank, gossip with other sites.
const gatewaysOf = 2

// Gateway is an agent's name in the pool of sites.
func Gateway(p transport.Peer) string { return p.ID + "." + p.Site }

// Reached lists the agents of the sites that a site reaches, by site, each in the order of rank. spec may be nil.
func Reached(site string, spec *intent.SiteSpec, c *intent.Catalog) map[string][]*intent.Object {
	if spec == nil || len(spec.Peers) == 0 {
		return nil
	}
	out := map[string][]*intent.Object{}
	for _, o := range c.List(intent.KindAgent) {
		if at := o.Metadata.Site; at != site && slices.Contains(spec.Peers, at) {
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

// Askable are the ids of the agents that Reached returned, by site, that may be asked for assets: none over a metered line. spec may be nil.
func Askable(spec *intent.SiteSpec, reached map[string][]*intent.Object) map[string][]string {
	if spec != nil && spec.WAN != nil && spec.WAN.Metered {
		return nil
	}
	out := map[string][]string{}
	for site, agents := range reached {
		for _, o := range agents {
			out[site] = append(out[site], o.Metadata.Name)
		}
	}
	return out
}

// Gateways lists who is in the pool of sites, as agent self of a site sees it: the two agents of the lowest ranks of its roster and of
// each site that is reached. To an agent that is none of them it is a pool of its own.
func Gateways(site, self string, roster *intent.RosterBody, reached map[string][]*intent.Object) []gossip.Node {
	agents := slices.Clone(roster.Agents)
	slices.SortStableFunc(agents, func(x, y intent.RosterAgent) int { return cmp.Compare(x.Rank, y.Rank) })
	own := gossip.Roster(site, &intent.RosterBody{Agents: agents})
	is := func(n gossip.Node) bool { return n.Peer.ID == self }
	var out []gossip.Node
	if first := own[:min(len(own), gatewaysOf)]; slices.ContainsFunc(first, is) {
		out = slices.Clone(first)
		for at, there := range reached {
			for _, o := range there[:min(len(there), gatewaysOf)] {
				out = append(out, gossip.Node{Peer: transport.Peer{Site: at, ID: o.Metadata.Name}, Addr: []string{o.Spec.(*intent.AgentSpec).Management}})
			}
		}
	} else if i := slices.IndexFunc(own, is); i >= 0 {
		out = slices.Clone(own[i : i+1])
	}
	for i := range out {
		out[i].ID = Gateway(out[i].Peer)
	}
	return out
}

// Heard says how it stands with the members of the pool that are of other sites.
func Heard(site string, members []gossip.Member) (out []api.Gateway) {
	for _, m := range members {
		if m.Peer.Site == site {
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
