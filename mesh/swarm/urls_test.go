package swarm

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
)

// place is a URL as one agent sees it: it rests a minute after each refusal, as siteagent/origins does.
type place struct {
	b      []byte
	octets int         // a second
	refuse error       // what each request is answered with
	dead   atomic.Bool // nothing comes any more
	cut    int         // octets after which each request breaks off; 0: none does
	sent   atomic.Int64

	mu    sync.Mutex
	until time.Time
	heard []error // what it was told, nil too
}

func (p *place) resting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.until)
}

func (p *place) told(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, err)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		p.until = time.Now().Add(time.Minute)
	}
}

// refusals are the errors that it was told.
func (p *place) refusals() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.heard), func(err error) bool { return err == nil })
}

func (p *place) open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if p.refuse != nil {
		return nil, p.refuse
	}
	left := int(n)
	if p.cut > 0 {
		left = min(left, p.cut)
	}
	return io.NopCloser(&dripping{ctx, p, p.b[off : off+int64(left)]}), nil
}

type dripping struct {
	ctx context.Context
	p   *place
	b   []byte
}

func (d *dripping) Read(b []byte) (int, error) {
	if len(d.b) == 0 {
		return 0, io.EOF
	}
	if d.p.dead.Load() {
		<-d.ctx.Done()
		return 0, d.ctx.Err()
	}
	n := copy(b, d.b)
	if !sleep(d.ctx, time.Duration(n)*time.Second/time.Duration(d.p.octets)) {
		return 0, d.ctx.Err()
	}
	d.p.sent.Add(int64(n))
	d.b = d.b[n:]
	return n, nil
}

// link gives each agent a URL; those that know is true of have the manifest already.
func (s *site) link(know bool) {
	for _, a := range s.agents {
		a.urls = append(a.urls, &place{b: s.b, octets: 1 << 20})
		if know {
			if err := a.store.Put(s.Context(), s.m); err != nil {
				s.Fatal(err)
			}
		}
	}
}

// gave returns what the URLs and the coordinator sent to all agents, for the size of the asset.
func (s *site) gave() (url, coordinator float64) {
	for _, a := range s.agents {
		for _, p := range a.urls {
			url += float64(p.sent.Load()) / float64(len(s.b))
		}
		coordinator += float64(a.origin.sent.Load()) / float64(len(s.b))
	}
	return url, coordinator
}

// TestFromURL: three agents take an asset from its URL once, whether there is a coordinator or not; where the coordinator comes first, it is asked.
func TestFromURL(t *testing.T) {
	f := func(name string, up, last bool, url, coordinator float64) {
		t.Helper()
		inBubble(t, 3, 49<<20, func(s *site) {
			s.link(true)
			for _, a := range s.agents {
				a.up.Store(up)
				a.origin.dead.Store(!up)
				a.last = last
			}
			s.startAll()
			s.complete(10*time.Minute, s.agents...)
			u, c := s.gave()
			if u > 1.02*url || u < url || c > 1.02*coordinator || c < coordinator {
				s.Errorf("%s: %.3f times from the URL, %.3f from the coordinator", name, u, c)
			}
			for _, a := range s.agents {
				if bad := a.urls[0].refusals(); len(bad) > 0 {
					s.Errorf("%s: %s told %v", name, a.name, bad)
				}
			}
		})
	}
	f("the coordinator is gone", false, false, 1, 0)
	f("the coordinator is there", true, false, 1, 0)
	f("the coordinator comes first", true, true, 0, 1)
	f("the coordinator comes first, and is gone", false, true, 1, 0)
}

// TestManifestNotFromURL: who has no manifest takes it from the coordinator, and the octets from the URL.
func TestManifestNotFromURL(t *testing.T) {
	inBubble(t, 2, 17<<20, func(s *site) {
		s.link(false)
		s.startAll()
		s.complete(10*time.Minute, s.agents...)
		if u, c := s.gave(); u < 1 || u > 1.02 || c > 0 {
			s.Errorf("%.3f times from the URL, %.3f from the coordinator", u, c)
		}
	})
	inBubble(t, 1, 1<<20, func(s *site) { // nobody has it: the fetch ends, and asks for nothing
		s.link(false)
		a := s.agents[0]
		a.up.Store(false)
		_, err := a.swarm.Fetch(s.Context(), s.m.Content, s.m.Digest(), Wanted, nil)
		if u, _ := s.gave(); !errors.Is(err, ErrSources) || u > 0 {
			s.Errorf("%v, %.3f times from the URL", err, u)
		}
	})
}

// TestURLFails: a URL that is refused, lies, is silent, drips or breaks off is left for the coordinator; it is told why, and nothing wrong is kept.
func TestURLFails(t *testing.T) {
	errRefused := errors.New("it has another file now")
	f := func(name string, spoil func(p *place), want error, most float64) {
		t.Helper()
		inBubble(t, 2, 33<<20, func(s *site) {
			s.link(true)
			for _, a := range s.agents {
				spoil(a.urls[0])
			}
			began := time.Now()
			s.startAll()
			s.complete(20*time.Minute, s.agents...)
			u, c := s.gave()
			s.Logf("%s: %.3f times from the URL, %.3f from the coordinator, after %v", name, u, c, time.Since(began))
			if u+c > most {
				s.Errorf("%s: %.3f times from the URL, %.3f from the coordinator", name, u, c)
			}
			told := 0
			for _, a := range s.agents {
				for _, err := range a.urls[0].refusals() {
					told++
					if !errors.Is(err, want) {
						s.Errorf("%s: told %v", name, err)
					}
				}
			}
			if told == 0 {
				s.Errorf("%s: it was told nothing", name)
			}
		})
	}
	f("refused", func(p *place) { p.refuse = errRefused }, errRefused, 1.02)
	f("lies", func(p *place) { p.b = []byte(strings.Repeat("x", len(p.b))) }, chunk.ErrBad, 1.2)
	f("silent", func(p *place) { p.dead.Store(true) }, ErrSlow, 1.02)
	f("drips", func(p *place) { p.octets = 4 << 10 }, ErrSlow, 1.1)
	f("breaks off", func(p *place) { p.cut = 700_000 }, io.ErrUnexpectedEOF, 1.02)
}

// TestCoordinatorFailsBesideURL: where the coordinator comes first and nothing comes of it, the URL is asked.
func TestCoordinatorFailsBesideURL(t *testing.T) {
	inBubble(t, 2, 33<<20, func(s *site) {
		s.link(true)
		for _, a := range s.agents {
			a.last = true
			a.origin.dead.Store(true) // its session seems to be up
		}
		s.startAll()
		s.complete(10*time.Minute, s.agents...)
		if u, c := s.gave(); u < 1 || u > 1.02 || c > 0 {
			s.Errorf("%.3f times from the URL, %.3f from the coordinator", u, c)
		}
	})
}

// TestURLUnreachableForOne: an agent without a route to the URL takes its stripes from the coordinator at once, and holds nobody up.
func TestURLUnreachableForOne(t *testing.T) {
	inBubble(t, 2, 33<<20, func(s *site) {
		s.link(true)
		s.agents[0].urls[0].refuse = errors.New("no route")
		began := time.Now()
		s.startAll()
		s.complete(2*time.Minute, s.agents...)
		if u, c := s.gave(); u+c > 1.02 || time.Since(began) > time.Minute {
			s.Errorf("%.3f times from the URL, %.3f from the coordinator, after %v", u, c, time.Since(began))
		}
	})
}
