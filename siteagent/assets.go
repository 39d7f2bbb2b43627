package siteagent

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/origin"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/siteagent/abroad"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/holdings"
	"github.com/skerry-metal/skerry/siteagent/origins"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/wan"
)

// wireAssets makes what brings assets to this agent and to its peers, and what decides which it keeps.
func (a *Agent) wireAssets() {
	peer := func(id string) http.RoundTripper {
		return a.end.RoundTripper(transport.Peer{Site: a.id.Site, ID: id})
	}
	a.line = wan.Open(wan.Config{
		DB: a.db, Log: a.cfg.Logger, Clock: func() (time.Time, bool) { now, ok := a.floor.Now(); return now.Local(), ok },
		Spec: func() *intent.WANSpec {
			if s := a.site.Spec(); s != nil {
				return s.WAN
			}
			return nil
		},
		Share: func() int { return len(a.mesh.Live()) + 1 }, RTT: func() (time.Duration, bool) { return a.uplink.RTT() },
	})
	a.abroad = abroad.New(abroad.Config{
		Sites: a.otherSites, To: a.end.Bulk, Holders: func(d intent.Digest) []string { return a.assets.Holders(d) },
		Assets: swarm.NewHandler(a.blobs, a.cfg.Logger), Out: a.line.Out, Log: a.cfg.Logger,
	})
	a.mesh.Abroad = a.abroad.Handler()
	a.origins = origins.New(origins.Config{
		Self: a.id.Agent, Log: a.cfg.Logger, Policy: a.urlPolicy(), Now: func() time.Time { now, _ := a.floor.Now(); return now },
		When:   a.line.URLs,
		Ranked: func(host string) []string { return claim.Rendezvous(host, append(a.mesh.Live(), a.id.Agent)) },
	})
	a.swarm = swarm.New(swarm.Config{
		URLs: a.origins.Sources, Sites: a.abroad.Sources, Self: a.id.Agent, Store: a.blobs, Budget: a.line, Log: a.cfg.Logger, Who: func(r *http.Request) string { return transport.PeerFrom(r.Context()).ID },
		Peers: func() (out []swarm.Source) {
			// Each agent has its own order, so that not all ask the same one.
			for _, p := range claim.Rendezvous(a.id.Agent, a.mesh.Live()) {
				out = append(out, swarm.Source{Name: p, Tier: swarm.TierPeer, RT: peer(p), Bulk: a.end.Bulk(transport.Peer{Site: a.id.Site, ID: p})})
			}
			return out
		},
		Origin: func() (swarm.Source, bool) {
			return swarm.Source{Name: "coordinator", Tier: swarm.TierOrigin, RT: a.uplink.RoundTripper()}, a.uplink.Status().Up
		},
	})
	a.assets = holdings.New(holdings.Config{
		Self: a.id.Agent, Blobs: a.blobs, Intent: func() holdings.Intent { return holdings.IntentOf(a.replica, a.id.Site, a.site.Uses()) }, Peers: holdings.Remote(peer),
		Members: func() []claim.Member { _, m := a.mesh.Members(); return m }, WAN: func() []string {
			up := a.uplink.Status().Up
			return slices.DeleteFunc(a.mesh.Hearing(), func(id string) bool { return id == a.id.Agent && !up })
		},
		Fetch: func(ctx context.Context, s *intent.AssetSpec, urgent bool) (map[string]int64, error) {
			class := swarm.Wanted
			if urgent {
				class = swarm.Live
			}
			defer a.origins.Offer(s)()
			return a.swarm.Fetch(ctx, s.Digest, s.Manifest, class, nil)
		},
		Learn:  func(ctx context.Context, s *intent.AssetSpec) error { return a.swarm.Learn(ctx, s.Digest, s.Manifest) },
		Reader: func(d intent.Digest) holdings.Reader { return a.swarm.Reader(d) },
		Urgent: a.urgent, Came: a.swarm.Came, URLs: a.origins.States,
		Forget: a.swarm.Forget, Sure: func() bool { return len(a.db.Holds()) == 0 && !a.db.Recovering() },
		Event: func(kind, message string, fields map[string]string) error {
			return a.journal.Append(context.Background(), claim.Local, reconcile.Event("", "", intent.Epoch{}, kind, message, fields))
		},
		Log: a.cfg.Logger,
	})
	a.mesh.Assets = a.assets.Handler(a.swarm.Handler())
	a.site.Assets = a.missing
}

// urlPolicy says which addresses an asset's URL may lead this agent to.
func (a *Agent) urlPolicy() origin.Policy {
	p := origin.Policy{Allow: a.cfg.URLAllow, Managed: func() []netip.Prefix { return origin.Managed(a.site.Now().Overlay.Catalog) }}
	if _, host := a.cfg.Network.(transport.Host); !host {
		p.Dial = a.cfg.Network.DialContext
	}
	return p
}

// urgent tells whether a machine waits for an asset: without those of class boot none is inspected or installed.
func (a *Agent) urgent(s *intent.AssetSpec) bool {
	if s.Class == "boot" {
		return true
	}
	for _, b := range reconcile.Bindings(a.journal) {
		if b.Digest == s.Digest && !b.Released {
			if st, ok := claim.Load[intent.MachineStatus](a.journal, reconcile.KindMachine, b.Machine); !ok || st.State != intent.StateRunning {
				return true
			}
		}
	}
	return false
}

// missing says why a machine cannot be booted or installed yet; "" = everything is here. b is nil for an inspection.
func (a *Agent) missing(b *reconcile.Binding) string {
	c := a.site.Now().Overlay.Catalog
	site := a.site.Spec()
	if site == nil || site.Installer == nil {
		return "the site names no installer: set spec.installer of the Site"
	}
	names := []string{site.Installer.Kernel, site.Installer.Ramdisk}
	if b != nil && !b.Released {
		img, _, ok := intent.Lookup[*intent.ImageSpec](c, intent.KindImage, "", b.Image)
		if !ok {
			return "image " + b.Image + " is not known"
		}
		names = append(names, img.Asset)
	}
	for _, name := range names {
		s, _, ok := intent.Lookup[*intent.AssetSpec](c, intent.KindAsset, "", name)
		if !ok {
			return "waits for asset " + name
		}
		if err := a.assets.Missing(s); errors.Is(err, holdings.ErrOvercommitted) {
			return "waits for asset " + name + ": " + err.Error()
		} else if err != nil {
			return "waits for asset " + name
		}
	}
	return ""
}
