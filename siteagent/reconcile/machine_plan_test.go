package reconcile

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
)

var update = flag.Bool("update", false, "rewrite goldens")

func at(d time.Duration) time.Time {
	return time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC).Add(d)
}

func smallTypes() map[string]*intent.MachineTypeSpec {
	return map[string]*intent.MachineTypeSpec{"small": {CPU: intent.Range{Min: 1}, MemoryMB: intent.Range{Min: 512}}}
}

func goodFacts() *Facts {
	return &Facts{
		Serial: "SN1", UUID: "11111111-2222-3333-4444-555555555555", Firmware: "uefi", CPUs: 2, MemoryMiB: 1024,
		Disks: []DiskFacts{{DiskID: intent.DiskID{Serial: "d1", SizeBytes: 8 << 30}, Media: "ssd"}},
		MACs:  []string{"52:54:00:00:00:01"}, Time: at(time.Minute),
	}
}

// viewIn is a machine that entered state at noon and is looked at 30 s later.
func viewIn(state intent.MachineState, phase string) MachineView {
	v := MachineView{
		Name: "m1", Now: at(30 * time.Second), Types: smallTypes(), SlotFree: true,
		Spec: &intent.MachineSpec{
			Serial: "SN1", BMC: &intent.BMCSpec{Address: "192.0.2.9", Protocol: "redfish", Secret: "bmc"},
			NICs: []intent.NIC{{MAC: "52:54:00:00:00:01", Boot: true}},
		},
		Status: intent.MachineStatus{State: state, Phase: phase},
	}
	if state != "" {
		v.Status.Since = at(0)
	}
	switch state {
	case intent.StateAllocated, intent.StateInstalling, intent.StateRunning, intent.StateReleasing, intent.StateBroken:
		v.Binding = standing()
		v.Status.Generation, v.Status.Attempts, v.Status.Project, v.Status.Instance, v.Status.MachineType = 1, 1, "shop", "shop/web/0", "small"
		v.Accepted = goodFacts()
	case intent.StateAvailable:
		v.Status.MachineType, v.Accepted = "small", goodFacts()
	}
	if phase == PhaseWrite || phase == PhaseInventory {
		hello(&v)
	}
	return v
}

func standing() *Binding {
	return &Binding{Instance: "i1", Project: "shop", Array: "web", ArrayUID: "u1", Machine: "m1", Generation: 1, Image: "debian", Cause: "intent 1.2"}
}

func hello(v *MachineView) {
	v.Window = &Window{Machine: "m1", MAC: "52:54:00:00:00:01", Nonce: "n1", Opened: at(0)}
	v.Session = &Session{ID: "s1", Machine: "m1", Nonce: "n1", Since: at(5 * time.Second)}
	v.LastWord = v.Now
}

type happening struct {
	name string
	do   func(*MachineView)
}

func done(attempt int, ok bool) func(*MachineView) {
	return func(v *MachineView) {
		v.Done = &Done{Session: "s1", Task: fmt.Sprintf("install/m1/1/%d", attempt), Generation: 1, OK: ok, Reason: "disk: cannot write"}
	}
}

func reported(change func(*Facts)) func(*MachineView) {
	return func(v *MachineView) {
		hello(v)
		v.Inventory, v.Newer = goodFacts(), true
		change(v.Inventory)
	}
}

