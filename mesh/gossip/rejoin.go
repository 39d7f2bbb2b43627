package gossip

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/serf/serf"
)

// rejoin joins absentees for ever: each 5 s in the first minute of an absence, 30 s in its first hour, then 60 s, all +-50 %.
func (p *Pool) rejoin(ctx context.Context, s *serf.Serf) {
	began := time.Now()
	for {
		absent := p.absent()
		if len(absent) == 0 {
			began = time.Now()
		}
		rand.Shuffle(len(absent), func(i, j int) { absent[i], absent[j] = absent[j], absent[i] })
		for _, a := range absent[:min(len(absent), joinAtOnce)] {
			if _, err := s.Join([]string{a}, true); err != nil {
				p.cfg.Log.DebugContext(ctx, "absent agent not reached", "agent", a, "err", err)
			}
			if ctx.Err() != nil {
				return
			}
		}
		t := time.NewTimer(rejoinWait(time.Since(began)))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
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

// absent returns name/host:port of the rostered agents that are not heard, as memberlist wants them.
func (p *Pool) absent() []string {
	var out []string
	for _, m := range p.Members() {
		if m.Alive {
			continue
		}
		if at := p.addrOf(m.ID); at != nil {
			out = append(out, m.ID+"/"+at.String())
		}
	}
	return out
}
