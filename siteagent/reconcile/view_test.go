package reconcile

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/storage/state"
)

// BenchmarkBuildViews: a site of 1,000 machines that run, each with an inventory of eight disks, is looked at, as after every record.
func BenchmarkBuildViews(b *testing.B) {
	const machines = 1000
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: filepath.Join(b.TempDir(), "state"), Key: make([]byte, 32), Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	j, err := claim.OpenJournal(db, "lon1", "a1", log)
	if err != nil {
		b.Fatal(err)
	}
	c := intent.NewCatalog()
	for i := range machines {
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
	for b.Loop() {
		if vv := BuildViews(j, c, s); len(vv) != machines || vv[7].Inventory == nil || vv[7].Status.State != intent.StateRunning {
			b.Fatal("not every machine has its view")
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
