package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

const (
	loadSites  = 99  // of five followers each; the agents of one more are whole
	loadWhole  = 5   // whole agents, processes of their own
	loadRate   = 200 // entries a second, over all sites
	loadFor    = 3 * time.Minute
	loadKills  = 10 * time.Second // between two kills of a whole agent
	loadReach  = time.Minute
	loadPolled = 10 * time.Millisecond
)

// load is the changes of one site, one after the other.
type load struct {
	site      string
	api       *client.Client
	followers []*follower

	n    int // changes that were acknowledged
	took []time.Duration
}

// change makes one change.
func (l *load) change(ctx context.Context) error {
	doc := fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Infrastructure","metadata":{"name":"load-%s","project":"acme","site":%q},"spec":{"description":"%d"}}`, l.site, l.site, l.n+1)
	if _, err := l.api.Apply(ctx, []json.RawMessage{json.RawMessage(doc)}, false, ""); err != nil {
		return fmt.Errorf("site %s, change %d: %w", l.site, l.n+1, err)
	}
	l.n++
	return nil
}

// followed makes a change at each tick until end, and waits until all followers have its entry. Who is late catches up, and a change
// counts from its tick: what waits in line is late too.
func (l *load) followed(ctx context.Context, first time.Time, every time.Duration, end time.Time) error {
	for next := first; next.Before(end); next = next.Add(every) {
		if err := rest(ctx, time.Until(next)); err != nil {
			return err
		}
		seq := l.followers[0].seq() + 1
		if err := l.change(ctx); err != nil {
			return err
		}
		for _, f := range l.followers {
			wait, stop := context.WithTimeout(ctx, loadReach)
			at, err := f.when(wait, seq)
			stop()
			if err != nil {
				return err
			}
			l.took = append(l.took, at.Sub(next))
		}
	}
	return nil
}

// rest waits for d.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// whole are the agents that are processes, and how often each was killed.
type whole struct {
	s  *procs.Site
	mu sync.Mutex // guards lives; held while one is killed
	// lives counts, of each, kills and starts: odd while it is down.
	lives map[string]int
}

func (w *whole) life(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lives[name]
}

// active waits until an agent has seq active. False: it died meanwhile.
func (w *whole) active(ctx context.Context, name string, c *client.Client, seq uint64) (bool, error) {
	life := w.life(name)
	for life%2 == 0 {
		st, err := c.SiteStatus(ctx, "lon1")
		if err == nil && st.Head.Seq >= seq {
			return w.life(name) == life, nil
		}
		if w.life(name) != life {
			return false, nil
		}
		if rest(ctx, loadPolled) != nil {
			return false, fmt.Errorf("%s does not get entry %d: %v", name, seq, err)
		}
	}
	return false, nil
}

// load makes the changes of the whole agents' site, and returns how long each took to be active at each that lived.
func (w *whole) load(ctx context.Context, l *load, every time.Duration, end time.Time) (took []time.Duration, err error) {
	apis := map[string]*client.Client{}
	for name := range w.lives {
		apis[name] = w.s.API(name)
	}
	for next := time.Now(); next.Before(end); next = next.Add(every) {
		if err := rest(ctx, time.Until(next)); err != nil {
			return nil, err
		}
		st, err := l.api.SiteStatus(ctx, "lon1")
		if err != nil {
			return nil, err
		}
		if err := l.change(ctx); err != nil {
			return nil, err
		}
		wait, stop := context.WithTimeout(ctx, loadReach)
		g, ctx := errgroup.WithContext(wait)
		var mu sync.Mutex
		for name, c := range apis {
			g.Go(func() error {
				lived, err := w.active(ctx, name, c, st.Published.Seq+1)
				if lived {
					mu.Lock()
					defer mu.Unlock()
					took = append(took, time.Since(next))
				}
				return err
			})
		}
		err = g.Wait()
		stop()
		if err != nil {
			return nil, err
		}
	}
	return took, nil
}

// kills ends one whole agent after the other without a word, and starts it again.
func (w *whole) kills(ctx context.Context, rnd *rand.Rand, end time.Time) (n int) {
	for rest(ctx, loadKills) == nil && time.Now().Before(end) {
		name := fmt.Sprintf("a%d", 1+rnd.IntN(loadWhole))
		w.mu.Lock()
		w.lives[name]++
		w.s.Kill(name)
		w.s.Agent(name)
		w.mu.Unlock()
		n++
		w.s.Until(name+" answers", func(ctx context.Context) bool {
			_, err := w.s.API(name).Whoami(ctx)
			return err == nil
		})
		w.mu.Lock()
		w.lives[name]++
		w.mu.Unlock()
	}
	return n
}