func happenings() []happening {
	later := func(d time.Duration) func(*MachineView) {
		return func(v *MachineView) { v.Now = v.Now.Add(d) }
	}
	return []happening{
		{"hello", hello},
		{"hello under an earlier window", func(v *MachineView) { hello(v); v.Session.Nonce = "n0" }},
		{"inventory agrees", reported(func(*Facts) {})},
		{"inventory has another serial", reported(func(f *Facts) { f.Serial = "SN2" })},
		{"inventory lacks the MAC", reported(func(f *Facts) { f.MACs = []string{"52:54:00:00:00:99"} })},
		{"inventory fits no type", reported(func(f *Facts) { f.MemoryMiB = 1 })},
		{"inventory has a signed disk", reported(func(f *Facts) { f.Signed = true })},
		{"signed disk, as-is", func(v *MachineView) { reported(func(f *Facts) { f.Signed = true })(v); v.Spec.Onboard = "as-is" }},
		{"bound", func(v *MachineView) { v.Binding = standing() }},
		{"binding released", func(v *MachineView) { v.Binding = standing(); v.Binding.Released = true }},
		{"binding absent", func(v *MachineView) { v.Binding = nil }},
		{"instance has another machine", func(v *MachineView) { v.Binding, v.Successor = nil, "m2" }},
		{"assets missing", func(v *MachineView) { v.Assets = "waits for 3 of 9 MiB" }},
		{"no boot slot", func(v *MachineView) { v.SlotFree = false }},
		{"no BMC", func(v *MachineView) { v.Spec.BMC = nil }},
		{"image written", done(1, true)},
		{"image failed", done(1, false)},
		{"image of another attempt written", done(7, true)},
		{"phone-home", func(v *MachineView) { v.PhoneHome = &PhoneHome{Generation: 1, Hostname: "web-0"} }},
		{"phone-home of another generation", func(v *MachineView) { v.PhoneHome = &PhoneHome{Generation: 9} }},
		{"evidence of this boot", func(v *MachineView) { hello(v); v.Evidence = &Evidence{Nonce: "n1", What: "a burnt token came again"} }},
		{"evidence of an earlier boot", func(v *MachineView) { v.Evidence = &Evidence{Nonce: "n0", What: "a burnt token came again"} }},
		{"maintenance wanted", func(v *MachineView) { v.Spec.Maintenance = true }},
		{"6 min later", later(6 * time.Minute)},
		{"ramdisk taken, 9 min later", func(v *MachineView) { v.Fetched = v.Now.Add(-time.Second); later(9 * time.Minute)(v) }},
		{"ramdisk taken, 11 min later", func(v *MachineView) { v.Fetched = v.Now.Add(-time.Second); later(11 * time.Minute)(v) }},
		{"21 min later", later(21 * time.Minute)},
		{"21 min later, attempts used", func(v *MachineView) { later(21 * time.Minute)(v); v.Status.Attempts = maxAttempts }},
		{"attempts used", func(v *MachineView) { v.Status.Attempts = maxAttempts }},
	}
}

func situations() []MachineView {
	maintained := viewIn(intent.StateMaintenance, string(intent.StateAvailable))
	maintained.Spec.Maintenance = false
	return []MachineView{
		viewIn("", ""),
		viewIn(intent.StateExpected, ""), viewIn(intent.StateExpected, PhaseNetboot),
		viewIn(intent.StateDiscovered, ""), viewIn(intent.StateDiscovered, PhaseInventory),
		viewIn(intent.StateAvailable, ""),
		viewIn(intent.StateAllocated, PhaseAssets),
		viewIn(intent.StateInstalling, PhaseNetboot), viewIn(intent.StateInstalling, PhaseWrite), viewIn(intent.StateInstalling, PhaseFirstBoot),
		viewIn(intent.StateRunning, ""), viewIn(intent.StateReleasing, "held"), viewIn(intent.StateBroken, ""),
		viewIn(intent.StateQuarantined, ""), maintained, viewIn("erasing", "wipe"),
	}
}

func (v MachineView) clone() MachineView {
	spec := *v.Spec
	v.Spec = &spec
	return v
}

// line is one row of the golden.
func line(s Step) string {
	if !s.Changed {
		return "-"
	}
	at := string(s.Status.State)
	if s.Status.Phase != "" {
		at += "/" + s.Status.Phase
	}
	out := at
	if s.Action != ActionNone {
		out = s.Action.String() + ", then " + at
	}
	if s.Status.Attempts > 0 {
		out += fmt.Sprintf(" #%d", s.Status.Attempts)
	}
	if s.Accept != nil {
		out += ", accepts " + s.Status.MachineType
	}
	if s.Event != "" {
		out += fmt.Sprintf("; %s: %s", s.Event, s.Message)
	}
	return out
}

