package discovery

import (
	"fmt"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// BenchmarkJudge compares a full list of discovered machines with a site of 1,000: what one report of a stranger costs, and each tells every
// minute.
func BenchmarkJudge(b *testing.B) {
	var objects []*intent.Object
	for i := range 1000 {
		objects = append(objects, &intent.Object{
			Kind: intent.KindMachine, Metadata: intent.Metadata{Name: fmt.Sprintf("m%03d", i), Site: "lon1"},
			Spec: &intent.MachineSpec{Serial: fmt.Sprintf("SN-%d", i), NICs: []intent.NIC{{MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)}, {MAC: fmt.Sprintf("52:54:01:00:%02x:%02x", i>>8, i&255)}}},
		})
	}
	c := intent.NewCatalog(objects...)
	var found []record
	for i := range MaxKept {
		found = append(found, box(fmt.Sprintf("SX-%d", i), "", fmt.Sprintf("52:54:02:00:00:%02x", i), fmt.Sprintf("52:54:03:00:00:%02x", i)))
	}
	for b.Loop() {
		machines := knownMachines(c, "lon1", func(string) *reconcile.Facts { return nil })
		for _, r := range found {
			if v := judge(r, machines, nil); v.Owner != "" {
				b.Fatal(v)
			}
		}
	}
}
