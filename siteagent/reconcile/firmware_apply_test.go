package reconcile

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile/firmware"
)

// erasedLife is an agent whose machine was erased a moment ago; its installer boots whenever it is powered on for that.
func erasedLife(t *testing.T, b *fakeBMC) *life {
	now := time.Now()
	b.power, b.user = bmc.PowerStateOn, true
	return &life{
		t: t, dir: filepath.Join(quickDir(t), "state"), bmc: b, left: -1,
		seed: []claim.Draft{
			{Kind: KindMachine, Key: "m1", Body: intent.MachineStatus{State: intent.StateErasing, Phase: PhaseErase, Generation: 1, Attempts: 1, Instance: "shop/web/0", MachineType: "small", Since: now}},
			{Kind: KindRelease, Key: "m1", Body: Release{Instance: "i1", Generation: 1, Cause: "intent 1.9", Time: now}},
			{Kind: KindErased, Key: "m1", Body: Erased{Instance: "i1", Generation: 1, Agent: "a1", Seq: 7, Disks: 1}},
			firmware.Draft("m1", "", []string{"skerry", "operator"}),
		},
		after: func(v MachineView) []claim.Draft {
			if v.Status.Phase != PhaseSettle || v.live() {
				return nil
			}
			return []claim.Draft{{Kind: KindSession, Key: "m1", Body: Session{ID: v.Window.Nonce, Machine: "m1", Nonce: v.Window.Nonce, Agent: "a1", Since: time.Now()}}}
		},
	}
}

// events returns what was told of the machine, by type.
func events(t *testing.T, j *claim.Journal) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	err := j.Events(nil, func(e intent.Event) error { out[e.Type] = append(out[e.Type], e.Message); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestResetCrashes ends the agent at every journal record and before and after every write to the BMC, from the receipt to available. The
// next life finishes it: the reset is asked for once whatever happens, and the machine is available only when it was seen done.
func TestResetCrashes(t *testing.T) {
	for n := 0; ; n++ {
		l := erasedLife(t, &fakeBMC{resets: true, names: []string{"operator", "mallory"}})
		l.left = n
		v, j, crashed, done := l.run()
		if crashed != "" {
			done()
			l.left = -1
			v, j, _, done = l.run()
		}
		rec, _ := claim.Load[firmware.Record](j, firmware.Kind, "m1")
		if v.Status.State != intent.StateAvailable || v.Status.Instance != "" || rec.BIOS != firmware.Reset || l.bmc.user || l.bmc.asked != 1 {
			t.Fatalf("crash %s: %s/%s %q, record %+v; asked %d times, a user's settings are there: %v", crashed, v.Status.State, v.Status.Phase, v.Status.Reason, rec, l.bmc.asked, l.bmc.user)
		}
		if task, ok := claim.Load[TaskRecord](j, KindTask, "bios-reset/m1/1/0"); !ok || task.State != "done" || l.bmc.fence.Compare(task.Epoch) < 0 {
			t.Fatalf("crash %s: task %+v, fence %s", crashed, task, l.bmc.fence)
		}
		ev := events(t, j)
		if got := ev["bmc.accounts.foreign"]; len(got) == 0 || !strings.Contains(got[0], `"mallory"`) || strings.Contains(got[0], "operator") {
			t.Fatalf("crash %s: events %v", crashed, ev)
		}
		if got := ev["machine.available"]; len(got) != 1 || !strings.Contains(got[0], "BIOS reset to defaults") {
			t.Fatalf("crash %s: events %v", crashed, ev)
		}
		done()
		if crashed == "" {
			t.Logf("%d crash points: %q", n, l.seen)
			return
		}
	}
}

// TestBMCResetCrashes is TestResetCrashes where the machine's type wants the BMC reset too: what became of the BIOS is known before, our account
// is proven after it, and only a crash between the act and its record has it done twice.
func TestBMCResetCrashes(t *testing.T) {
	for n := 0; ; n++ {
		l := erasedLife(t, &fakeBMC{resets: true, names: []string{"operator"}})
		l.left, l.resetBMC = n, true
		boots := l.after
		l.after = func(v MachineView) []claim.Draft {
			if v.Status.Phase == PhaseReturn {
				l.shift = controllerRest
			}
			return boots(v)
		}
		v, j, crashed, done := l.run()
		if crashed != "" {
			done()
			l.left = -1
			v, j, _, done = l.run()
		}
		rec, _ := claim.Load[firmware.Record](j, firmware.Kind, "m1")
		want := 1
		if crashed == "after bmc reset" {
			want = 2
		}
		if v.Status.State != intent.StateAvailable || rec.BIOS != firmware.Reset || rec.Controller != firmware.NotProven || l.bmc.own != want || l.bmc.asked != 1 {
			t.Fatalf("crash %s: %s/%s %q, record %+v; the BMC was reset %d times", crashed, v.Status.State, v.Status.Phase, v.Status.Reason, rec, l.bmc.own)
		}
		if ev := events(t, j); len(ev["bmc.reset.asked"]) == 0 || len(ev["bmc.login.proven"]) == 0 || !strings.Contains(ev["machine.available"][0], "BMC reset not proven") {
			t.Fatalf("crash %s: events %v", crashed, ev)
		}
		done()
		if crashed == "" {
			t.Logf("%d crash points", n)
			return
		}
	}
}

// TestNoReset: a controller that offers none is said to, and its machine is not started for it.
func TestNoReset(t *testing.T) {
	l := erasedLife(t, &fakeBMC{names: []string{"operator"}})
	v, j, _, done := l.run()
	defer done()
	ev := events(t, j)
	if v.Status.State != intent.StateAvailable || l.bmc.cycles != 0 || !strings.Contains(v.Status.Reason, "BIOS not reset: its controller offers no reset") || len(ev["bios.reset.none"]) != 1 {
		t.Errorf("%s %q after %d cycles; events %v", v.Status.State, v.Status.Reason, l.bmc.cycles, ev)
	}
}

// TestRefusedAfterRelease: a machine whose controller does not let us in any more is given to nobody.
func TestRefusedAfterRelease(t *testing.T) {
	l := erasedLife(t, &fakeBMC{resets: true, refuses: true})
	v, j, _, done := l.run()
	defer done()
	if v.Status.State != intent.StateQuarantined || len(events(t, j)["bmc.login.refused"]) != 1 {
		t.Errorf("%s %q; events %v", v.Status.State, v.Status.Reason, events(t, j))
	}
}
