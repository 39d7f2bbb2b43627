package swarm

import (
	"context"
	"math"
	"time"

	"golang.org/x/time/rate"
)

// Class says how urgent an asset is (mesh.md section 6).
type Class int

// The classes: Live, a machine waits for it; Wanted, intent names it.
const (
	Live   Class = 1
	Wanted Class = 2
)

// Budget says what the line to the coordinator may carry. Its methods do not block.
type Budget interface {
	// Allow returns how many octets a second all agents of the site together may take from the coordinator now, +Inf: as many as come;
	// others is what the other agents took today. Errors say why nothing of the class may come.
	Allow(c Class, others uint64) (perSecond float64, err error)
	// Took adds octets to what this agent took today, which Today returns.
	Took(octets int)
	Today() uint64
}

// leastBurst is what an agent may take at once at least, whatever the rate.
const leastBurst = leastRead

const (
	// takesFor is how long an agent says that it takes something from the coordinator after the last octet: words may be ten seconds apart.
	takesFor = 15 * time.Second
	// mostToday bounds what one agent can have taken in a day: 100 Gbit/s.
	mostToday = 1 << 50
)

// ration takes in what the line may carry now. What the site may is shared by the agents that fetch something from the coordinator, as far
// as this job hears them. The caller holds mu.
func (j *job) ration(now time.Time) {
	if j.s.cfg.Budget == nil {
		return
	}
	others, fetching := uint64(0), 1
	for _, p := range j.peers {
		if p.w == nil || !p.live {
			continue
		}
		if p.w.today <= mostToday { // else it cannot be
			others += p.w.today
		}
		if p.fresh(now) && (p.w.takes || p.w.stripe != noStripe && p.moves(now)) {
			fetching++
		}
	}
	site, err := j.s.cfg.Budget.Allow(j.class, others)
	j.line.closed = err
	if err != nil {
		return
	}
	mine := site / float64(fetching)
	if math.IsInf(mine, 1) {
		j.s.pace.SetLimit(rate.Inf)
		j.s.pace.SetBurst(mostRead)
		return
	}
	j.s.pace.SetLimit(rate.Limit(mine))
	j.s.pace.SetBurst(int(min(max(mine/2, leastBurst), mostRead))) // half a second
}

// paced counts octets that came from the coordinator and waits until the next may be read, of which it returns how many at once. What is
// not read waits in the coordinator: the windows of the session are its bound.
func (s *Swarm) paced(ctx context.Context, octets int) (most int) {
	if s.cfg.Budget == nil {
		return mostRead
	}
	s.cfg.Budget.Took(octets)
	for octets > 0 && ctx.Err() == nil {
		n := min(octets, s.pace.Burst())
		if s.pace.Limit() == rate.Inf {
			break
		}
		_ = s.pace.WaitN(ctx, n) // ctx ended, or the burst became smaller: as well
		octets -= n
	}
	return s.pace.Burst()
}

// takes tells whether something comes from the coordinator, of whatever asset. The caller holds mu.
func (s *Swarm) takes() bool { return s.cfg.Budget != nil && time.Since(s.took) < takesFor }

// today is what this agent took from the coordinator today.
func (s *Swarm) today() uint64 {
	if s.cfg.Budget == nil {
		return 0
	}
	return s.cfg.Budget.Today()
}
