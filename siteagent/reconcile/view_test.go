package reconcile

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/storage/state"
)

const largeMachines = 1000

// largeSite is one of machines that run, each with an inventory of eight disks.
func largeSite(b *testing.B) (*claim.Journal, *intent.Catalog, Surroundings) {
	b.Helper()
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: filepath.Join(b.TempDir(), "state"), Key: make([]byte, 32), Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	j, err := claim.OpenJournal(db, "lon1", "a1", log)
	if err != nil {
		b.Fatal(err)
	}
	c := intent.NewCatalog()
	for i := range largeMachines {
		name := fmt.Sprintf("m%d", i)
		c.Put(&intent.Object{Kind: intent.KindMachine, Metadata: intent.Metadata{Name: name, Site: "lon1"}, Spec: &intent.MachineSpec{}})
		f := Facts{Serial: name, UUID: name, CPUs: 64, MemoryMiB: 1 << 20, MACs: []string{"52:54:00:00:00:01", "52:54:00:00:00:02"}}
		for k := range 8 {
			f.Disks = append(f.Disks, DiskFacts{DiskID: intent.DiskID{Serial: fmt.Sprint(name, k), SizeBytes: 4e12}, Media: "ssd"})
		}
		var ds []claim.Draft
		for kind, body := range map[string]any{
			KindAccepted: f, KindInventory: f, KindWindow: Window{Machine: name}, KindSession: Session{ID: name}, KindProgress: Progress{Session: name},
			KindMachine: intent.MachineStatus{State: intent.StateRunning}, KindBinding: Binding{Instance: name, Machine: name},
		} {
			ds = append(ds, claim.Draft{Kind: kind, Key: name, Body: body})
		}
		if err := j.Append(b.Context(), claim.Local, ds...); err != nil {
			b.Fatal(err)
		}
	}
	s := Surroundings{
		Now: time.Now(), Learned: func(_ string, at time.Time) time.Time { return at }, Heard: func(string) time.Time { return time.Time{} },
		Assets: func(*Binding) string { return "" }, BootSlots: 4,
	}
	return j, c, s
}

// BenchmarkBuildViews: a site of 1,000 machines is looked at, as after every record.
func BenchmarkBuildViews(b *testing.B) {
	j, c, s := largeSite(b)
	for b.Loop() {
		if vv := BuildViews(j, c, s); len(vv) != largeMachines || vv[7].Inventory == nil || vv[7].Status.State != intent.StateRunning {
			b.Fatal("not every machine has its view")
		}
	}
}

// BenchmarkBuildView: one machine of a site of 1,000 is looked at, as for every packet that it sends.
func BenchmarkBuildView(b *testing.B) {
	j, c, s := largeSite(b)
	for b.Loop() {
		if v, ok := BuildView(j, c, s, "m7"); !ok || v.Inventory == nil {
			b.Fatal("no view")
		}
	}
}

// TestShared: what several read is decoded once, anew when there is a newer record, and nobody's changes are seen by others.
func TestShared(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: filepath.Join(quickDir(t), "state"), Key: make([]byte, 32), Logger: log, UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	j, err := claim.OpenJournal(db, "lon1", "a1", log)
	if err != nil {
		t.Fatal(err)
	}
	put := func(state intent.MachineState) {
		t.Helper()
		if err := j.Append(t.Context(), claim.Local, claim.Draft{Kind: KindMachine, Key: "m1", Body: intent.MachineStatus{State: state}}); err != nil {
			t.Fatal(err)
		}
	}
	if load[intent.MachineStatus](j, KindMachine, "m1") != nil {
		t.Error("there is one")
	}
	put(intent.StateRunning)
	first := claim.Shared[intent.MachineStatus](j, KindMachine, "m1")
	load[intent.MachineStatus](j, KindMachine, "m1").State = "changed"
	if again := claim.Shared[intent.MachineStatus](j, KindMachine, "m1"); again != first || again.State != intent.StateRunning {
		t.Errorf("%p %+v, first %p", again, again, first)
	}
	put(intent.StateAvailable)
	if now := load[intent.MachineStatus](j, KindMachine, "m1"); now.State != intent.StateAvailable || first.State != intent.StateRunning {
		t.Errorf("%+v, %+v", now, first)
	}
}

// TestBuildView: the view of one machine is that which it has among all, whatever states, sessions and bindings there are.
func TestBuildView(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: filepath.Join(quickDir(t), "state"), Key: make([]byte, 32), Logger: log, UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	j, err := claim.OpenJournal(db, "lon1", "a1", log)
	if err != nil {
		t.Fatal(err)
	}
	states := []intent.MachineState{
		"", intent.StateExpected, intent.StateDiscovered, intent.StateAvailable, intent.StateAllocated, intent.StateInstalling, intent.StateRunning,
		intent.StateReleasing, intent.StateErasing, intent.StateQuarantined, intent.StateMaintenance, intent.StateBroken,
	}
	c, now := intent.NewCatalog(), time.Now()
	const machines = 6
	s := Surroundings{
		Now: now, Learned: func(_ string, at time.Time) time.Time { return at }, Heard: func(string) time.Time { return now },
		Assets: func(b *Binding) string { return map[bool]string{true: "the image"}[b != nil] },
	}
	for i := range machines {
		c.Put(&intent.Object{Kind: intent.KindMachine, Metadata: intent.Metadata{Name: fmt.Sprintf("m%d", i), Site: "lon1"}, Spec: &intent.MachineSpec{}})
	}
	free := map[bool]int{}
	for range 200 {
		m := fmt.Sprintf("m%d", r.IntN(machines))
		uid := fmt.Sprintf("i%d", r.IntN(machines))
		d := []claim.Draft{
			{Kind: KindMachine, Key: m, Body: intent.MachineStatus{State: states[r.IntN(len(states))], Phase: []string{"", PhaseNetboot, PhaseWrite}[r.IntN(3)], InstanceUID: uid}},
			{Kind: KindBinding, Key: uid, Body: Binding{Instance: uid, Machine: m, Generation: r.Uint64N(3), Released: r.IntN(2) == 0}},
			{Kind: KindWindow, Key: m, Body: Window{Machine: m, Nonce: fmt.Sprint(r.IntN(2)), Opened: now}},
			{Kind: KindSession, Key: m, Body: Session{ID: m, Machine: m, Nonce: fmt.Sprint(r.IntN(2)), Since: now}},
			{Kind: KindRelease, Key: m, Body: Release{Instance: uid, Generation: r.Uint64N(3)}},
		}[r.IntN(5)]
		if err := j.Append(t.Context(), claim.Local, d); err != nil {
			t.Fatal(err)
		}
		s.BootSlots = 1 + r.IntN(4)
		for _, want := range BuildViews(j, c, s) {
			free[want.SlotFree]++
			if got, ok := BuildView(j, c, s, want.Name); !ok || !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: %+v, want %+v", want.Name, got, want)
			}
		}
	}
	if _, ok := BuildView(j, c, s, "nobody"); ok || free[true] == 0 || free[false] == 0 {
		t.Errorf("%v, slots free %v", ok, free)
	}
}
