package swarm

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// site is some agents and a coordinator on wires in memory, in a bubble.
type site struct {
	*testing.T
	b      []byte
	m      *chunk.Manifest
	agents []*member
	wg     sync.WaitGroup
}

// whoKey is where a wire says whose it is.
type whoKey struct{}

type member struct {
	name   string
	store  *mem
	swarm  *Swarm
	origin *wire
	asking time.Time        // until when other sites are asked
	abroad []*wire          // to agents of other sites that have all, the nearest first
	urls   []*place         // where it lies as it is
	last   bool             // the coordinator comes before those
	found  time.Time        // from when on they are known
	to     map[string]*wire // to peers
	up     atomic.Bool      // its line to the coordinator
	alive  atomic.Bool      // gossip sees it
	budget *allowance
	looks  time.Duration // how long it takes to see who is there
	stop   context.CancelFunc
	done   chan struct{}
	took   time.Duration
}

// newSite has n agents, none of which fetches yet. What the asset holds is drawn from the seed.
func newSite(t *testing.T, n, size int) *site {
	t.Helper()
	s := &site{T: t, b: make([]byte, size)}
	rand.NewChaCha8([32]byte{byte(n), byte(size >> 16)}).Read(s.b)
	var err error
	if s.m, err = chunk.ScanManifest(bytes.NewReader(s.b)); err != nil {
		t.Fatal(err)
	}
	coordinator := NewHandler(newMem(s.m, s.b), slog.New(slog.DiscardHandler))
	for i := range n {
		a := &member{name: fmt.Sprintf("a%d", i+1), store: &mem{}, origin: &wire{h: coordinator, octets: 1 << 20}, to: map[string]*wire{}, done: make(chan struct{}), budget: &allowance{}}
		a.up.Store(true)
		a.alive.Store(true)
		a.swarm = New(Config{
			Self: a.name, Store: a.store, Budget: a.budget, Log: slog.New(slog.DiscardHandler),
			Who: func(r *http.Request) string { return r.Context().Value(whoKey{}).(string) },
			Origin: func() (Source, bool) {
				return Source{Name: "coordinator", Tier: TierOrigin, RT: a.origin}, a.up.Load()
			},
			Sites: func(intent.Digest) (out []Source, asking bool) {
				if time.Now().Before(a.found) {
					return nil, time.Now().Before(a.asking)
				}
				for i, w := range a.abroad {
					out = append(out, Source{Name: fmt.Sprintf("far%d/a1", i+1), Tier: TierSite, RT: w})
				}
				return out, time.Now().Before(a.asking)
			},
			URLs: func(intent.Digest) (out []Source, last bool) {
				for i, p := range a.urls {
					if !p.resting() {
						out = append(out, Source{Name: fmt.Sprintf("mirror%d", i+1), Tier: TierOrigin, Range: p.open, Told: p.told})
					}
				}
				return out, a.last
			},
			Peers: func() (out []Source) {
				if a.looks > 0 {
					time.Sleep(a.looks)
				}
				for _, o := range s.agents {
					if o != a && o.alive.Load() {
						out = append(out, Source{Name: o.name, Tier: TierPeer, RT: a.to[o.name]})
					}
				}
				return out
			},
		})
		s.agents = append(s.agents, a)
	}
	for _, a := range s.agents {
		for _, o := range s.agents {
			if a != o {
				h := o.swarm.Handler()
				a.to[o.name] = &wire{h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), whoKey{}, a.name)))
				})}
			}
		}
	}
	return s
}

// start lets an agent fetch until it has the asset, as siteagent does.
func (s *site) start(a *member) {
	ctx, cancel := context.WithCancel(s.Context())
	a.stop = cancel
	began := time.Now()
	s.wg.Go(func() {
		defer close(a.done)
		for ctx.Err() == nil {
			if _, err := a.swarm.Fetch(ctx, s.m.Content, s.m.Digest(), Wanted, nil); err == nil {
				a.took = time.Since(began)
				return
			}
			sleep(ctx, 5*time.Second)
		}
	})
}

func (s *site) startAll() {
	for _, a := range s.agents {
		s.start(a)
	}
}

// kill ends an agent without a word.
func (s *site) kill(a *member) {
	a.origin.dead.Store(true)
	for _, o := range s.agents {
		if o != a {
			o.to[a.name].dead.Store(true)
			a.to[o.name].dead.Store(true)
		}
	}
	a.stop()
	<-a.done
}

