package siteagent

import (
	"fmt"
	"math"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/rotate"
)

// keys is what goes up about who may speak.
func (b *backend) keys() *intent.KeyReport {
	k := &intent.KeyReport{
		Trust: b.w.TrustHead().Seq, Revocation: b.w.RevocationHead().Seq, Generation: b.w.State().Signed.Generation, Clock: intent.ClockFloor,
	}
	if _, trusted := b.floor.Now(); trusted {
		k.Clock = intent.ClockTrusted
	}
	if envs, err := b.w.TrustForks(); err == nil { // else the bucket is on hold, which is told elsewhere
		k.Forks = len(envs)
	}
	return k
}

// keyGauges show what deploy/prometheus alerts on.
func (a *Agent) keyGauges(set *metrics.Set) {
	set.NewGauge("skerry_trust_seq", func() float64 { return float64(a.replica.TrustHead().Seq) })
	set.NewGauge(`skerry_forks_seen{stream="trust"}`, func() float64 { return float64(a.backend.keys().Forks) })
	set.NewGauge("skerry_clock_trusted", func() float64 { return boolGauge(a.backend.keys().Clock == intent.ClockTrusted) })
	made, err := rotate.Made(a.id.Leaf)
	set.NewGauge(fmt.Sprintf("skerry_key_age_seconds{kind=%q}", rotate.Agent), func() float64 {
		if err != nil {
			return math.NaN()
		}
		now, _ := a.floor.Now()
		return rotate.Key{Made: made}.Age(now).Seconds()
	})
	start := time.Now() // of this process: what was before is not known any more
	set.NewGauge("skerry_uplink_contact_age_seconds", func() float64 {
		heard := a.uplink.Status().Heard
		if heard.Before(start) {
			heard = start
		}
		return time.Since(heard).Seconds()
	})
}
