package effective

import (
	"fmt"

	"github.com/VictoriaMetrics/metrics"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Gauges adds how many machines are in each state to set.
func (w *Site) Gauges(set *metrics.Set) {
	for _, st := range []intent.MachineState{
		intent.StateExpected, intent.StateDiscovered, intent.StateAvailable, intent.StateAllocated, intent.StateInstalling,
		intent.StateRunning, intent.StateReleasing, intent.StateErasing, intent.StateQuarantined, intent.StateMaintenance, intent.StateBroken,
	} {
		set.NewGauge(fmt.Sprintf("skerry_machines{state=%q}", st), func() float64 {
			n := 0
			for _, v := range w.Views() {
				if v.Status.State == st || (v.Status.State == "" && st == intent.StateExpected) {
					n++
				}
			}
			return float64(n)
		})
	}
}
