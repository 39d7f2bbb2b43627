package effective

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// How long ago something was is told by this process's own clock, from when it learned of it: a peer's clock may lie ten years ahead or
// behind. What was on disk at the start is taken at its word, but for what lies in the future.
func TestLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const year = 365 * 24 * time.Hour
		w := New(nil, nil)
		born := time.Now()
		f := func(what string, at time.Time, want time.Duration) {
			t.Helper()
			if got := time.Since(w.learned(what, at)); got != want {
				t.Errorf("%s of %v came %v ago, want %v", what, at, got, want)
			}
		}
		f("disk", born.Add(-time.Hour), time.Hour)
		f("disk, future", born.Add(10*year), 0)
		f("peer, ahead", born.Add(10*year), 0)
		f("own", born, 0)
		time.Sleep(time.Minute)
		f("disk", born.Add(-time.Hour), time.Hour+time.Minute)
		f("disk, future", born.Add(10*year), time.Minute)
		f("peer, ahead", born.Add(10*year), time.Minute)
		f("own", born, time.Minute)
		f("own", born.Add(-10*year), 0) // a peer with another clock wrote it anew
		time.Sleep(time.Minute)
		f("own", born.Add(-10*year), time.Minute)

		// A machine that a peer whose clock leads saw last is overdue here in its time.
		v := reconcile.MachineView{Name: "m1", Spec: &intent.MachineSpec{BMC: &intent.BMCSpec{}}, SlotFree: true}
		v.Status = intent.MachineStatus{State: intent.StateExpected, Phase: reconcile.PhaseNetboot, Since: time.Now().Add(10 * year), Attempts: 1}
		late := func() bool {
			v.Now, v.Entered = time.Now(), w.learned("status/m1", v.Status.Since)
			return reconcile.PlanMachine(v).Changed
		}
		if late() {
			t.Error("overdue at once")
		}
		time.Sleep(time.Hour)
		if !late() {
			t.Error("not overdue after an hour: the clock of a peer holds the machine for ten years")
		}
	})
}
