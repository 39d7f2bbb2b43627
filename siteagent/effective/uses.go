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
	revs := [2]uint64{w.State().Rev, jrev} // before what they number is read: that may be newer
	if u.names == nil || u.revs != revs {
		c, site := w.Now().Overlay.Catalog, w.Spec()
		u.revs, u.names, u.digests = revs, map[string]bool{}, map[intent.Digest]bool{}
		if site != nil && site.Installer != nil {
			u.names[site.Installer.Kernel], u.names[site.Installer.Ramdisk] = true, true
		}
		for _, o := range c.List(intent.KindInstanceArray) {
			if img, _, ok := intent.Lookup[*intent.ImageSpec](c, intent.KindImage, "", o.Spec.(*intent.InstanceArraySpec).Image); ok {
				u.names[img.Asset] = true
			}
		}
		for _, b := range reconcile.Bindings(w.Journal) {
			if !b.Released {
				u.digests[b.Digest] = true
			}
		}
	}
	names, digests := u.names, u.digests
	return func(name string, s *intent.AssetSpec) bool { return names[name] || digests[s.Digest] }
}
