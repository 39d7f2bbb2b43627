package upkeep

import (
	"fmt"
	"math"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/rotate"
)

// KeyGauges show what deploy/prometheus alerts on: leaf gives the agent's certificate, now its effective time, heard when it last heard
// a coordinator, zero for never.
func KeyGauges(set *metrics.Set, report func() *intent.KeyReport, leaf func() []byte, now, heard func() time.Time) {
	set.NewGauge("skerry_trust_seq", func() float64 { return float64(report().Trust) })
	set.NewGauge(`skerry_forks_seen{stream="trust"}`, func() float64 { return float64(report().Forks) })
	set.NewGauge("skerry_clock_trusted", func() float64 {
		if report().Clock == intent.ClockTrusted {
			return 1
		}
		return 0
	})
	set.NewGauge(fmt.Sprintf("skerry_key_age_seconds{kind=%q}", rotate.Agent), func() float64 {
		made, err := rotate.Made(leaf())
		if err != nil {
			return math.NaN()
		}
		return rotate.Key{Made: made}.Age(now()).Seconds()
	})
	start := time.Now() // of this process: what was before is not known any more
	set.NewGauge("skerry_uplink_contact_age_seconds", func() float64 {
		at := heard()
		if at.Before(start) {
			at = start
		}
		return time.Since(at).Seconds()
	})
}
