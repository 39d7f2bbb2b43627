package reconcile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile/firmware"
)

// freed is a machine whose instance was taken away at noon, in a state.
func freed(state intent.MachineState, phase string) MachineView {
	v := viewIn(state, phase)
	v.Binding = standing()
	v.Binding.Released, v.Accepted = true, goodFacts()
	v.Release, v.Freed = &Release{Instance: "i1", Project: "shop", Generation: 1, Cause: "intent 1.9", Time: at(0)}, at(0)
	v.Status.Generation, v.Status.Attempts, v.Status.Instance, v.Status.Project = 1, 1, "shop/web/0", "shop"
	if phase == PhaseErase {
		hello(&v)
	}
	return v
}

// firmwareIs is a receipt, and how far the firmware is.
func firmwareIs(r firmware.Record) func(*MachineView) {
	return func(v *MachineView) { receipted(v); v.Firmware = &r }
}

func receipted(v *MachineView) {
	v.Erased = &Erased{Instance: "i1", Generation: v.Release.Generation, Task: v.TaskID(), Agent: "a2", Seq: 7, Disks: 1}
}

// Every state of a machine that leaves its instance times what may happen.
func TestPlanErase(t *testing.T) {
	later := func(d time.Duration) func(*MachineView) {
		return func(v *MachineView) { v.Now = v.Now.Add(d) }
	}
	local := func(v *MachineView) { v.Release.Cause = "override lon1-1" }
	happenings := []happening{
		{"nothing", func(*MachineView) {}},
		{"hello", hello},
		{"receipt", receipted},
		{"receipt of an earlier release", func(v *MachineView) { receipted(v); v.Erased.Generation = 0 }},
		{"receipt, no BMC", func(v *MachineView) { receipted(v); v.Spec.BMC = nil }},
		{"receipt, hello", func(v *MachineView) { receipted(v); hello(v) }},
		{"receipt, a reset of an earlier release", firmwareIs(firmware.Record{Instance: "i1", Asked: true, Shown: true, BIOS: firmware.Reset, Ended: true})},
		{"receipt, reset asked for", firmwareIs(firmware.Record{Instance: "i1", Generation: 1, Asked: true, Shown: true})},
		{"receipt, no reset to ask for", firmwareIs(firmware.Record{Instance: "i1", Generation: 1, BIOS: firmware.NotReset, Why: "its controller offers no reset"})},
		{"receipt, reset proven", firmwareIs(firmware.Record{Instance: "i1", Generation: 1, Asked: true, Shown: true, BIOS: firmware.Reset, Why: "seen", Ended: true})},
		{"receipt, reset not proven", firmwareIs(firmware.Record{Instance: "i1", Generation: 1, Asked: true, BIOS: firmware.NotProven, Why: "it does not tell", Ended: true})},
		{"receipt, account refused", firmwareIs(firmware.Record{Instance: "i1", Generation: 1, Asked: true, BIOS: firmware.NotProven, Refused: "401", Ended: true})},
		{"receipt, 16 min later", func(v *MachineView) { receipted(v); later(16 * time.Minute)(v) }},
		{"receipt, reset asked for, no boot slot", func(v *MachineView) {
			firmwareIs(firmware.Record{Instance: "i1", Generation: 1, Asked: true})(v)
			v.SlotFree = false
		}},
		{"receipt, reset asked for, assets missing", func(v *MachineView) {
			firmwareIs(firmware.Record{Instance: "i1", Generation: 1, Asked: true})(v)
			v.Assets = "waits for 3 of 9 MiB"
		}},
		{"receipt, ramdisk taken, 11 min later", func(v *MachineView) {
			receipted(v)
			v.Fetched = v.Now.Add(-time.Second)
			later(11 * time.Minute)(v)
		}},
		{"receipt, 21 min later", func(v *MachineView) { receipted(v); later(21 * time.Minute)(v) }},
		{"receipt, 21 min later, attempts used", func(v *MachineView) { receipted(v); later(21 * time.Minute)(v); v.Status.Attempts = maxAttempts }},
		{"erasure failed", func(v *MachineView) { v.Done = &Done{Task: v.TaskID(), Reason: "erase: the canary can still be read"} }},
		{"erasure said to be done, no receipt", func(v *MachineView) { v.Done = &Done{Task: v.TaskID(), OK: true} }},
		{"inventory agrees", reported(func(*Facts) {})},
		{"inventory, no installer", func(v *MachineView) { reported(func(*Facts) {})(v); v.Session = nil }},
		{"deleted at the site", local},
		{"deleted at the site, 23 h later", func(v *MachineView) { local(v); later(23 * time.Hour)(v) }},
		{"deleted at the site, 25 h later", func(v *MachineView) { local(v); later(25 * time.Hour)(v) }},
		{"deleted at the site, approved", func(v *MachineView) { local(v); v.Approval = &Approval{Generation: 1, Erase: true} }},
		{"deleted at the site, writing was approved", func(v *MachineView) { local(v); v.Approval = &Approval{Generation: 1} }},
		{"deleted at the site, adopted", func(v *MachineView) { local(v); v.Decision = "adopt" }},
		{"deleted at the site, discarded, 25 h later", func(v *MachineView) { local(v); later(25 * time.Hour)(v); v.Decision = "discard" }},
		{"displaced", func(v *MachineView) { v.Release.Displaced = true }},
		{"no release, binding absent", func(v *MachineView) { v.Release, v.Binding = nil, nil }},
		{"bound again", func(v *MachineView) { v.Binding = standing(); v.Binding.Generation = 2 }},
		{"instance has another machine", func(v *MachineView) { v.Binding, v.Successor = nil, "m2" }},
		{"a later allocation", func(v *MachineView) { v.Status.Generation = 2 }},
		{"policy none", func(v *MachineView) { v.Policy = "none" }},
		{"no BMC", func(v *MachineView) { v.Spec.BMC = nil }},
		{"no boot slot", func(v *MachineView) { v.SlotFree = false }},
		{"assets missing", func(v *MachineView) { v.Assets = "waits for 3 of 9 MiB" }},
		{"evidence of this boot", func(v *MachineView) { hello(v); v.Evidence = &Evidence{Nonce: "n1", What: "a burnt token came again"} }},
		{"maintenance wanted", func(v *MachineView) { v.Spec.Maintenance = true }},
		{"ramdisk taken, 11 min later", func(v *MachineView) { v.Fetched = v.Now.Add(-time.Second); later(11 * time.Minute)(v) }},
		{"21 min later", later(21 * time.Minute)},
		{"21 min later, attempts used", func(v *MachineView) { later(21 * time.Minute)(v); v.Status.Attempts = maxAttempts }},
	}
	var b strings.Builder
	for _, s := range []MachineView{
		freed(intent.StateAllocated, PhaseAssets), freed(intent.StateInstalling, PhaseWrite), freed(intent.StateRunning, ""), freed(intent.StateBroken, ""),
		freed(intent.StateReleasing, PhaseOff), freed(intent.StateReleasing, "held"), freed(intent.StateErasing, PhaseNetboot), freed(intent.StateErasing, PhaseErase),
		freed(intent.StateErasing, PhaseReset), freed(intent.StateErasing, PhaseSettle), freed(intent.StateErasing, PhaseProve),
		freed(intent.StateDiscovered, ""), freed(intent.StateQuarantined, ""),
	} {
		fmt.Fprintf(&b, "%s %s\n", s.Status.State, s.Status.Phase)
		for _, h := range happenings {
			v := s.clone()
			r := *v.Release
			v.Release = &r
			h.do(&v)
			order, why := DecideWork(v, false)
			fmt.Fprintf(&b, "  %-42s %s | %s %s\n", h.name, line(PlanMachine(v)), order, why)
		}
	}
	path := filepath.Join("testdata", "erase_plan.golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// TestNeverAvailableWithoutReceipt: whatever happens, in whatever order, a machine that was an instance's becomes available only with a
// receipt for that release, and nothing is ordered to be erased while a binding stands.
func TestNeverAvailableWithoutReceipt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := freed(intent.StateRunning, "")
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			switch rapid.IntRange(0, 13).Draw(t, "event") {
			case 0:
				hello(&v)
			case 1:
				v.LastWord = v.Now
			case 2:
				v.Now = v.Now.Add(time.Duration(rapid.IntRange(1, 1600).Draw(t, "minutes")) * time.Minute)
			case 3:
				v.Done = &Done{Task: v.TaskID(), OK: rapid.Bool().Draw(t, "ok"), Reason: "x"}
			case 4:
				v.Erased = &Erased{Instance: "i1", Generation: uint64(rapid.IntRange(0, int(v.Release.Generation)).Draw(t, "of")), Task: v.TaskID(), Agent: "a1", Seq: 1}
			case 5:
				v.Inventory, v.Newer = goodFacts(), rapid.Bool().Draw(t, "newer")
				v.Inventory.Signed = rapid.Bool().Draw(t, "signed")
			case 6:
				v.Session, v.Closed = nil, false
			case 7:
				if v.Clearable() { // as Controller.Clear does
					if v.owes() {
						r := *v.Release
						r.Generation++
						v.Release = &r
					}
					v.Status = v.cleared()
					v.Session, v.Evidence = nil, nil
				}
			case 8:
				v.Binding = rapid.SampledFrom([]*Binding{nil, v.Binding}).Draw(t, "binding")
			case 9:
				r := *v.Release
				r.Cause = rapid.SampledFrom([]string{"intent 1.9", "override lon1-1"}).Draw(t, "cause")
				v.Release, v.Decision = &r, rapid.SampledFrom([]string{"", "adopt", "discard"}).Draw(t, "decision")
			case 10:
				v.PhoneHome = &PhoneHome{Generation: 1}
			case 11:
				v.Spec.Maintenance = !v.Spec.Maintenance
			case 12:
				v.Entered = v.Now
			case 13:
				r := firmware.Record{
					Instance: "i1", Generation: uint64(rapid.IntRange(0, int(v.Release.Generation)).Draw(t, "reset of")), Asked: rapid.Bool().Draw(t, "asked"),
					BIOS: rapid.SampledFrom([]firmware.Outcome{"", firmware.Reset, firmware.NotProven, firmware.NotReset}).Draw(t, "outcome"), Ended: rapid.Bool().Draw(t, "ended"),
				}
				if rapid.IntRange(0, 3).Draw(t, "refused") == 0 {
					r.Refused = "401"
				}
				v.Firmware = &r
			}
			if order, _ := DecideWork(v, false); order == OrderErase && (!v.owes() || v.MayErase() != nil) {
				t.Fatalf("told to erase in %s %s", v.Status.State, v.Status.Phase)
			}
			step := PlanMachine(v)
			if !step.Changed {
				continue
			}
			was := v.Status.State
			v.Status = step.Status
			if step.Action == ActionNetboot {
				v.Window, v.Session = &Window{Machine: "m1", Nonce: fmt.Sprint(v.Now), Opened: v.Now}, nil
			}
			if v.Status.State == intent.StateAvailable && !v.proven() {
				t.Fatalf("available without a receipt, from %s: %+v", was, v.Status)
			}
			if r := v.reset(); was == intent.StateErasing && v.Status.State == intent.StateAvailable && (!r.Ended || r.Refused != "") {
				t.Fatalf("available, and its firmware is %+v", r)
			}
			if v.Status.State == intent.StateAvailable {
				return
			}
		}
	})
}

// TestGenerationsOfAMachine: two instances that have one machine after each other never share a generation, so that neither task,
// permission nor phone-home of the first counts for the second.
func TestGenerationsOfAMachine(t *testing.T) {
	v := siteView(true, array("web", "small", 1))
	v.Candidates = []Candidate{{Name: "m1", Type: "small", Generation: 5}}
	tasks := PlanInstances(v)
	if len(tasks) != 1 || tasks[0].Binding.Generation != 6 || tasks[0].taken(v.Bindings, nil) != "" {
		t.Errorf("%+v", tasks)
	}
}
