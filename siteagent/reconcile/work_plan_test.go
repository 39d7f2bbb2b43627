package reconcile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// TestDecideWork: what an installer is told, in every state and after every happening.
func TestDecideWork(t *testing.T) {
	var b strings.Builder
	tell := func(v MachineView, spare bool) string {
		order, why := DecideWork(v, spare)
		return strings.TrimSpace(string(order) + " " + why)
	}
	for _, s := range situations() {
		hello(&s)
		usual := tell(s, false)
		fmt.Fprintf(&b, "%s/%s: %s\n", s.Status.State, s.Status.Phase, usual)
		if got := tell(s, true); got != usual {
			fmt.Fprintf(&b, "  %-34s %s\n", "spare", got)
		}
		for _, h := range happenings() {
			v := s.clone()
			h.do(&v)
			order, _ := DecideWork(v, false)
			if order == OrderInstall && (v.Binding == nil || v.Binding.Released || v.Accepted == nil || v.accused()) {
				t.Fatalf("%s/%s, %s: installs without binding, accepted inventory or against evidence", s.Status.State, s.Status.Phase, h.name)
			}
			if got := tell(v, false); got != usual {
				fmt.Fprintf(&b, "  %-34s %s\n", h.name, got)
			}
		}
	}
	golden(t, "work_plan.golden", b.String())
}

func TestChooseDisk(t *testing.T) {
	disk := func(serial, media string, gib uint64) DiskFacts {
		return DiskFacts{DiskID: intent.DiskID{Serial: serial, SizeBytes: gib << 30}, Media: media}
	}
	f := func(want string, size uint64, disks ...DiskFacts) {
		t.Helper()
		d, ok := ChooseDisk(disks, size<<30)
		if got := d.Serial; got != want || ok != (want != "") {
			t.Errorf("ChooseDisk(%v, %d GiB) = %q, %v; want %q", disks, size, got, ok, want)
		}
	}
	f("", 1)
	f("a", 1, disk("a", "ssd", 8))
	f("", 9, disk("a", "ssd", 8))
	f("a", 8, disk("a", "ssd", 8))
	f("b", 1, disk("a", "ssd", 8), disk("b", "nvme", 4))                      // the smallest that fits
	f("a", 1, disk("b", "hdd", 4), disk("a", "ssd", 8))                       // flash before spinning, though larger
	f("b", 5, disk("a", "ssd", 4), disk("b", "hdd", 8))                       // unless only that fits
	f("a", 1, disk("b", "ssd", 8), disk("a", "ssd", 8))                       // then by serial
	f("", 1, disk("a", "ssd", 8), disk("a", "ssd", 8))                        // two of one identity: never guess
	f("", 1, disk("b", "ssd", 8), disk("a", "ssd", 8), disk("a", "hdd", 500)) // also when a third would do
	f("a", 1, disk("", "ssd", 4), disk("a", "ssd", 8))                        // one without identity cannot be permitted
	f("", 1, disk("", "ssd", 4))
	wwn := DiskFacts{DiskID: intent.DiskID{WWN: "0x5", SizeBytes: 8 << 30}}
	if d, ok := ChooseDisk([]DiskFacts{wwn}, 1); !ok || d.WWN != "0x5" {
		t.Errorf("a WWN alone is identity enough: %v, %v", d, ok)
	}
}

func TestMatchType(t *testing.T) {
	types := map[string]*intent.MachineTypeSpec{
		"any":   {},
		"small": {CPU: intent.Range{Min: 1, Max: 4}, MemoryMB: intent.Range{Min: 512}},
		"big":   {CPU: intent.Range{Min: 8}, MemoryMB: intent.Range{Min: 4096}},
		"store": {CPU: intent.Range{Min: 1, Max: 4}, MemoryMB: intent.Range{Min: 512}, Disks: []intent.DiskClass{{Media: "hdd", Count: intent.Range{Min: 2}, MinBytes: 1 << 40}}},
		"alike": {CPU: intent.Range{Min: 1, Max: 4}, MemoryMB: intent.Range{Min: 512}},
	}
	hdd := DiskFacts{DiskID: intent.DiskID{Serial: "h", SizeBytes: 2 << 40}, Media: "hdd"}
	f := func(want string, cpus, mib int, disks ...DiskFacts) {
		t.Helper()
		for range 8 { // map order
			if got := MatchType(types, &Facts{CPUs: cpus, MemoryMiB: mib, Disks: disks}); got != want {
				t.Fatalf("MatchType(%d cpu, %d MiB, %d disks) = %q, want %q", cpus, mib, len(disks), got, want)
			}
		}
	}
	f("alike", 2, 1024) // as many constraints as small: first by name
	f("big", 16, 8192)
	f("any", 6, 8192)
	f("any", 1, 100)
	f("store", 2, 1024, hdd, hdd)
	f("alike", 2, 1024, hdd)
	delete(types, "any")
	f("", 6, 8192)
}

func TestSpares(t *testing.T) {
	types := map[string]*intent.MachineTypeSpec{"small": {Warm: 1}}
	waiting := func(name string) MachineView {
		v := viewIn(intent.StateAvailable, "")
		hello(&v)
		v.Name, v.Types = name, types
		return v
	}
	f := func(want map[string]bool, bindings map[string]Binding, count int, views ...MachineView) {
		t.Helper()
		if d := cmp.Diff(want, Spares(views, intent.NewCatalog(array("web", "small", count)), bindings)); d != "" {
			t.Error(d)
		}
	}
	bound := map[string]Binding{InstanceUID("uid-web", 0): {Machine: "m9"}}
	released := map[string]Binding{InstanceUID("uid-web", 0): {Machine: "m9", Released: true}}
	silent := waiting("m0")
	silent.LastWord = silent.Now.Add(-2 * time.Minute)
	f(map[string]bool{"m2": true, "m3": true}, bound, 1, waiting("m3"), waiting("m1"), waiting("m2")) // one stays warm
	f(map[string]bool{}, nil, 1, waiting("m3"), waiting("m1"))                                        // an instance waits
	f(map[string]bool{}, released, 1, waiting("m3"), waiting("m1"))
	f(map[string]bool{"m2": true}, bound, 1, silent, waiting("m1"), waiting("m2")) // who is silent keeps nothing warm
}