// order returns the agents of a stripe, its owner first.
func (s *site) order(stripe uint32) []*member {
	return slices.SortedFunc(slices.Values(s.agents), func(x, y *member) int {
		if better(s.m.Content, stripe, x.name, y.name) {
			return -1
		}
		return 1
	})
}

// wan returns how many octets left the coordinator, for the size of the asset.
func (s *site) wan() float64 {
	var n int64
	for _, a := range s.agents {
		n += a.origin.sent.Load()
	}
	return float64(n) / float64(len(s.b))
}

// complete waits until these agents have the asset, octet for octet, within a time of the bubble.
func (s *site) complete(within time.Duration, agents ...*member) {
	s.Helper()
	limit := time.After(within)
	for _, a := range agents {
		select {
		case <-a.done:
		case <-limit:
			s.Fatalf("%s has not all after %v", a.name, within)
		}
		if !bytes.Equal(a.store.b, s.b) {
			s.Errorf("%s has other octets", a.name)
		}
	}
}

func (s *site) over() {
	for _, a := range s.agents {
		if a.stop != nil {
			a.stop()
		}
	}
	s.wg.Wait()
}

// inBubble runs fn with a site in a bubble.
func inBubble(t *testing.T, n, size int, fn func(s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, n, size)
		defer s.over()
		fn(s)
	})
}

// TestOnceOverTheWAN: however many agents there are, the coordinator sends the asset once, each stripe to one of them.
func TestOnceOverTheWAN(t *testing.T) {
	for _, n := range []int{1, 3, 7} {
		inBubble(t, n, 33<<20, func(s *site) {
			s.startAll()
			s.complete(10*time.Minute, s.agents...)
			var by []string
			for _, a := range s.agents {
				by = append(by, fmt.Sprintf("%.1f", float64(a.origin.sent.Load())/(1<<20)))
			}
			s.Logf("%d agents, 33 MiB at 1 MiB/s: %.3f times over the WAN in %v, MiB by agent: %s", n, s.wan(), s.agents[0].took.Round(time.Second), strings.Join(by, " "))
			if s.wan() > 1.05 {
				s.Errorf("%d agents: %.2f times over the WAN", n, s.wan())
			}
		})
	}
}

// TestResumesInTheMiddle: a line that breaks off every 100 to 300 KiB brings chunks of 1 MiB, and nothing twice; what came survives that
// nobody could be asked any more.
func TestResumesInTheMiddle(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	inBubble(t, 1, 3<<20, func(s *site) {
		a := s.agents[0]
		left, cuts := 200<<10, 0
		a.origin.octets = 64 << 10
		a.origin.cut = func(n int) (int, bool) {
			if n < left {
				left -= n
				return n, false
			}
			n, left = left, 100<<10+rnd.IntN(200<<10)
			if cuts++; cuts%4 == 0 {
				a.up.Store(false) // this Fetch finds nobody, and ends
				time.AfterFunc(3*time.Minute, func() { a.up.Store(true) })
			}
			return n, true
		}
		s.startAll()
		s.complete(time.Hour, a)
		if cuts < 10 || s.wan() > 1.05 {
			s.Errorf("%.2f times over the WAN, broken off %d times", s.wan(), cuts)
		}
	})
}

// TestResumesCompressed: of a compressed chunk that broke off its whole blocks are kept, and the rest comes as it is.
func TestResumesCompressed(t *testing.T) {
	raw := make([]byte, chunk.Size)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range raw {
		raw[i] = byte(rnd.IntN(16))
	}
	m, err := chunk.ScanManifest(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		cuts := []int{300 << 10, 10, 50 << 10}
		w := &wire{h: NewHandler(newMem(m, raw), slog.New(slog.DiscardHandler))}
		w.cut = func(n int) (int, bool) {
			if len(cuts) == 0 || n < cuts[0] {
				return n, false
			}
			n, cuts = cuts[0], cuts[1:]
			return n, true
		}
		sink := &mem{}
		s := New(Config{Self: "a", Store: sink, Peers: func() []Source { return nil }, Origin: func() (Source, bool) { return Source{Name: "c", Tier: TierOrigin, RT: w}, true }})
		if _, err := s.Fetch(t.Context(), m.Content, m.Digest(), Wanted, nil); err != nil || !bytes.Equal(sink.b, raw) || len(cuts) > 0 {
			t.Fatalf("%v, same octets %v, %d cuts left", err, bytes.Equal(sink.b, raw), len(cuts))
		}
		if n := w.sent.Load(); n > 1100<<10 { // the first 300 KiB brought two blocks
			t.Errorf("%d KiB came for a chunk of 1 MiB", n>>10)
		}
	})
}

