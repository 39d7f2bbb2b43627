package history

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/skerry-metal/skerry/siteagent/rota"
)

// stale is how old readings may be that /metrics tells: three polls.
const stale = 3 * rota.Every

// WriteMetrics writes the newest readings of the machines whose history this agent keeps; what is unknown is left out.
func (k *Keeper) WriteMetrics(w io.Writer) {
	if k.store == nil {
		return
	}
	set := metrics.NewSet()
	k.store.Gauges(set)
	set.WritePrometheus(w)
	for _, o := range k.rota.Outcomes() {
		fmt.Fprintf(w, "skerry_bmc_poll_success{machine=%s} %d\n", label(o.Name), map[bool]int{true: 1}[o.OK])
		fmt.Fprintf(w, "skerry_bmc_poll_seconds{machine=%s} %g\n", label(o.Name), o.Seconds)
	}
	k.snmp.WriteMetrics(w)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(k.newest)) {
		n := k.newest[name]
		if time.Since(n.at) > stale {
			continue
		}
		for _, r := range n.rr {
			if r.Known {
				fmt.Fprintf(w, "%s{machine=%s,sensor=%s} %g\n", r.Metric, label(name), label(r.Sensor), r.Value)
			}
		}
	}
}
