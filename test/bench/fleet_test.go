package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/test/e2e/procs"
)

const (
	fleet      = 1000 // sites, each with one agent that holds a session
	published  = 10   // changes that each site is told
	restSecs   = 60   // of sessions that only wait
	fleetReach = 2 * time.Minute
)

// follower is the uplink of an agent without the agent: a real session, entries fetched whole and counted, not kept.
type follower struct {
	site  string
	up    *uplink.Client
	first *follower // of the site, who pulls over the WAN; nil: this one. What the others take from it costs nothing here

	mu   sync.Mutex // guards what follows
	head intent.Head
	at   map[uint64]time.Time // when an entry was here
	wake chan struct{}
	asks []time.Time // dials, and requests for entries
}

// ask counts what it asks of the coordinator.
func (f *follower) ask() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks = append(f.asks, time.Now())
}

// asked returns how often it asked from at on, within d.
func (f *follower) asked(at time.Time, d time.Duration) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.asks {
		if !t.Before(at) && t.Before(at.Add(d)) {
			n++
		}
	}
	return n
}

func (f *follower) onHeads(ctx context.Context, h uplink.Heads) error {
	f.mu.Lock()
	own := f.head
	f.mu.Unlock()
	if h.Intent.Compare(own) <= 0 {
		return nil
	}
	if f.first != nil {
		if _, err := f.first.when(ctx, h.Intent.Seq); err != nil {
			return err
		}
	} else if err := f.fetch(ctx, own.Seq+1); err != nil {
		return err
	}
	now := time.Now()
	f.mu.Lock()
	for seq := own.Seq + 1; seq <= h.Intent.Seq; seq++ {
		f.at[seq] = now
	}
	f.head = h.Intent
	close(f.wake)
	f.wake = make(chan struct{})
	f.mu.Unlock()
	f.up.Applied(uplink.Heads{Trust: h.Trust, Revocation: h.Revocation, Intent: h.Intent})
	return nil
}

// fetch reads the chain from an entry on.
func (f *follower) fetch(ctx context.Context, from uint64) error {
	f.ask()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://coordinator/v1/sites/%s/intent?from=%d", f.site, from), nil)
	if err != nil {
		return err
	}
	res, err := f.up.RoundTripper().RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %w", res.StatusCode, err)
	}
	return nil
}

// when waits until the site has an entry.
func (f *follower) when(ctx context.Context, seq uint64) (time.Time, error) {
	for {
		f.mu.Lock()
		at, ok := f.at[seq]
		wake := f.wake
		f.mu.Unlock()
		if ok {
			return at, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return at, fmt.Errorf("site %s does not get entry %d", f.site, seq)
		}
	}
}

func (f *follower) seq() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.head.Seq
}

// newFollower joins a site by token as agent id and keeps a session until ctx ends. first is the one that pulls for the site, nil: this one.
func newFollower(ctx context.Context, g *errgroup.Group, addr, site, id, token string, first *follower) (*follower, error) {
	tok, _, err := join.ParseTarget(token)
	if err != nil {
		return nil, err
	}
	keys, err := seal.Generate()
	if err != nil {
		return nil, err
	}
	res, err := join.Join(ctx, &net.Dialer{}, addr, tok, keys, join.About{Addr: []string{"10.9.0.1:7444"}})
	if err != nil {
		return nil, err
	}
	view, err := trust.NewView(res.Chain.Body)
	if err != nil {
		return nil, err
	}
	leaf := &tls.Certificate{Certificate: [][]byte{res.Leaf.Raw, res.CA.Raw}, PrivateKey: keys.TLS, Leaf: res.Leaf}
	log := slog.New(slog.DiscardHandler)
	end, err := transport.New(transport.Config{
		Listen: "127.0.0.1:0", Log: log,
		TLS: &trust.TLS{
			Self: trust.Identity{Kind: trust.Agent, Site: site, ID: id}, View: func() *trust.View { return view },
			Leaf: func() *tls.Certificate { return leaf },
		},
	})
	if err != nil {
		return nil, err
	}
	f := &follower{site: site, first: first, at: map[uint64]time.Time{}, wake: make(chan struct{})}
	f.up = uplink.NewClient(uplink.ClientConfig{
		Endpoint: end, Log: log, OnHeads: f.onHeads, StartSpread: time.Millisecond,
		Hello:   func() uplink.Hello { return uplink.Hello{Agent: id, Site: site, Version: "bench"} },
		Targets: func() []uplink.Target { f.ask(); return []uplink.Target{{Addr: []string{addr}}} },
	})
	g.Go(func() error { return end.Run(ctx) })
	g.Go(func() error { return f.up.Run(ctx) })
	return f, nil
}

// cpuSeconds is what a process used until now.
func cpuSeconds(tb testing.TB, pid int) float64 {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] { // utime, stime: proc(5)
		n, err := strconv.Atoi(f)
		if err != nil {
			tb.Fatal(err)
		}
		ticks += n
	}
	return float64(ticks) / 100 // USER_HZ
}