// TestLiarInAPart: half a chunk of a liar is not continued by anybody else; when it is whole it is thrown away, and counts as a strike.
func TestLiarInAPart(t *testing.T) {
	inBubble(t, 3, 1<<20, func(s *site) {
		a, liar, honest := s.agents[0], s.agents[1], s.agents[2]
		a.up.Store(false)
		honest.alive.Store(false) // until the liar was heard, who is asked first then
		rot := newMem(s.m, s.b)
		rot.rot = map[int]bool{0: true}
		liar.store, honest.store = rot, newMem(s.m, s.b)
		var asked []string
		for _, o := range []*member{liar, honest} {
			inner := New(Config{Store: o.store, Log: slog.New(slog.DiscardHandler)}).Handler()
			w, once := a.to[o.name], false
			w.h = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				honest.alive.Store(true)
				if strings.HasSuffix(r.URL.Path, "/chunks") {
					asked = append(asked, o.name+" "+r.URL.Query().Get("skip"))
				}
				inner.ServeHTTP(rw, r)
			})
			w.cut = func(n int) (int, bool) {
				if once || n < 1000 {
					return n, false
				}
				once = true
				return n / 2, true
			}
		}
		s.start(a)
		s.complete(10*time.Minute, a)
		want := []string{liar.name + " ", liar.name + " 524288", liar.name + " ", liar.name + " ", honest.name + " ", honest.name + " 524288"}
		if !slices.Equal(asked, want) {
			s.Errorf("asked %q, want %q", asked, want)
		}
	})
}

// TestOwnerDies: the owner of the only stripe dies half-way; the next in order goes on with what the owner had not given.
func TestOwnerDies(t *testing.T) {
	inBubble(t, 3, 16<<20, func(s *site) {
		order := s.order(0)
		s.startAll()
		time.Sleep(8500 * time.Millisecond) // of the bubble: half of it came
		if n := order[0].origin.sent.Load(); n < 6<<20 || s.wan() > float64(n)/(16<<20) {
			s.Fatalf("the owner took %d of %.2f", n, s.wan()*16)
		}
		s.kill(order[0])
		s.complete(10*time.Minute, order[1:]...)
		s.Logf("%.2f times over the WAN, complete after %v", s.wan(), order[1].took)
		if n := order[2].origin.sent.Load(); s.wan() > 1.15 || n > 0 || order[1].took > time.Minute {
			s.Errorf("%.2f times over the WAN, %d octets by the last in order, complete after %v", s.wan(), n, order[1].took)
		}
	})
}

// TestOwnerLies: one of four gives nothing but bad chunks. It is out after three at each of the others, who do not wait for what it
// fetches from the coordinator, take its stripes themselves and tell it, so that it fetches no more. An hour is what it would take for one.
func TestOwnerLies(t *testing.T) {
	for name, octets := range map[string]int{"at once": 1 << 20, "for an hour": 4 << 10} {
		inBubble(t, 4, 97<<20, func(s *site) {
			liar := s.order(0)[0]
			liar.store.rot = map[int]bool{}
			for i := range s.m.Chunks {
				liar.store.rot[i] = true
			}
			liar.origin.octets = octets
			s.startAll()
			s.complete(10*time.Minute, s.agents...)
			honest := s.wan() - float64(liar.origin.sent.Load())/float64(len(s.b))
			s.Logf("%s: %.2f times over the WAN, %.2f by the honest ones, complete after %v, %v, %v, %v", name, s.wan(), honest, s.agents[0].took, s.agents[1].took, s.agents[2].took, s.agents[3].took)
			if s.wan() > 1.1 || honest > 1.02 {
				s.Errorf("%s: %.2f times over the WAN, %.2f by the honest ones", name, s.wan(), honest)
			}
		})
	}
}

// TestSlowOwner: the owner's line brings 4 KiB each second and once nothing for 50 s; it goes on, and nobody else begins.
func TestSlowOwner(t *testing.T) {
	inBubble(t, 3, 1<<20, func(s *site) {
		order := s.order(0)
		order[0].origin.octets = 4 << 10
		s.startAll()
		time.Sleep(time.Minute)
		order[0].origin.dead.Store(true)
		time.Sleep(50 * time.Second)
		order[0].origin.dead.Store(false)
		s.complete(time.Hour, s.agents...)
		if s.wan() > 1.05 || order[1].origin.sent.Load()+order[2].origin.sent.Load() > 0 {
			s.Errorf("%.2f times over the WAN, %d and %d octets by those who should wait", s.wan(), order[1].origin.sent.Load(), order[2].origin.sent.Load())
		}
	})
}

