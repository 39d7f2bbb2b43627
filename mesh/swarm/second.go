package swarm

import (
	"context"
	"slices"
	"time"
)

const (
	// hedgeLeast is how late a chunk is at least before another peer is asked for it too, hedgeFirst where nothing is known of the peer's
	// pace; else twice what its slowest of the last paceOf took (mesh.md section 5).
	hedgeLeast = 250 * time.Millisecond
	hedgeFirst = time.Second
	paceOf     = 16
	// twiceLeast is how many chunks may be asked for twice, whatever the size of the asset; else one in twiceShare.
	twiceLeast = 16
	twiceShare = 50
)

// note keeps what a chunk took.
func (a *account) note(took time.Duration) {
	a.took[a.chunks%paceOf] = took
	a.chunks++
}

// late is after what time without a chunk another peer may be asked.
func (a *account) late() time.Duration {
	if a.chunks == 0 {
		return hedgeFirst
	}
	return max(2*slices.Max(a.took[:min(a.chunks, paceOf)]), hedgeLeast)
}

// lacking returns the part of an order that has not come yet: from its first missing chunk to its last.
func (j *job) lacking(r *running) (first, n int) {
	first, n = r.first, r.n
	for n > 0 && bit(j.have, first) {
		first, n = first+1, n-1
	}
	for n > 0 && bit(j.have, first+n-1) {
		n--
	}
	return first, n
}

// secondOrder picks what is asked of a second peer, because the first one, at the site, is late; nil: nothing. The caller holds mu.
func (j *job) secondOrder(now time.Time) (p *peer, first, n int) {
	if j.m == nil || j.fatal != nil {
		return nil, 0, 0
	}
	for r := range j.running {
		if r.second || r.doubled || r.n == 0 || r.src.far() || now.Sub(r.moved) < j.s.account(j.d, r.src).late() {
			continue
		}
		first, n = j.lacking(r)
		if n == 0 || j.twice+n > max(twiceLeast, len(j.m.Chunks)/twiceShare) {
			continue
		}
		for _, q := range j.holders(now) {
			a := j.s.account(j.d, q.src)
			if q.src.key() == r.src.key() || now.Before(a.until) || a.orders > 0 || !q.w.has(first) {
				continue
			}
			r.doubled = true
			for k := 1; k < n; k++ {
				if !q.w.has(first + k) {
					n = k
				}
			}
			j.twice += n
			return q, first, n
		}
	}
	return nil, 0, 0
}

// askSecond sends a second order where one is late.
func (j *job) askSecond(ctx context.Context) bool {
	j.s.mu.Lock()
	p, first, n := j.secondOrder(time.Now())
	if p == nil {
		j.s.mu.Unlock()
		return false
	}
	r := j.take(p.src, first, n)
	r.second = true
	j.s.mu.Unlock()
	_ = j.order(ctx, r) // what became of it is in the source's account
	return true
}

// enough ends the orders of which nothing is missing any more, but the one that brought the last of it. The caller holds mu.
func (j *job) enough(but *running) {
	for r := range j.running {
		if r == but || r.n == 0 || r.cancel == nil || !r.second && !r.doubled {
			continue
		}
		if _, n := j.lacking(r); n == 0 {
			r.cancel(errEnough)
		}
	}
}
