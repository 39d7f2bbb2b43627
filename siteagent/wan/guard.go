package wan

import (
	"math"
	"time"
)

const (
	// The rate goes down by a third when the way to the coordinator and back takes twice as long as without us, and slack more: then what we
	// take waits in somebody's queue, and so does what people at the site do. It comes back by a twentieth a second. Source: mesh.md
	// section 6.
	slack  = 30 * time.Millisecond
	backed = 0.7
	better = 0.05
	// leastShare of the rate is left: a line that is full of others' octets carries ours too.
	leastShare = 0.1
	guardEvery = time.Second
	// baseFor is how long the shortest time of late counts, at least half of it: a line may get longer for good.
	baseFor = 10 * time.Minute
)

// guard slows down what comes while it delays what else the line carries. The zero value lets everything through.
type guard struct {
	slowed  float64       // what is taken off the rate, 0 to 1-leastShare
	looked  time.Time     // last
	since   time.Time     // of least
	least   time.Duration // the shortest time since then, and of the half before it; 0: none
	earlier time.Duration
}

// share returns the part of the rate that may be used, leastShare to 1, when the way there and back takes rtt now; ok is false where that
// is not known: then it goes back to 1.
func (g *guard) share(now time.Time, rtt time.Duration, ok bool) float64 {
	since := now.Sub(g.looked)
	if since < guardEvery {
		return 1 - g.slowed
	}
	g.looked = now
	if ok && g.waits(now, rtt) {
		g.slowed = min(1-(1-g.slowed)*backed, 1-leastShare)
	} else {
		g.slowed = max(0, g.slowed-better*math.Floor(min(since.Seconds(), 1/better)))
	}
	return 1 - g.slowed
}

// waits takes in a time there and back, and tells whether it is too long.
func (g *guard) waits(now time.Time, rtt time.Duration) bool {
	if now.Sub(g.since) >= baseFor/2 {
		g.since, g.earlier, g.least = now, g.least, rtt
	}
	g.least = min(g.least, rtt)
	base := g.least
	if g.earlier > 0 {
		base = min(base, g.earlier)
	}
	return rtt > 2*base+slack
}
