package swarm

import (
	"context"
	"time"
)

// running is an order under way.
type running struct {
	src      Source
	first, n int
	moved    time.Time // when it was sent, or brought its last chunk
	second   bool      // it asks for what another one asks for
	doubled  bool      // there is a second
	cancel   context.CancelCauseFunc
}

// take notes that an order is given: nobody else asks for what is in it. The caller holds mu, and calls order.
func (j *job) take(src Source, first, n int) *running {
	j.s.account(j.d, src).orders++
	now := time.Now()
	if src.Tier == TierPeer && n > 0 && j.asked.IsZero() {
		j.asked = now
	}
	if src.Tier == TierPeer && n == 0 { // the coordinator may be long about it
		j.busy[manifestBusy]++
	}
	for i := first; i < first+n; i++ {
		j.busy[i]++
	}
	r := &running{src: src, first: first, n: n, moved: now}
	j.running[r] = struct{}{}
	return r
}

// release takes back what take noted. The caller holds mu.
func (j *job) release(r *running) {
	done := func(i int) {
		if j.busy[i]--; j.busy[i] == 0 {
			delete(j.busy, i)
		}
	}
	j.s.account(j.d, r.src).orders--
	if r.src.Tier == TierPeer && r.n == 0 {
		done(manifestBusy)
	}
	for i := r.first; i < r.first+r.n; i++ {
		done(i)
	}
	delete(j.running, r)
}