// BenchmarkLoad is experiment F22: 500 agents in 100 sites under 200 entries a second. Five agents are whole processes, one of which is
// killed every ten seconds; the others hold real sessions, and the first of each site fetches. Then the coordinator is killed too. Nothing that was acknowledged
// may be missing, at the coordinator or at a site.
func BenchmarkLoad(b *testing.B) {
	seed := uint64(time.Now().UnixNano())
	b.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := &whole{lives: map[string]int{}}
	var names []string
	for i := range loadWhole {
		names = append(names, fmt.Sprintf("a%d", i+1))
		w.lives[names[i]] = 0
	}
	s := procs.New(b, exe(b), names...)
	w.s = s
	ctx, cancel := context.WithCancel(b.Context())
	running := &errgroup.Group{}
	defer func() {
		cancel()
		if err := running.Wait(); err != nil {
			b.Error(err)
		}
	}()
	all := loadFleet(ctx, b, s, running)
	own := &load{site: "lon1", api: s.API("coordinator")}

	end := time.Now().Add(loadFor)
	every := time.Second * (loadSites + 1) / loadRate
	used, begun := cpuSeconds(b, s.Procs["coordinator"].Pid()), time.Now()
	var took []time.Duration
	kills, most := 0, map[string]float64{}
	g, loaded := errgroup.WithContext(ctx)
	for i, l := range all {
		first := begun.Add(every * time.Duration(i+1) / (loadSites + 1)) // sites do not change in step
		g.Go(func() error { return l.followed(loaded, first, every, end) })
	}
	g.Go(func() (err error) { took, err = w.load(loaded, own, every, end); return err })
	g.Go(func() error { kills = w.kills(loaded, rnd, end); return nil })
	g.Go(func() error {
		for time.Now().Before(end) && rest(loaded, time.Second) == nil {
			w.mu.Lock() // none is being killed
			for name, p := range s.Procs {
				most[name] = max(most[name], procs.ResidentMB(b, p.Pid()))
			}
			w.mu.Unlock()
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	secs := time.Since(begun).Seconds()
	cores := (cpuSeconds(b, s.Procs["coordinator"].Pid()) - used) / secs
	entries, at := own.n, []time.Duration{}
	for _, l := range all {
		entries += l.n
		at = append(at, l.took...)
	}
	agent := 0.0
	for _, n := range names {
		agent = max(agent, most[n])
	}
	Figure(os.Stdout, fmt.Sprintf("%d agents in %d sites, entries a second for %.0f s, %d kills", loadSites*5+loadWhole, loadSites+1, secs, kills), fmt.Sprintf("%.0f/s", float64(entries)/secs), "", "", fmt.Sprintf("%d/s", loadRate))
	Figure(os.Stdout, fmt.Sprintf("from when it was due to active at a whole agent, p99 of %d, median %s", len(took), Seconds(Quantile(took, 0.5))), Seconds(Quantile(took, 0.99)), "", "", "< 1 s")
	Figure(os.Stdout, fmt.Sprintf("from when it was due to the entry at any other agent, p99 of %d, median %s", len(at), Seconds(Quantile(at, 0.5))), Seconds(Quantile(at, 0.99)), "", "", "")
	Figure(os.Stdout, "resident memory under it, the largest agent; coordinator", fmt.Sprintf("%.0f MB; %.0f MB", agent, most["coordinator"]), "", "", "< 157 MB")
	Figure(os.Stdout, "coordinator, CPU under it", fmt.Sprintf("%.2f cores", cores), "", "", "")

	s.Kill("coordinator")
	s.Coordinator()
	s.Until("all that was acknowledged is at the coordinator and at the whole site", func(ctx context.Context) bool {
		for _, l := range append(all, own) {
			if !l.has(ctx, s.API("coordinator")) {
				return false
			}
		}
		for _, n := range names {
			if !own.has(ctx, s.API(n)) {
				return false
			}
		}
		return true
	})
}

// has tells whether the last change that was acknowledged is there.
func (l *load) has(ctx context.Context, c *client.Client) bool {
	info, _ := intent.KindInfrastructure.Info()
	o, err := c.Get(ctx, info, "acme", "load-"+l.site)
	return err == nil && o.Spec.(*intent.InfrastructureSpec).Description == fmt.Sprint(l.n)
}

// loadFleet makes the sites of followers, and joins these.
func loadFleet(ctx context.Context, b *testing.B, s *procs.Site, running *errgroup.Group) (all []*load) {
	b.Helper()
	docs, in := []string{}, []string{"lon1"}
	for i := range loadSites {
		site := fmt.Sprintf("s%d", i)
		in = append(in, site)
		docs = append(docs, fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":%q},"spec":{"region":"eu","zone":"a"}}`, site))
		all = append(all, &load{site: site, api: s.API("coordinator")})
	}
	sites, err := json.Marshal(in)
	if err != nil {
		b.Fatal(err)
	}
	s.Apply(append(docs, fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Project","metadata":{"name":"acme"},"spec":{"sites":%s}}`, sites))...)
	g := &errgroup.Group{}
	g.SetLimit(4)
	for _, l := range all {
		g.Go(func() error {
			for i := range 5 {
				id := fmt.Sprintf("a%d", i+1)
				t, err := l.api.JoinToken(ctx, l.site, api.JoinTokenRequest{Agent: id})
				if err != nil {
					return err
				}
				var first *follower
				if i > 0 {
					first = l.followers[0]
				}
				f, err := newFollower(ctx, running, s.Addr["coordinator"], l.site, id, t.Token, first)
				if err != nil {
					return err
				}
				l.followers = append(l.followers, f)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	s.Until("every follower has what its site was told", func(ctx context.Context) bool {
		for _, l := range all {
			st, err := l.api.SiteStatus(ctx, l.site)
			if err != nil || st.Published.Seq == 0 {
				return false
			}
			for _, f := range l.followers {
				if f.seq() != st.Published.Seq {
					return false
				}
			}
		}
		return true
	})
	return all
}