// TestPlanMachine: every state times every happening. A happening that is not listed under a state gives that state's usual
// answer; "-" is nothing to do; #N counts attempts.
func TestPlanMachine(t *testing.T) {
	var b strings.Builder
	for _, s := range situations() {
		name := string(s.Status.State)
		if name == "" {
			name = "never seen"
		}
		if s.Status.Phase != "" {
			name += "/" + s.Status.Phase
		}
		usual := line(PlanMachine(s))
		fmt.Fprintf(&b, "%s: %s\n", name, usual)
		for _, h := range happenings() {
			v := s.clone()
			h.do(&v)
			if got := line(PlanMachine(v)); got != usual {
				fmt.Fprintf(&b, "  %-34s %s\n", h.name, got)
			}
		}
	}
	golden(t, "machine_plan.golden", b.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// TestPlanMachineLaws holds over every pair of happenings in every state: the same view gives the same step; a step that was
// carried out is not asked again at the same moment; an absent binding writes to nothing but an uninspected machine, unless a
// later decision gave the instance another one.
func TestPlanMachineLaws(t *testing.T) {
	n := 0
	for _, s := range situations() {
		for _, h1 := range happenings() {
			for _, h2 := range happenings() {
				v := s.clone()
				h1.do(&v)
				h2.do(&v)
				step := PlanMachine(v)
				what := fmt.Sprintf("%s/%s, %s, %s", s.Status.State, s.Status.Phase, h1.name, h2.name)
				if again := PlanMachine(v); !cmp.Equal(step, again) {
					t.Fatalf("%s: planned twice, two answers: %s", what, cmp.Diff(step, again))
				}
				if v.Binding == nil && v.Successor == "" && (step.Action == ActionOff || step.Status.State == intent.StateReleasing) {
					t.Fatalf("%s: absence releases: %s", what, line(step))
				}
				if step.Action != ActionNone && (v.Status.State == intent.StateRunning || v.Status.State == intent.StateReleasing) && v.Successor == "" && !v.Binding.Released {
					t.Fatalf("%s: touches a running machine: %s", what, line(step))
				}
				settle(t, what, v, step)
				n++
			}
		}
	}
	t.Logf("%d views", n)
}

// settle applies steps at one moment until none is left.
func settle(t *testing.T, what string, v MachineView, step Step) {
	t.Helper()
	acted := map[Action]bool{}
	for range 6 {
		if !step.Changed {
			return
		}
		if step.Action != ActionNone && acted[step.Action] {
			t.Fatalf("%s: asks %s twice", what, step.Action)
		}
		acted[step.Action] = true
		v.Status = step.Status
		if step.Accept != nil {
			v.Accepted = step.Accept
		}
		if step.Action == ActionNetboot { // what act writes
			v.Window = &Window{Nonce: "n2", Opened: v.Now}
		}
		step = PlanMachine(v)
	}
	t.Fatalf("%s: never settles, still %s", what, line(step))
}

func TestRetryAfter(t *testing.T) {
	f := func(attempts int, want time.Duration) {
		t.Helper()
		if got := retryAfter(attempts); got != want {
			t.Errorf("retryAfter(%d) = %v, want %v", attempts, got, want)
		}
	}
	f(0, time.Minute)
	f(1, time.Minute)
	f(2, 5*time.Minute)
	f(3, 15*time.Minute)
	f(99, 15*time.Minute)
}

// TestAttempts: a machine whose installation fails each time is written to three times and then rests for good.
func TestAttempts(t *testing.T) {
	v := viewIn(intent.StateAllocated, PhaseAssets)
	v.Status.Attempts = 0
	var tasks []string
	for range 100 {
		v.Now = v.Now.Add(15 * time.Minute)
		hello(&v)
		step := PlanMachine(v)
		if step.Changed {
			v.Status = step.Status
		}
		if v.Status.Phase == PhaseWrite {
			tasks = append(tasks, v.TaskID())
			v.Done = &Done{Task: v.TaskID(), Reason: "disk: cannot write"}
			v.Status = PlanMachine(v).Status
		}
	}
	want := []string{"install/m1/1/1", "install/m1/1/2", "install/m1/1/3"}
	if d := cmp.Diff(want, tasks); d != "" || v.Status.State != intent.StateBroken {
		t.Fatalf("state %s, tasks (-want +got):\n%s", v.Status.State, d)
	}
}