// raise makes 1,000 sites, each with a real session of one agent over QUIC, which run until the benchmark ends.
func raise(b *testing.B, ctx context.Context, s *procs.Site) []*follower {
	b.Helper()
	ctx, cancel := context.WithCancel(ctx)
	addr := s.Addr["coordinator"]
	g, running := &errgroup.Group{}, &errgroup.Group{}
	b.Cleanup(func() {
		cancel()
		if err := running.Wait(); err != nil {
			b.Error(err)
		}
	})
	const batch = 100
	all := make([]*follower, fleet)
	for from := 0; from < fleet; from += batch {
		var docs []string
		for i := from; i < from+batch; i++ {
			docs = append(docs, fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"s%d"},"spec":{"region":"eu","zone":"a"}}`, i))
		}
		s.Apply(docs...)
		g.SetLimit(4)
		for i := from; i < from+batch; i++ {
			g.Go(func() error {
				site := fmt.Sprintf("s%d", i)
				t, err := s.API("coordinator").JoinToken(ctx, site, api.JoinTokenRequest{Agent: "a1"})
				if err != nil {
					return err
				}
				all[i], err = newFollower(ctx, running, addr, site, "a1", t.Token, nil)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	s.Until("every site has all of its entries", func(ctx context.Context) bool {
		for _, f := range all {
			if f.seq() == 0 {
				return false
			}
		}
		return true
	})
	return all
}

// change is the n-th change that every site is told.
func change(n int) string {
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"MachineType","metadata":{"name":"fleet"},"spec":{"cpu":{"min":%d},"memoryMiB":{"min":1}}}`, n)
}

// BenchmarkFleet: one coordinator process and 1,000 sites. What the coordinator uses while all of them wait, and how long a change takes
// that every site is told.
func BenchmarkFleet(b *testing.B) {
	s, ctx := procs.New(b, exe(b)), b.Context()
	all := raise(b, ctx, s)
	pid := s.Procs["coordinator"].Pid()
	used, at := cpuSeconds(b, pid), time.Now()
	rest := time.NewTimer(restSecs * time.Second)
	<-rest.C
	Figure(os.Stdout, fmt.Sprintf("coordinator, %d sites with a session each, CPU while they wait", fleet),
		fmt.Sprintf("%.3f cores", (cpuSeconds(b, pid)-used)/time.Since(at).Seconds()), "", "", "< 1 core")
	Figure(os.Stdout, fmt.Sprintf("coordinator, %d sites with a session each, resident memory", fleet), fmt.Sprintf("%.0f MB", procs.ResidentMB(b, pid)), "", "", "< 512 MB")

	var took []time.Duration
	used, at = cpuSeconds(b, pid), time.Now()
	for n := range published {
		next := make([]uint64, fleet)
		for i, f := range all {
			next[i] = f.seq() + 1
		}
		begun := time.Now()
		s.Apply(change(n + 1))
		wait, stop := context.WithTimeout(ctx, fleetReach)
		for i, f := range all {
			when, err := f.when(wait, next[i])
			if err != nil {
				stop()
				missing := 0
				for j, f := range all {
					if f.seq() < next[j] {
						missing++
					}
				}
				st, serr := s.API("coordinator").SiteStatus(ctx, f.site)
				b.Fatalf("%v; %d sites do not have it; coordinator: %+v %v; uplink %+v", err, missing, st, serr, f.up.Status())
			}
			took = append(took, when.Sub(begun))
		}
		stop()
	}
	Figure(os.Stdout, fmt.Sprintf("a change for all of %d sites, from the API call to the entry at the site, p99 of %d, median %s", fleet, len(took), Seconds(Quantile(took, 0.5))),
		Seconds(Quantile(took, 0.99)), "", "", "< 5 s")
	Figure(os.Stdout, "coordinator, CPU for each of these changes", fmt.Sprintf("%.2f s", (cpuSeconds(b, pid)-used)/published), "", "", "")
	Figure(os.Stdout, "coordinator, resident memory after them", fmt.Sprintf("%.0f MB", procs.ResidentMB(b, pid)), "", "", "< 512 MB")
	b.Logf("%.1f s for %d changes", time.Since(at).Seconds(), published)
}

// BenchmarkReturn: the coordinator of 1,000 sites is killed, and comes back when all of them rest as long between two attempts as they ever do,
// with a change for all. How often each asks in its first minute, and when the last one has the change.
func BenchmarkReturn(b *testing.B) {
	const away, minute = 3 * time.Minute, time.Minute
	s, ctx := procs.New(b, exe(b)), b.Context()
	all := raise(b, ctx, s)
	s.Kill("coordinator")
	rest := time.NewTimer(away)
	<-rest.C
	next := make([]uint64, fleet)
	for i, f := range all {
		next[i] = f.seq() + 1
	}
	s.Coordinator()
	back := time.Now()
	s.Apply(change(99))
	wait, stop := context.WithTimeout(ctx, 10*time.Minute)
	defer stop()
	var last time.Time
	for i, f := range all {
		at, err := f.when(wait, next[i])
		if err != nil {
			b.Fatal(err)
		}
		if at.After(last) {
			last = at
		}
	}
	if d := time.Until(back.Add(minute)); d > 0 {
		rest.Reset(d)
		<-rest.C
	}
	most, sum := 0, 0
	for _, f := range all {
		n := f.asked(back, minute)
		most, sum = max(most, n), sum+n
	}
	Figure(os.Stdout, fmt.Sprintf("a coordinator comes back to %d sites: dials and requests of a site in its first minute, mean", fleet),
		fmt.Sprintf("%d, %.2f", most, float64(sum)/fleet), "", "", "<= 2")
	Figure(os.Stdout, "the same: until the last site has a change", Seconds(last.Sub(back)), "", "", "<= 5 min")
}
