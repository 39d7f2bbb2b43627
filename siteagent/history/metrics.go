package history

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// stale is how old readings may be that /metrics tells: three polls.
const stale = 3 * pollEvery

// WriteMetrics writes the newest readings of the machines whose history this agent keeps; what is unknown is left out.
func (k *Keeper) WriteMetrics(w io.Writer) {
	if k.store == nil {
		return
	}
	set := metrics.NewSet()
	k.store.Gauges(set)
	set.WritePrometheus(w)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(k.polled)) {
		p := k.polled[name]
		if p.fails > 0 || !p.at.IsZero() {
			fmt.Fprintf(w, "skerry_bmc_poll_success{machine=%s} %d\n", label(name), map[bool]int{true: 1}[p.ok])
			fmt.Fprintf(w, "skerry_bmc_poll_seconds{machine=%s} %g\n", label(name), p.seconds)
		}
		if time.Since(p.at) > stale {
			continue
		}
		for _, r := range p.now {
			if r.Known {
				fmt.Fprintf(w, "%s{machine=%s,sensor=%s} %g\n", r.Metric, label(name), label(r.Sensor), r.Value)
			}
		}
	}
}
