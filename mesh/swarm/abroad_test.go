package swarm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"testing"
	"time"
)

// reach gives each agent lines to n agents of other sites that have all of the asset.
func (s *site) reach(n int) {
	for _, a := range s.agents {
		for range n {
			a.abroad = append(a.abroad, &wire{h: NewHandler(newMem(s.m, s.b), slog.New(slog.DiscardHandler)), octets: 1 << 20})
		}
	}
}

// came returns how many octets each tier's source sent to all agents, for the size of the asset.
func (s *site) came() map[string]float64 {
	out := map[string]float64{}
	size := float64(len(s.b))
	for _, a := range s.agents {
		out["origin"] += float64(a.origin.sent.Load()) / size
		for i, w := range a.abroad {
			out[fmt.Sprintf("far%d", i+1)] += float64(w.sent.Load()) / size
		}
	}
	maps.DeleteFunc(out, func(_ string, v float64) bool { return v == 0 })
	return out
}

// TestFromAnotherSite: with the coordinator gone an asset comes from another site, once over the line for all agents; with it there it is
// not asked as long as another site has it.
func TestFromAnotherSite(t *testing.T) {
	for _, up := range []bool{false, true} {
		inBubble(t, 3, 33<<20, func(s *site) {
			s.reach(1)
			for _, a := range s.agents {
				a.up.Store(up)
				a.origin.dead.Store(!up)
			}
			s.startAll()
			s.complete(10*time.Minute, s.agents...)
			if got := s.came(); len(got) != 1 || got["far1"] > 1.05 {
				s.Errorf("coordinator there %v: %v", up, got)
			}
		})
	}
}

// TestOtherSiteFails: an agent of another site that dies half-way, that has nothing after all, or that lies is left for the next one, and
// for the coordinator; nothing that it brought comes again.
func TestOtherSiteFails(t *testing.T) {
	empty := NewHandler(newMem(nil, nil), slog.New(slog.DiscardHandler))
	f := func(name string, spoil func(s *site, w *wire), most, origin float64) {
		t.Helper()
		inBubble(t, 2, 33<<20, func(s *site) {
			s.reach(1)
			for _, a := range s.agents {
				spoil(s, a.abroad[0])
			}
			s.startAll()
			time.Sleep(6500 * time.Millisecond) // of the bubble
			if name == "dies" {
				for _, a := range s.agents {
					a.abroad[0].down.Store(true)
				}
			}
			s.complete(20*time.Minute, s.agents...)
			got := s.came()
			if s.Logf("%s: %v, complete after %v", name, got, s.agents[0].took); got["far1"]+got["origin"] > most || got["origin"] < origin {
				s.Errorf("%s: %v", name, got)
			}
		})
	}
	f("dies", func(*site, *wire) {}, 1.1, 0.3)
	f("has nothing", func(_ *site, w *wire) { w.h = empty }, 1.05, 1)
	f("lies", func(s *site, w *wire) {
		rot := newMem(s.m, s.b)
		rot.rot = map[int]bool{}
		for i := range s.m.Chunks {
			rot.rot[i] = true
		}
		w.h = NewHandler(rot, slog.New(slog.DiscardHandler))
	}, 1.2, 1) // three chunks of 33 at each of two agents
	f("is silent", func(_ *site, w *wire) { w.dead.Store(true) }, 1.05, 1)
}

// TestNearestSite: the nearest has it and is asked; when it breaks off the next is asked, not the coordinator.
func TestNearestSite(t *testing.T) {
	inBubble(t, 1, 17<<20, func(s *site) {
		s.reach(2)
		s.startAll()
		time.Sleep(5500 * time.Millisecond) // of the bubble
		s.agents[0].abroad[0].down.Store(true)
		s.complete(10*time.Minute, s.agents...)
		if got := s.came(); got["origin"] > 0 || got["far1"] < 0.2 || got["far2"] < 0.5 || got["far1"]+got["far2"] > 1.1 {
			s.Errorf("%v", got)
		}
	})
}

// TestAsksOthersFirst: while other sites are asked the coordinator is not; when none has it, it is.
func TestAsksOthersFirst(t *testing.T) {
	inBubble(t, 1, 2<<20, func(s *site) {
		a := s.agents[0]
		a.asking = time.Now().Add(2 * time.Second)
		s.startAll()
		time.Sleep(1900 * time.Millisecond) // of the bubble
		if n := a.origin.sent.Load(); n > 0 {
			s.Errorf("%d octets from the coordinator before other sites had answered", n)
		}
		s.complete(time.Minute, a)
	})
	inBubble(t, 1, 2<<20, func(s *site) { // nor does the fetch end for want of a source
		a := s.agents[0]
		a.up.Store(false)
		a.asking = time.Now().Add(2 * time.Second)
		began := time.Now()
		s.reach(1)
		a.found = began.Add(time.Second)
		s.startAll()
		s.complete(time.Minute, a)
		if took := time.Since(began); took > 5*time.Second {
			s.Errorf("took %v", took)
		}
	})
}

// TestLyingSiteAlone: with nobody else to ask, a site that lies is left after its strikes: the fetch ends, and costs no more.
func TestLyingSiteAlone(t *testing.T) {
	inBubble(t, 1, 33<<20, func(s *site) {
		s.reach(1)
		a := s.agents[0]
		a.up.Store(false)
		rot := newMem(s.m, s.b)
		rot.rot = map[int]bool{}
		for i := range s.m.Chunks {
			rot.rot[i] = true
		}
		a.abroad[0].h = NewHandler(rot, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(s.Context(), time.Hour)
		defer cancel()
		_, err := a.swarm.Fetch(ctx, s.m.Content, s.m.Digest(), Wanted, nil)
		if got := s.came()["far1"]; !errors.Is(err, ErrSources) || got > 0.2 {
			s.Errorf("%v, %.2f times", err, got)
		}
	})
}

// TestThinSite: a site whose line is thin is asked first, and left for a coordinator that brings more; alone it brings all.
func TestThinSite(t *testing.T) {
	for _, up := range []bool{true, false} {
		inBubble(t, 1, 3<<20, func(s *site) {
			s.reach(1)
			a := s.agents[0]
			a.up.Store(up)
			a.abroad[0].octets = 3 << 10
			began := time.Now()
			s.startAll()
			s.complete(time.Hour, a)
			took, got := time.Since(began), s.came()
			s.Logf("coordinator there %v: %v in %v", up, got, took)
			if up && (took > 2*time.Minute || got["origin"] < 0.8) || !up && got["origin"] > 0 {
				s.Errorf("coordinator there %v: %v in %v", up, got, took)
			}
		})
	}
}
