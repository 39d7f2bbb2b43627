package wan

import (
	"math"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
)

// What comes makes way while it delays others, and comes back when it does not. A line that got longer for good is not taken for a full one
// for longer than ten minutes, and where no time is known, or no rate, nothing is slowed down.
func TestGuard(t *testing.T) {
	now, g := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC), &guard{}
	f := func(what string, d, rtt time.Duration, ok bool, want float64) {
		t.Helper()
		share := 0.0
		for end := now.Add(d); now.Before(end); {
			now = now.Add(time.Second)
			share = g.share(now, rtt, ok)
		}
		if math.Abs(share-want) > 1e-6 {
			t.Errorf("%s: %.3f of the rate, want %.3f", what, share, want)
		}
	}
	const ms = time.Millisecond
	f("an empty line", time.Minute, 50*ms, true, 1)
	f("almost twice as long", time.Minute, 130*ms, true, 1)
	f("longer, for a second", time.Second, 131*ms, true, 0.7)
	f("longer, for another one", time.Second, 131*ms, true, 0.49)
	f("better for four", 4*time.Second, 129*ms, true, 0.69)
	f("better for long", time.Minute, 50*ms, true, 1)
	f("a full line", time.Minute, 900*ms, true, leastShare)
	f("no session any more", 10*time.Second, 0, false, leastShare+0.5)
	f("a full line again", time.Minute, 900*ms, true, leastShare)
	f("a longer line, which is not full", baseFor+time.Minute, 900*ms, true, 1)
	f("a shorter one again", time.Second, 20*ms, true, 1)
	f("which is full", 2*time.Second, 71*ms, true, 0.49)
	if got := g.share(now.Add(time.Second/2), 900*ms, true); math.Abs(got-0.49) > 1e-6 {
		t.Errorf("within the same second: %.3f", got)
	}
}

// The guard works on the rate that holds, and on nothing where there is none.
func TestGuardedRate(t *testing.T) {
	b := newBox(t)
	b.at("Mon 2026-11-30 10:00")
	rtt := 20 * time.Millisecond
	b.cfg.RTT = func() (time.Duration, bool) { return rtt, true }
	b.spec = &intent.WANSpec{RateIn: "80M"}
	b.wants("an empty line", swarm.Wanted, 0, 10e6, "")
	b.guard.looked = b.guard.looked.Add(-time.Second)
	rtt = time.Second
	b.wants("a full line", swarm.Wanted, 0, 7e6, "")
	b.spec = &intent.WANSpec{}
	b.wants("no rate", swarm.Wanted, 0, math.Inf(1), "")
}
