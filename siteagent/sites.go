package siteagent

import (
	"context"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/abroad"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/intake"
)

// around is who else there is beyond the site, worked out anew when intent or roster moved: it is asked for with each packet.
type around struct {
	mu       sync.Mutex // guards what follows
	intent   *effective.Intent
	roster   *intent.RosterBody
	others   map[string][]string // agents of the sites that may be asked for assets
	gateways []gossip.Node
}

func (a *Agent) abroadNow() (others map[string][]string, gateways []gossip.Node) {
	now, roster := a.site.Now(), a.replica.Neighbours()
	a.beyond.mu.Lock()
	defer a.beyond.mu.Unlock()
	if b := &a.beyond; b.intent != now || b.roster != roster {
		reached := abroad.Reached(a.id.Site, a.site.Spec(), now.Overlay.Catalog)
		b.intent, b.roster, b.others, b.gateways = now, roster, abroad.Askable(a.site.Spec(), reached), abroad.Gateways(a.id.Site, a.id.Agent, roster, reached)
	}
	return a.beyond.others, a.beyond.gateways
}

// otherSites names the agents of other sites that may be asked for assets.
func (a *Agent) otherSites() map[string][]string {
	others, _ := a.abroadNow()
	return others
}

// gateways lists who is in the pool of sites.
func (a *Agent) gateways() []gossip.Node {
	_, gateways := a.abroadNow()
	return gateways
}

// followSites takes what gateways of other sites have of the streams that are of the whole domain: who may speak, and who no more. They
// are asked by a loop of their own, at most once in sitesEvery: no other site holds up what the agents of this one have to say.
func (a *Agent) followSites(ctx context.Context) error {
	from := intake.Peers{Desk: a.desk}
	for {
		for _, m := range a.sites.Members() {
			if m.Alive && m.Peer.Site != a.id.Site {
				m.Tags.Intent = gossip.Hint{} // each site has its own
				from.Follow(ctx, m.ID, a.end.RoundTripper(m.Peer), m.Tags)
			}
		}
		if !sleep(ctx, sitesEvery) {
			return nil
		}
		t := time.NewTimer(peerPull)
		select {
		case <-a.sites.Events():
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// sitesEvery is how often gateways of other sites are asked at most.
const sitesEvery = 5 * time.Second

// heardSites says how it stands with the gateways of other sites, at an agent that is one itself.
func (a *Agent) heardSites() []api.Gateway { return abroad.Heard(a.id.Site, a.sites.Members()) }

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
