package siteagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/storage/blob"
)

const (
	// assetRetry is how long a fetch rests after no source had it.
	assetRetry = 5 * time.Second
	// originGrace is how long a peer that will hold an asset may take to begin, before this agent asks the coordinator too.
	originGrace = 3 * time.Second
)

// assets keeps the boot assets and images of the active intent on this agent: from a peer where one has them, else from the
// coordinator.
type assets struct {
	w      *effective.Site
	self   string
	blobs  *blob.Store
	live   func() []string
	peer   func(agent string) http.RoundTripper
	origin func() (http.RoundTripper, bool)
	log    *slog.Logger

	mu      sync.Mutex                         // guards what follows
	sources map[intent.Digest]map[string]int64 // octets by tier:name
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
		a.blobs.SetPins(a.pins())
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

// fetch asks peers first. The agent that comes first in the asset's order asks the coordinator at once, the others wait a
// little for it: the WAN carries an asset once per site.
func (a *assets) fetch(ctx context.Context, s *intent.AssetSpec) error {
	var sources []swarm.Source
	for _, p := range a.live() {
		sources = append(sources, swarm.Source{Name: p, Tier: swarm.TierPeer, RT: a.peer(p)})
	}
	order := claim.Rendezvous(s.Digest.Hex(), append(a.live(), a.self))
	origin, up := a.origin()
	if up && order[0] == a.self {
		sources = append([]swarm.Source{{Name: "coordinator", Tier: swarm.TierOrigin, RT: origin}}, sources...)
	} else if up {
		if len(sources) > 0 && !sleep(ctx, originGrace) {
			return ctx.Err()
		}
		sources = append(sources, swarm.Source{Name: "coordinator", Tier: swarm.TierOrigin, RT: origin})
	}
	start := time.Now()
	err := swarm.Fetch(ctx, a.blobs, s.Digest, s.Manifest, sources, func(src swarm.Source, octets, _, _ int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.sources[s.Digest] == nil {
			a.sources[s.Digest] = map[string]int64{}
		}
		a.sources[s.Digest][src.Tier+":"+src.Name] += int64(octets)
	})
	if err != nil {
		return err
	}
	a.note(ctx, s, time.Since(start))
	return nil
}

// note journals where an asset came from.
func (a *assets) note(ctx context.Context, s *intent.AssetSpec, took time.Duration) {
	a.mu.Lock()
	fields := map[string]string{"digest": s.Digest.String(), "seconds": fmt.Sprintf("%.1f", took.Seconds())}
	for src, n := range a.sources[s.Digest] {
		fields["source."+src] = fmt.Sprint(n)
	}
	a.mu.Unlock()
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
