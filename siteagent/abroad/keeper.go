package abroad

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/mesh/transport"
)

const (
	// askEvery is how long an answer counts, wantedFor how long an asset is asked for after somebody wanted it last.
	askEvery  = 30 * time.Second
	wantedFor = 30 * time.Second
	// askLimit is how long one agent of another site may take to answer; the next one of the site is asked then.
	askLimit = 5 * time.Second
	// headStart is how long the coordinator is not asked for an asset while other sites have not answered yet, unless they did not the last time.
	headStart = 2 * time.Second
	askAtOnce = 8
	maxWanted = 256 // assets; who wants more at once asks the coordinator for the rest
)

// Config says what a Keeper works with. All are required but Out.
type Config struct {
	// Sites lists the agents of the sites that this one reaches, by site, in the order in which they are asked.
	Sites func() map[string][]string
	// To reaches an agent of another site by a session of its own.
	To func(transport.Peer) http.RoundTripper
	// Holders lists the agents of this site that have all of an asset.
	Holders func(intent.Digest) []string
	// Assets serves manifests and chunks of what is here.
	Assets http.Handler
	// Out waits until some of so many octets may leave the site, and returns how many; nil: all at once.
	Out func(ctx context.Context, octets int) (int, error)
	Log *slog.Logger
}

// Keeper knows which agents of other sites have what this one wants.
type Keeper struct {
	cfg   Config
	wake  chan struct{} // capacity 1
	turns chan struct{} // requests of other sites that are served at once

	mu     sync.Mutex // guards what follows
	wanted map[intent.Digest]*want
	sites  map[string]*site
}

// want is an asset that somebody fetches.
type want struct {
	first, last time.Time
	told        map[string]*told // by site
}

// told is what a site said of an asset.
type told struct {
	at      time.Time // zero: it is being asked
	holders []string
}

// site is how it stands with a site.
type site struct {
	rtt    time.Duration // of the last answer
	failed bool          // none of its agents answered the last time
}

// New returns a keeper that asks nobody before Run.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, wake: make(chan struct{}, 1), turns: make(chan struct{}, maxServed), wanted: map[intent.Digest]*want{}, sites: map[string]*site{}}
}

// Sources returns the agents of other sites that said lately that they have all of an asset, those of the nearest site first. asking says
// that others may yet, in the first moments. The asset is asked for from now on, for as long as this is called. It does not block.
func (k *Keeper) Sources(d intent.Digest) (out []swarm.Source, asking bool) {
	sites, now := k.cfg.Sites(), time.Now()
	if len(sites) == 0 {
		return nil, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.wanted[d]
	if w == nil && len(k.wanted) >= maxWanted {
		return nil, false
	}
	if w == nil {
		w = &want{first: now, told: map[string]*told{}}
		k.wanted[d] = w
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	w.last = now
	for _, name := range slices.SortedFunc(maps.Keys(sites), func(a, b string) int {
		return cmp.Or(cmp.Compare(k.of(a).rtt, k.of(b).rtt), cmp.Compare(a, b))
	}) {
		t := w.told[name]
		if t == nil || t.at.IsZero() && t.holders == nil {
			asking = asking || !k.of(name).failed && now.Sub(w.first) < headStart
			continue
		}
		for _, agent := range sites[name] {
			if slices.Contains(t.holders, agent) {
				rt := k.cfg.To(transport.Peer{Site: name, ID: agent})
				out = append(out, swarm.Source{Name: name + "/" + agent, Tier: swarm.TierSite, RT: rt})
			}
		}
	}
	return out, asking
}

// of returns the state of a site. The caller holds mu.
func (k *Keeper) of(name string) *site {
	s := k.sites[name]
	if s == nil {
		s = &site{}
		k.sites[name] = s
	}
	return s
}

// question is one asset that one site is asked for.
type question struct {
	d      intent.Digest
	site   string
	agents []string
}

// due lists what is to be asked now, and forgets what nobody wants any more and sites that are not reached any more.
func (k *Keeper) due() (out []question) {
	sites, now := k.cfg.Sites(), time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.wanted, func(_ intent.Digest, w *want) bool { return now.Sub(w.last) > wantedFor })
	maps.DeleteFunc(k.sites, func(name string, _ *site) bool { return sites[name] == nil })
	silent := map[string]bool{}
	for d, w := range k.wanted {
		maps.DeleteFunc(w.told, func(name string, _ *told) bool { return sites[name] == nil })
		for name, agents := range sites {
			t := w.told[name]
			if t == nil {
				t = &told{}
				w.told[name] = t
			} else if now.Sub(t.at) < askEvery {
				continue
			}
			if k.of(name).failed { // one question shows whether it is back; the others would keep those to live sites waiting
				if silent[name] {
					t.at = now
					continue
				}
				silent[name] = true
			}
			t.at = time.Time{}
			out = append(out, question{d, name, agents})
		}
	}
	return out
}

// Run asks until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	t := time.NewTicker(askEvery / 6)
	defer t.Stop()
	for {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(askAtOnce)
		for _, q := range k.due() {
			g.Go(func() error { k.ask(gctx, q); return nil })
		}
		_ = g.Wait() // none fails
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-t.C:
		}
	}
}

// ask asks a site, through the first of its agents that answers.
func (k *Keeper) ask(ctx context.Context, q question) {
	var holders []string
	err := errors.New("it has no agents")
	var took time.Duration
	for _, agent := range q.agents {
		began := time.Now()
		if holders, err = who(ctx, k.cfg.To(transport.Peer{Site: q.site, ID: agent}), q.d); err == nil {
			took = time.Since(began)
			break
		}
	}
	if err != nil {
		k.cfg.Log.DebugContext(ctx, "another site does not say what it has", "site", q.site, "asset", q.d.Short(), "err", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.of(q.site)
	if s.failed = err != nil; !s.failed {
		s.rtt = took
	}
	if w := k.wanted[q.d]; w != nil {
		w.told[q.site] = &told{at: time.Now(), holders: holders}
	}
}
