package siteagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/storage/blob"
)

// assetRetry is how long a fetch rests after nobody could bring an asset.
const assetRetry = 5 * time.Second

// assets keeps the boot assets and images of the active intent on this agent.
type assets struct {
	w     *effective.Site
	blobs *blob.Store
	swarm *swarm.Swarm
	log   *slog.Logger
}

// newSwarm brings assets to this agent, from peers and the coordinator, and to its peers.
func (a *Agent) newSwarm() *swarm.Swarm {
	return swarm.New(swarm.Config{
		Self: a.id.Agent, Store: a.blobs, Log: a.cfg.Logger, Who: func(r *http.Request) string { return transport.PeerFrom(r.Context()).ID },
		Peers: func() (out []swarm.Source) {
			// Each agent has its own order, so that not all ask the same one.
			for _, p := range claim.Rendezvous(a.id.Agent, a.mesh.Live()) {
				out = append(out, swarm.Source{Name: p, Tier: swarm.TierPeer, RT: a.end.RoundTripper(transport.Peer{Site: a.id.Site, ID: p})})
			}
			return out
		},
		Origin: func() (swarm.Source, bool) {
			return swarm.Source{Name: "coordinator", Tier: swarm.TierOrigin, RT: a.uplink.RoundTripper()}, a.uplink.Status().Up
		},
	})
}

// wanted lists the assets of the active intent: boot first, so that machines can be inspected while images come.
func (a *assets) wanted() []*intent.AssetSpec {
	var boot, image []*intent.AssetSpec
	c := a.w.Now().Overlay.Catalog
	for _, o := range c.List(intent.KindAsset) {
		switch s := o.Spec.(*intent.AssetSpec); s.Class {
		case "boot":
			boot = append(boot, s)
		case "image":
			image = append(image, s)
		}
	}
	return append(boot, image...)
}

// pins lists what the active intent wants.
func (a *assets) pins() (out []intent.Digest) {
	for _, s := range a.wanted() {
		out = append(out, s.Digest)
	}
	return out
}

// Missing says why a machine cannot be booted or installed yet; "" = everything is here. b is nil for an inspection.
func (a *assets) Missing(b *reconcile.Binding) string {
	c := a.w.Now().Overlay.Catalog
	site := a.w.Spec()
	if site == nil || site.Installer == nil {
		return "the site names no installer: set spec.installer of the Site"
	}
	for _, name := range []string{site.Installer.Kernel, site.Installer.Ramdisk} {
		if d := effective.AssetDigest(c, name); d.IsZero() || !a.complete(d) {
			return "waits for asset " + name
		}
	}
	if b == nil || b.Released {
		return ""
	}
	img, _, ok := intent.Lookup[*intent.ImageSpec](c, intent.KindImage, "", b.Image)
	if !ok {
		return "image " + b.Image + " is not known"
	}
	if d := effective.AssetDigest(c, img.Asset); d.IsZero() || !a.complete(d) {
		return "waits for asset " + img.Asset
	}
	return ""
}

func (a *assets) complete(d intent.Digest) bool {
	_, complete, err := a.blobs.Have(d)
	return err == nil && complete
}

// Run fetches what is wanted until ctx ends.
func (a *assets) Run(ctx context.Context) error {
	for {
		st := a.w.State()
		pins := a.pins()
		a.blobs.SetPins(pins)
		a.swarm.Forget(func(d intent.Digest) bool { return slices.Contains(pins, d) })
		failed := false
		for _, s := range a.wanted() {
			if a.complete(s.Digest) {
				continue
			}
			if err := a.fetch(ctx, s); err != nil && ctx.Err() == nil {
				failed = true
				a.log.Warn("asset not here yet", "asset", s.Digest.Short(), "err", err)
			}
		}
		var again <-chan time.Time
		if failed {
			again = time.After(assetRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-st.Wake:
		case <-again:
		}
	}
}

// fetch completes one asset, unless the intent stops to want it.
func (a *assets) fetch(ctx context.Context, s *intent.AssetSpec) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for {
			moved := a.w.State().Wake // asked for first: what changes from here on wakes
			if !slices.Contains(a.pins(), s.Digest) {
				break
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return
			}
		}
		cancel()
	})
	start := time.Now()
	from, err := a.swarm.Fetch(ctx, s.Digest, s.Manifest, nil)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // nobody wants it any more
	case err != nil:
		return err
	}
	a.note(ctx, s, time.Since(start), from)
	return nil
}

// note journals where an asset came from.
func (a *assets) note(ctx context.Context, s *intent.AssetSpec, took time.Duration, from map[string]int64) {
	fields := map[string]string{"digest": s.Digest.String(), "seconds": fmt.Sprintf("%.1f", took.Seconds())}
	for src, n := range from {
		fields["source."+src] = fmt.Sprint(n)
	}
	err := a.w.Journal.Append(ctx, claim.Local, reconcile.Event("", "", intent.Epoch{}, "asset.complete", fmt.Sprintf("%s %s, %d MiB", s.Class, s.Digest.Short(), s.Size>>20), fields))
	if err != nil && !errors.Is(err, context.Canceled) {
		a.log.Warn("event not journaled", "err", err)
	}
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
