package siteagent

import (
	"context"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/abroad"
	"github.com/skerry-metal/skerry/siteagent/intake"
)

// otherSites names the agents of the sites that this one reaches.
func (a *Agent) otherSites() map[string][]string {
	return abroad.Names(abroad.Reached(a.id.Site, a.site.Spec(), a.site.Now().Overlay.Catalog))
}

// gateways lists who is in the pool of sites.
func (a *Agent) gateways() []gossip.Node {
	return abroad.Gateways(a.id.Site, a.id.Agent, a.replica.Neighbours(), abroad.Reached(a.id.Site, a.site.Spec(), a.site.Now().Overlay.Catalog))
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
