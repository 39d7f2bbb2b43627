package gossip

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/serf/serf"
)

// lookEvery is how often the roster is compared with who is heard: a newcomer is joined at once, not at the next turn.
const lookEvery = time.Second

// rejoin joins absentees for ever: each 5 s in the first minute of an absence, 30 s in its first hour, then 60 s, all +-50 %.
// One that was not tried since it went absent is tried at once.
func (p *Pool) rejoin(ctx context.Context, s *serf.Serf) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	tried := map[string]bool{}
	began, next := time.Now(), time.Now()
	for {
		absent := p.absent()
		fresh := slices.DeleteFunc(slices.Clone(absent), func(a string) bool { return tried[a] })
		maps.DeleteFunc(tried, func(a string, _ bool) bool { return !slices.Contains(absent, a) })
		if len(absent) == 0 {
			began = time.Now()
		}
		if len(fresh) > 0 || !time.Now().Before(next) {
			if len(fresh) == 0 {
				fresh = absent
			} else {
				began = time.Now()
			}
			rand.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
			for _, a := range fresh[:min(len(fresh), joinAtOnce)] {
				tried[a] = true
				if _, err := s.Join([]string{a}, true); err != nil {
					p.cfg.Log.DebugContext(ctx, "absent agent not reached", "agent", a, "err", err)
				}
				if ctx.Err() != nil {
					return
				}
			}
			next = time.Now().Add(rejoinWait(time.Since(began)))
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

func rejoinWait(absence time.Duration) time.Duration {
	base := time.Minute
	switch {
	case absence < time.Minute:
		base = 5 * time.Second
	case absence < time.Hour:
		base = 30 * time.Second
	}
	return base/2 + rand.N(base)
}

// absent returns name/host:port of the nodes that are not heard, as memberlist wants them.
func (p *Pool) absent() []string {
	var out []string
	alive := map[string]bool{}
	for _, m := range p.Members() {
		alive[m.ID] = m.Alive
	}
	for _, n := range p.cfg.Nodes() {
		if at := n.addr(); at != nil && !alive[n.ID] {
			out = append(out, n.ID+"/"+at.String())
		}
	}
	return out
}
