package effective

import (
	"sync"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// uses is what the site uses of assets, by name and by digest. It is worked out anew when intent or journal moved.
type uses struct {
	mu      sync.Mutex // guards what follows
	revs    [2]uint64
	names   map[string]bool
	digests map[intent.Digest]bool
}

// Uses returns what tells of an asset whether something at the site uses it: the installer, the image of an instance array, also of one
// that a user made here, or a machine that has it on its disk.
func (w *Site) Uses() func(name string, s *intent.AssetSpec) bool {
	u := &w.uses
	u.mu.Lock()
	defer u.mu.Unlock()
	jrev, _ := w.Journal.Rev()
	revs := [2]uint64{w.Rev(), jrev} // before what they number is read: that may be newer
	if u.names == nil || u.revs != revs {
		u.revs = revs
		u.names, u.digests = usesOf(w.Spec(), w.Now().Overlay.Catalog, reconcile.Bindings(w.Journal))
	}
	names, digests := u.names, u.digests
	return func(name string, s *intent.AssetSpec) bool { return names[name] || digests[s.Digest] }
}

// usesOf returns the names and digests of assets that are used. site may be nil.
func usesOf(site *intent.SiteSpec, c *intent.Catalog, bindings map[string]reconcile.Binding) (names map[string]bool, digests map[intent.Digest]bool) {
	names, digests = map[string]bool{}, map[intent.Digest]bool{}
	image := func(name string) {
		if img, _, ok := intent.Lookup[*intent.ImageSpec](c, intent.KindImage, "", name); ok {
			names[img.Asset] = true
		}
	}
	if site != nil && site.Installer != nil {
		names[site.Installer.Kernel], names[site.Installer.Ramdisk] = true, true
	}
	for _, o := range c.List(intent.KindInstanceArray) {
		image(o.Spec.(*intent.InstanceArraySpec).Image)
	}
	for _, b := range bindings {
		if !b.Released {
			digests[b.Digest] = true
			image(b.Image) // what is not installed yet is installed with the asset that its image names now
		}
	}
	return names, digests
}