// TestLooksBeforeItAsks: an agent that begins does not take itself to be alone because it has not looked yet.
func TestLooksBeforeItAsks(t *testing.T) {
	inBubble(t, 3, 1<<20, func(s *site) {
		order := s.order(0)
		for _, a := range s.agents {
			a.looks = time.Millisecond
		}
		s.startAll()
		s.complete(time.Minute, s.agents...)
		if s.wan() > 1.05 || order[1].origin.sent.Load()+order[2].origin.sent.Load() > 0 {
			s.Errorf("%.2f times over the WAN, %d and %d octets by those who should wait", s.wan(), order[1].origin.sent.Load(), order[2].origin.sent.Load())
		}
	})
}

// TestTwoOwners: two agents that do not hear each other both begin; when they do, the first in order goes on alone.
func TestTwoOwners(t *testing.T) {
	inBubble(t, 2, 8<<20, func(s *site) {
		order := s.order(0)
		deaf := func(on bool) {
			order[0].to[order[1].name].dead.Store(on)
			order[1].to[order[0].name].dead.Store(on)
		}
		for _, a := range s.agents {
			a.origin.octets = 64 << 10
		}
		deaf(true)
		s.startAll()
		time.Sleep(30 * time.Second)
		if order[0].origin.sent.Load() == 0 || order[1].origin.sent.Load() == 0 {
			s.Fatal("somebody waits for ever for one that is not heard")
		}
		deaf(false)
		time.Sleep(20 * time.Second)
		then := order[1].origin.sent.Load()
		s.complete(10*time.Minute, s.agents...)
		s.Logf("%.2f times over the WAN, %d KiB by the second", s.wan(), then>>10)
		if n := order[1].origin.sent.Load(); n != then || n > 3<<20 {
			s.Errorf("the second in order took %d octets, %d of them while it knew of the first", n, n-then)
		}
	})
}

// TestWithoutWAN: who comes first in the order has no line to the coordinator, or one that is dead: the others bring it, to that one too.
func TestWithoutWAN(t *testing.T) {
	for name, fn := range map[string]func(a *member){
		"no line":           func(a *member) { a.up.Store(false) },
		"a line that fails": func(a *member) { a.origin.down.Store(true) },
		"silent":            func(a *member) { a.origin.dead.Store(true) },
	} {
		inBubble(t, 3, 4<<20, func(s *site) {
			order := s.order(0)
			fn(order[0])
			s.startAll()
			s.complete(5*time.Minute, s.agents...)
			s.Logf("%s: %.2f times over the WAN, complete after %v", name, s.wan(), order[0].took)
			if s.wan() > 1.05 || order[0].took > time.Minute {
				s.Errorf("%s: %.2f times over the WAN, complete after %v", name, s.wan(), order[0].took)
			}
		})
	}
}

// fill gives an agent the whole asset.
func (s *site) fill(a *member) {
	a.store.m, a.store.b, a.store.have = s.m, s.b, full(len(s.m.Chunks))
}

// TestManifestFromWhoComesLater: the coordinator's line is dead while the manifest is asked for, and then a peer comes that has all.
func TestManifestFromWhoComesLater(t *testing.T) {
	inBubble(t, 2, 4<<20, func(s *site) {
		a, late := s.agents[0], s.agents[1]
		s.fill(late)
		late.alive.Store(false)
		a.origin.dead.Store(true)
		s.start(a)
		time.Sleep(2 * time.Second)
		late.alive.Store(true)
		s.complete(10*time.Second, a)
	})
}

// TestSeveralPeersAtOnce: two peers whose wires bring 1 MiB in a second bring 64 MiB in half of the time that one would take.
func TestSeveralPeersAtOnce(t *testing.T) {
	inBubble(t, 3, 64<<20, func(s *site) {
		a := s.agents[0]
		a.up.Store(false)
		for _, o := range s.agents[1:] {
			s.fill(o)
			a.to[o.name].octets = 1 << 20
		}
		s.start(a)
		s.complete(40*time.Second, a)
	})
}

// TestNobodyHasALine: a site without coordinator waits, and does not give up for good.
func TestNobodyHasALine(t *testing.T) {
	inBubble(t, 3, 1<<20, func(s *site) {
		for _, a := range s.agents {
			a.up.Store(false)
		}
		s.startAll()
		time.Sleep(2 * time.Hour)
		s.agents[1].up.Store(true)
		s.complete(time.Minute, s.agents...)
		if s.wan() > 1.05 {
			s.Errorf("%.2f times over the WAN", s.wan())
		}
	})
}
