package effective

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// TestUses: the installer, the images of instance arrays, what machines have, and what the images of those name by now: an instance that is
// bound and not installed waits for that.
func TestUses(t *testing.T) {
	image := func(name, asset string) *intent.Object {
		o := &intent.Object{Kind: intent.KindImage, Spec: &intent.ImageSpec{Asset: asset}}
		o.Metadata.Name = name
		return o
	}
	array := &intent.Object{Kind: intent.KindInstanceArray, Spec: &intent.InstanceArraySpec{Image: "v2"}}
	array.Metadata.Name, array.Metadata.Project, array.Metadata.Site = "web", "acme", "lon1"
	c := intent.NewCatalog(image("v1", "mended"), image("v2", "newer"), image("v3", "unused"), array)
	d := intent.DigestOf([]byte("what v1 named before"))
	names, digests := usesOf(&intent.SiteSpec{Installer: &intent.InstallerSpec{Kernel: "k", Ramdisk: "r"}}, c, map[string]reconcile.Binding{
		"u1": {Image: "v1", Digest: d}, "u2": {Image: "v3", Digest: intent.DigestOf([]byte("given back")), Released: true},
	})
	if got := strings.Join(slices.Sorted(maps.Keys(names)), " "); got != "k mended newer r" || len(digests) != 1 || !digests[d] {
		t.Errorf("names %s, digests %v", got, digests)
	}
	if names, digests := usesOf(nil, c, nil); len(names) != 1 || len(digests) != 0 {
		t.Errorf("without an installer: %v, %v", names, digests)
	}
}
