package swarm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
)

// allowance is a budget of a test. The zero value allows all.
type allowance struct {
	mu     sync.Mutex
	rate   float64 // octets a second of the site; 0: no limit
	closed error
	day    uint64 // octets of the site a day; 0: no limit
	today  uint64
	worst  uint64 // the most that Allow was told of others
}

var errDay = errors.New("the day's octets are used")

func (a *allowance) set(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn()
}

// Allow implements Budget.
func (a *allowance) Allow(_ Class, others uint64) (float64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.worst = max(a.worst, others)
	switch {
	case a.closed != nil:
		return 0, a.closed
	case a.day > 0 && a.today+others >= a.day:
		return 0, errDay
	case a.rate == 0:
		return math.Inf(1), nil
	}
	return a.rate, nil
}

// Took implements Budget.
func (a *allowance) Took(n int) { a.set(func() { a.today += uint64(n) }) }

// Today implements Budget.
func (a *allowance) Today() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.today
}

// TestRate: three agents whose lines carry 1 MiB/s each keep together to what their site's may carry, and use it.
func TestRate(t *testing.T) {
	inBubble(t, 3, 48<<20, func(s *site) {
		for _, a := range s.agents {
			a.budget.rate = 256 << 10
		}
		began := time.Now()
		s.startAll()
		s.complete(10*time.Minute, s.agents...)
		rate := s.wan() * 48 * (1 << 20) / time.Since(began).Seconds() / (256 << 10)
		s.Logf("%.3f of the rate, %.3f times over the WAN", rate, s.wan())
		if rate > 1.1 || rate < 0.7 || s.wan() > 1.05 {
			s.Errorf("%.2f of the rate, %.2f times over the WAN", rate, s.wan())
		}
	})
}

// TestRateOfAll: agents that fetch an asset each, as the keepers of different images do, share the rate of their site too.
func TestRateOfAll(t *testing.T) {
	inBubble(t, 4, 1<<20, func(s *site) {
		const rate, size = 256 << 10, 16 << 20
		began := time.Now()
		for i, a := range s.agents {
			b := make([]byte, size)
			rand.NewChaCha8([32]byte{99, byte(i)}).Read(b)
			m, err := chunk.ScanManifest(bytes.NewReader(b))
			if err != nil {
				s.Fatal(err)
			}
			a.origin.h, a.budget.rate = NewHandler(newMem(m, b), slog.New(slog.DiscardHandler)), rate
			s.wg.Go(func() {
				if _, err := a.swarm.Fetch(s.Context(), m.Content, m.Digest(), Wanted, nil); err != nil {
					s.Error(err)
				}
			})
		}
		s.wg.Wait()
		got := float64(4*size) / time.Since(began).Seconds() / rate
		s.Logf("%.2f of the rate", got)
		if got > 1.25 || got < 0.6 {
			s.Errorf("%.2f times the rate of the site", got)
		}
	})
}

// TestImpossibleDay: an agent that says a number that cannot be stops nobody's line.
func TestImpossibleDay(t *testing.T) {
	inBubble(t, 3, 8<<20, func(s *site) {
		for _, a := range s.agents {
			a.budget.day = 1 << 30
		}
		s.agents[2].budget.today = 1<<64 - 1<<20
		s.start(s.agents[0])
		s.start(s.agents[1])
		s.complete(10*time.Minute, s.agents[:2]...)
	})
}

// TestRateEnds: when a thin rate is over the line is used as if there had been none.
func TestRateEnds(t *testing.T) {
	inBubble(t, 1, 4<<20, func(s *site) {
		a := s.agents[0]
		a.budget.rate = 1750
		s.start(a)
		time.Sleep(time.Minute)
		if b := a.swarm.pace.Burst(); b != leastBurst {
			s.Errorf("at 14 kbit/s %d octets are read at once", b)
		}
		a.budget.set(func() { a.budget.rate = 0 })
		s.complete(time.Minute, a)
		if b := a.swarm.pace.Burst(); b != mostRead {
			s.Errorf("without a rate %d octets are read at once, want %d", b, mostRead)
		}
	})
}

// TestThinRate: who may take 14 kbit/s is not silent, and a chunk that takes ten minutes comes once.
func TestThinRate(t *testing.T) {
	inBubble(t, 2, 3<<19, func(s *site) {
		for _, a := range s.agents {
			a.budget.rate = 1750
		}
		s.startAll()
		s.complete(time.Hour, s.agents...)
		if s.wan() > 1.05 {
			s.Errorf("%.2f times over the WAN", s.wan())
		}
	})
}

// TestQuietHours: while nothing may come nothing comes, also of what was under way; peers go on, and what came before comes no second time.
func TestQuietHours(t *testing.T) {
	quiet := errors.New("quiet hours")
	inBubble(t, 3, 48<<20, func(s *site) {
		all := func(why error) {
			for _, a := range s.agents {
				a.budget.set(func() { a.budget.closed = why })
			}
		}
		s.startAll()
		time.Sleep(5500 * time.Millisecond)
		all(quiet)
		time.Sleep(1500 * time.Millisecond) // looked at each second
		before := s.wan()
		time.Sleep(20 * time.Minute)
		if after := s.wan(); after != before || before == 0 || before > 0.9 {
			s.Errorf("%.3f times over the WAN, and %.3f after twenty quiet minutes", before, after)
		}
		a := s.agents[0]
		a.stop()
		<-a.done
		if _, err := a.swarm.Fetch(s.Context(), s.m.Content, s.m.Digest(), Wanted, nil); !errors.Is(err, quiet) || !errors.Is(err, ErrSources) {
			s.Errorf("a fetch in quiet hours: %v", err)
		}
		all(nil)
		s.complete(10*time.Minute, s.agents[1:]...)
		if s.wan() > 1.05 {
			s.Errorf("%.2f times over the WAN", s.wan())
		}
	})
}

// TestDay: what the agents of a site take in a day counts together, also of one that fetches nothing any more.
func TestDay(t *testing.T) {
	inBubble(t, 3, 48<<20, func(s *site) {
		for _, a := range s.agents {
			a.budget.day = 24 << 20
		}
		s.agents[2].budget.today = 8 << 20 // of another asset
		s.start(s.agents[0])
		s.start(s.agents[1])
		time.Sleep(15 * time.Minute)
		got := s.wan() * 48
		s.Logf("%.1f MiB came of 16", got)
		if got < 15 || got > 19 {
			s.Errorf("%.1f MiB came, the day had 16 left", got)
		}
		ctx, cancel := context.WithTimeout(s.Context(), 10*time.Minute)
		defer cancel()
		if _, err := s.agents[2].swarm.Fetch(ctx, s.m.Content, s.m.Digest(), Wanted, nil); err == nil || !strings.Contains(err.Error(), errDay.Error()) {
			s.Errorf("the third: %v", err)
		}
		for _, a := range s.agents { // midnight
			a.budget.set(func() { a.budget.today = 0; a.budget.day = 1 << 40 })
		}
		s.complete(10*time.Minute, s.agents[:2]...)
	})
}
