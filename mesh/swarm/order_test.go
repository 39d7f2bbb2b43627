package swarm

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
)

// await waits for chunk i as a reader at a, and returns how long that took.
func (s *site) await(a *member, i int) time.Duration {
	s.Helper()
	r, began := a.swarm.Reader(s.m.Content), time.Now()
	defer r.Close()
	if err := r.Wait(s.Context(), i); err != nil {
		s.Errorf("chunk %d: %v", i, err)
	}
	return time.Since(began)
}

// TestReaderComesFirst: who reads the end of an asset of which the beginning comes at 1 MiB/s has it at once, and nothing comes twice.
func TestReaderComesFirst(t *testing.T) {
	inBubble(t, 1, 96<<20, func(s *site) {
		a := s.agents[0]
		s.start(a)
		time.Sleep(5 * time.Second)
		if took := s.await(a, len(s.m.Chunks)-2); took > 4*time.Second {
			s.Errorf("the last chunk but one took %v", took)
		}
		if took := s.await(a, len(s.m.Chunks)-1); took > 2*time.Second {
			s.Errorf("the one behind it took %v", took)
		}
		s.complete(3*time.Minute, a)
		if s.wan() > 1.02 {
			s.Errorf("%.3f times over the WAN", s.wan())
		}
	})
}

// TestReaderAtAPeer: the agent that owns a stripe fetches it first when somebody waits for it at another one.
func TestReaderAtAPeer(t *testing.T) {
	inBubble(t, 2, 96<<20, func(s *site) {
		last := uint32(0)
		for stripe := range uint32(6) {
			if s.order(stripe)[0] == s.agents[0] {
				last = stripe
			}
		}
		if last < 4 {
			s.Fatalf("the last stripe of the first agent is %d: another size is needed", last)
		}
		s.startAll()
		time.Sleep(5 * time.Second)
		if took := s.await(s.agents[1], int(last)*16+3); took > 8*time.Second {
			s.Errorf("a chunk of stripe %d took %v", last, took)
		}
		s.complete(5*time.Minute, s.agents...)
		if s.wan() > 1.02 {
			s.Errorf("%.3f times over the WAN", s.wan())
		}
	})
}

// TestReaderOfNothing: what nobody fetches is not waited for.
func TestReaderOfNothing(t *testing.T) {
	inBubble(t, 1, 1<<20, func(s *site) {
		r := s.agents[0].swarm.Reader(s.m.Content)
		defer r.Close()
		if err := r.Wait(s.Context(), 0); !errors.Is(err, ErrIdle) {
			s.Errorf("%v", err)
		}
	})
}

// TestEachTakesAnotherPart: four agents take 64 MiB from one whose wire to each brings 1 MiB/s, and from each other, whose wires are quick, in
// half of the time that one of them would need alone.
func TestEachTakesAnotherPart(t *testing.T) {
	inBubble(t, 5, 64<<20, func(s *site) {
		first := s.agents[0]
		s.fill(first)
		for _, a := range s.agents[1:] {
			a.up.Store(false)
			a.to[first.name].octets = 1 << 20
			s.start(a)
			time.Sleep(time.Second) // each has heard of those before it; of several that begin in one instant some begin at the same part
		}
		s.complete(28*time.Second, s.agents[1:]...)
	})
}

// TestLatePeer: one of two peers stops in the middle of what was asked of it, and goes on saying that it has all. It is not waited for, and
// little comes twice.
func TestLatePeer(t *testing.T) {
	inBubble(t, 3, 32<<20, func(s *site) {
		a, stuck := s.agents[0], make(chan struct{})
		defer close(stuck)
		a.up.Store(false)
		for _, o := range s.agents[1:] {
			s.fill(o)
		}
		var n atomic.Int64
		late := a.to[s.agents[1].name]
		late.cut = func(k int) (int, bool) {
			if n.Add(int64(k)) > 5*chunk.Size {
				<-stuck
			}
			return k, false
		}
		s.start(a)
		s.complete(silence/3, a)
		var sent int64
		for _, w := range a.to {
			sent += w.sent.Load()
		}
		if over := sent - int64(len(s.b)); over > twiceLeast*chunk.Size {
			s.Errorf("%d MiB came twice", over>>20)
		}
	})
}

// TestReaderToAndFro: a reader that stands now here and now there, for less time than a chunk takes, holds nothing up, and next to nothing comes
// twice.
func TestReaderToAndFro(t *testing.T) {
	inBubble(t, 1, 96<<20, func(s *site) {
		a := s.agents[0]
		a.origin.octets = 256 << 10
		s.start(a)
		ctx, stop := context.WithCancel(s.Context())
		defer stop()
		s.wg.Go(func() {
			r := a.swarm.Reader(s.m.Content)
			defer r.Close()
			for i := 0; ctx.Err() == nil; i++ {
				wctx, cancel := context.WithTimeout(ctx, 2*time.Second)
				at := i / 2 % 30
				if i%2 == 1 {
					at = len(s.m.Chunks) - 1 - at
				}
				_ = r.Wait(wctx, at)
				cancel()
				sleep(ctx, time.Second)
			}
		})
		s.complete(15*time.Minute, a)
		stop()
		if s.wan() > 1.2 {
			s.Errorf("%.3f times over the WAN", s.wan())
		}
	})
}

// says makes what an agent tells of the asset fn's, for all that it gives nothing. fn is asked every three seconds.
func (s *site) says(liar *member, fn func(i int) *word) {
	liar.stop = func() {}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/have") {
			http.NotFound(w, r)
			return
		}
		for i := 0; r.Context().Err() == nil; i++ {
			word := fn(i)
			word.manifest, word.patience, word.chunks = s.m.Digest(), idlePatience, len(s.m.Chunks)
			if _, err := w.Write(word.encode(false)); err != nil {
				return
			}
			sleep(r.Context(), 3*time.Second)
		}
	})
	for _, a := range s.agents {
		if a != liar {
			a.to[liar.name].h = h
		}
	}
}

// TestNeedToAndFro: a peer whose readers wait now here and now there, or that lies about it, holds nothing up either.
func TestNeedToAndFro(t *testing.T) {
	inBubble(t, 2, 96<<20, func(s *site) {
		a := s.agents[0]
		a.origin.octets = 256 << 10
		s.says(s.agents[1], func(i int) *word { return &word{stripe: noStripe, need: uint32(i)%6 + 1} })
		s.start(a)
		s.complete(15*time.Minute, a)
		if s.wan() > 1.2 {
			s.Errorf("%.3f times over the WAN", s.wan())
		}
	})
}

// TestOwnerGivesNothing: a peer that says that octets come to it, for nothing or for whatever others fetch, is not waited for for ever.
func TestOwnerGivesNothing(t *testing.T) {
	for _, claims := range []bool{false, true} {
		inBubble(t, 2, 33<<20, func(s *site) {
			liar, a := s.order(0)[0], s.order(0)[1]
			s.says(liar, func(i int) *word {
				w := &word{stripe: noStripe, able: true, octets: uint64(i)}
				if claims {
					w.stripe = uint32(i) % 3
				}
				return w
			})
			s.start(a)
			within := 10 * time.Minute
			if claims {
				within += ownerWait
			}
			s.complete(within, a)
		})
	}
}
