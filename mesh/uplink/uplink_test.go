package uplink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 30 * time.Second // far above what anything here takes on a busy machine

// coordinator is a server under test.
type coordinator struct {
	*Server
	addr    string
	stop    func()
	seq     atomic.Uint64 // of the intent head
	applied chan Heads
}

func endpoint(t *testing.T, n *pkitest.Node, listen string) *transport.Endpoint {
	t.Helper()
	alpns := []string{trust.ALPNUplink}
	e, err := transport.New(transport.Config{Listen: listen, TLS: n.TLS, UDP: alpns, TCP: alpns, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// run runs f until the test or the returned stop ends it.
func run(t *testing.T, f func(context.Context) error) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(limit):
			t.Error("Run did not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

func startCoordinator(t *testing.T, n *pkitest.Node, listen string, change ...func(*ServerConfig)) *coordinator {
	t.Helper()
	c := &coordinator{applied: make(chan Heads, 16)}
	c.seq.Store(1)
	e := endpoint(t, n, listen)
	cfg := ServerConfig{
		Endpoint: e, Log: slog.New(slog.DiscardHandler),
		Welcome: func(string) (Welcome, error) {
			return Welcome{Coordinator: n.ID.ID, Epoch: 1, Heads: Heads{Intent: intent.Head{Epoch: 1, Seq: c.seq.Load()}}}, nil
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s", transport.PeerFrom(r.Context()), r.URL)
		}),
		OnApplied: func(_ context.Context, _, _ string, h Heads) { c.applied <- h },
	}
	for _, f := range change {
		f(&cfg)
	}
	c.Server = NewServer(cfg)
	c.addr = e.Addr().String()
	c.stop = run(t, e.Run)
	return c
}

// agent is a client under test.
type agent struct {
	*Client
	heads chan Heads
	ups   chan string
	downs chan error
}

func startAgent(t *testing.T, n *pkitest.Node, change func(*ClientConfig), targets ...Target) *agent {
	t.Helper()
	a := &agent{heads: make(chan Heads, 64), ups: make(chan string, 64), downs: make(chan error, 64)}
	e := endpoint(t, n, "127.0.0.1:0")
	cfg := ClientConfig{
		Endpoint: e, Log: slog.New(slog.DiscardHandler), StartSpread: time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		Hello:   func() Hello { return Hello{Agent: n.ID.ID, Site: n.ID.Site, Boot: "b", Version: "v1"} },
		Targets: func() []Target { return targets },
		OnHeads: func(_ context.Context, h Heads) error { a.heads <- h; return nil },
		OnUp:    func(_ context.Context, w Welcome) { a.ups <- w.Coordinator },
		OnDown:  func(err error) { a.downs <- err },
		Reverse: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s", transport.PeerFrom(r.Context()), r.URL)
		}),
	}
	if change != nil {
		change(&cfg)
	}
	a.Client = NewClient(cfg)
	run(t, e.Run)
	run(t, a.Run)
	return a
}

func receive[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(limit):
		t.Fatalf("never came: %s", what)
		panic("unreachable")
	}
}

func get(t *testing.T, rt http.RoundTripper, url string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func TestBothWays(t *testing.T) {
	for _, lane := range []transport.Lane{transport.LaneQUIC, transport.LaneTCP} {
		t.Run(string(lane), func(t *testing.T) {
			d := pkitest.New(t)
			c := startCoordinator(t, d.Coordinator("c1"), "127.0.0.1:0")
			a := startAgent(t, d.Agent("lon1", "a1", ""), func(cfg *ClientConfig) {}, Target{ID: "c1", Addr: []string{c.addr}})
			if lane == transport.LaneTCP {
				// Force the lane by what three failed dials leave behind, then lose the first session.
				receive(t, "first session", a.ups)
				receive(t, "first heads", a.heads)
				a.mu.Lock()
				a.failures = quicTries
				s := a.sess
				a.mu.Unlock()
				s.Close(transport.CodeAway, "test")
			}
			if got := receive(t, "session", a.ups); got != "c1" {
				t.Errorf("up with %q", got)
			}
			if st := a.Status(); !st.Up || st.Lane != lane || st.Coordinator != "c1" {
				t.Errorf("status %+v", st)
			}
			if rtt, ok := a.RTT(); ok != (lane == transport.LaneQUIC) || ok && rtt > limit {
				t.Errorf("there and back: %v, %v", rtt, ok)
			}
			if h := receive(t, "heads", a.heads); h.Intent.Seq != 1 {
				t.Errorf("heads %+v", h)
			}
			c.seq.Store(2)
			c.Notify("par3")
			c.Notify("lon1")
			if h := receive(t, "pushed heads", a.heads); h.Intent.Seq != 2 {
				t.Errorf("heads %+v", h)
			}
			a.Applied(Heads{Intent: intent.Head{Epoch: 1, Seq: 2}})
			if h := receive(t, "applied", c.applied); h.Intent.Seq != 2 {
				t.Errorf("applied %+v", h)
			}
			if got, err := get(t, a.RoundTripper(), "http://coordinator/v1/sites/lon1/intent?from=1"); err != nil || got != "lon1/a1 /v1/sites/lon1/intent?from=1" {
				t.Errorf("up: %q, %v", got, err)
			}
			for range 5 {
				if got, err := get(t, c.RoundTripper("lon1", ""), "http://a1/metrics"); err != nil || got != "coordinator/c1 /metrics" {
					t.Errorf("down: %q, %v", got, err)
				}
			}
			if _, err := get(t, c.RoundTripper("par3", ""), "http://p1/"); !errors.Is(err, ErrDown) {
				t.Errorf("a site without session: %v", err)
			}
			ss := c.Sessions()
			if len(ss) != 1 || ss[0].Site != "lon1" || ss[0].Agent != "a1" || ss[0].Lane != lane || ss[0].Applied.Intent.Seq != 2 {
				t.Errorf("sessions %+v", ss)
			}
		})
	}
}

// TestCoordinatorRestarts: without it everything fails at once and nothing waits; back on the same address it is found.
// A read goes to another agent of the site when the first one says nothing, as one that died a moment ago, or its session ends; and it
// fails when nobody answers. What is no read goes over one session alone.
func TestReadsGoToWhoAnswers(t *testing.T) {
	d := pkitest.New(t)
	c := startCoordinator(t, d.Coordinator("c1"), "127.0.0.1:0")
	var asked atomic.Int64
	begun, released := make(chan struct{}, 8), make(chan struct{})
	dead := startAgent(t, d.Agent("lon1", "a2", ""), func(cfg *ClientConfig) {
		cfg.Reverse = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			begun <- struct{}{}
			select {
			case <-r.Context().Done():
			case <-released:
				panic(http.ErrAbortHandler)
			}
		})
	}, Target{Addr: []string{c.addr}})
	receive(t, "session of a2", dead.ups)
	alive := startAgent(t, d.Agent("lon1", "a1", ""), nil, Target{Addr: []string{c.addr}})
	receive(t, "session of a1, which may be a visit: a2 comes first", alive.ups)
	for who, want := range map[[2]string]bool{{"lon1", ""}: true, {"lon1", "a2"}: true, {"lon1", "a3"}: false, {"par1", ""}: false} {
		if got := c.Connected(who[0], who[1]); got != want {
			t.Errorf("Connected(%v) = %v", who, got)
		}
	}
	rt := c.RoundTripper("lon1", "")
	if body, err := get(t, rt, "http://lon1/x"); err != nil || body != "coordinator/c1 /x" {
		t.Errorf("over a2, which is silent: %q, %v", body, err)
	}
	receive(t, "the question at a2", begun)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://lon1/x", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		res, err := rt.RoundTrip(req)
		if err == nil {
			res.Body.Close()
		}
		done <- err
	}()
	receive(t, "the change at a2", begun)
	cancel()
	if err := receive(t, "the end of the change", done); err == nil {
		t.Error("a change went to another agent")
	}
	close(released)
	if body, err := get(t, rt, "http://lon1/y"); err != nil || body != "coordinator/c1 /y" {
		t.Errorf("over a2, which breaks off: %q, %v", body, err)
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("a2 was asked %d times, want 3", n)
	}
	if _, err := get(t, c.RoundTripper("lon1", "a2"), "http://lon1/z"); err == nil {
		t.Error("a question to a2 alone was answered")
	}
}

func TestCoordinatorRestarts(t *testing.T) {
	d := pkitest.New(t)
	n := d.Coordinator("c1")
	c := startCoordinator(t, n, "127.0.0.1:0")
	addr := c.addr
	a := startAgent(t, d.Agent("lon1", "a1", ""), nil, Target{Addr: []string{addr}})
	receive(t, "session", a.ups)
	c.stop()
	receive(t, "the end of the session", a.downs)
	start := time.Now()
	if _, err := get(t, a.RoundTripper(), "http://coordinator/"); !errors.Is(err, ErrDown) || time.Since(start) > time.Second {
		t.Errorf("without a coordinator: %v after %v", err, time.Since(start))
	}
	startCoordinator(t, n, addr)
	receive(t, "session after the restart", a.ups)
}

// What could not be done about the coordinator's heads is tried again in the same session, although they do not move.
func TestHeadsAreToldAgain(t *testing.T) {
	d := pkitest.New(t)
	c := startCoordinator(t, d.Coordinator("c1"), "127.0.0.1:0")
	told := make(chan Heads, 64)
	tries := 0
	a := startAgent(t, d.Agent("lon1", "a1", ""), func(cfg *ClientConfig) {
		cfg.OnHeads = func(_ context.Context, h Heads) error {
			told <- h
			if tries++; tries < 3 {
				return errors.New("the line broke")
			}
			return nil
		}
	}, Target{Addr: []string{c.addr}})
	receive(t, "session", a.ups)
	first := receive(t, "heads", told)
	for range 2 {
		if h := receive(t, "the same heads", told); h != first {
			t.Errorf("told %+v, first %+v", h, first)
		}
	}
	select {
	case <-told:
		t.Error("told again after it was done")
	case <-time.After(500 * time.Millisecond): // ten rounds of back-off
	}
	if len(a.downs) > 0 {
		t.Error("the session ended")
	}
}

func TestFailover(t *testing.T) {
	d := pkitest.New(t)
	c2 := startCoordinator(t, d.Coordinator("c2"), "127.0.0.1:0")
	liar := startCoordinator(t, d.Coordinator("c3"), "127.0.0.1:0", func(c *ServerConfig) {
		c.Welcome = func(string) (Welcome, error) { return Welcome{Coordinator: "c2"}, nil }
	})
	busyOne := startCoordinator(t, d.Coordinator("c4"), "127.0.0.1:0", func(c *ServerConfig) { c.MaxSessions = -1 })
	a := startAgent(t, d.Agent("lon1", "a1", ""), nil,
		Target{ID: "c1", Addr: []string{"127.0.0.1:nowhere"}, Priority: 0},
		Target{ID: "c9", Addr: []string{c2.addr}, Priority: 1}, // another answers there
		Target{ID: "c2", Addr: []string{c2.addr}, Priority: 2})
	if got := receive(t, "session", a.ups); got != "c2" {
		t.Errorf("up with %q", got)
	}
	l := startAgent(t, d.Agent("lon1", "a2", ""), nil, Target{Addr: []string{liar.addr}})
	b := startAgent(t, d.Agent("lon1", "a3", ""), nil, Target{Addr: []string{busyOne.addr}})
	idle := startAgent(t, d.Agent("lon1", "a4", ""), func(c *ClientConfig) { c.Active = func() bool { return false } }, Target{Addr: []string{c2.addr}})
	unlisted := startAgent(t, d.Unlisted("lon1", "a5"), nil, Target{Addr: []string{c2.addr}})
	select {
	case got := <-l.ups:
		t.Errorf("a coordinator that lies about its name: up with %q", got)
	case <-b.ups:
		t.Error("up with a busy coordinator")
	case <-idle.ups:
		t.Error("an agent that should not hold a session does")
	case <-unlisted.ups:
		t.Error("an agent off the roster is up")
	case <-time.After(500 * time.Millisecond): // ten rounds of back-off
	}
	// Two sessions of a site: the asked agent's is used.
	a6 := startAgent(t, d.Agent("lon1", "a6", ""), func(c *ClientConfig) {
		c.Reverse = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "six") })
	}, Target{Addr: []string{c2.addr}})
	receive(t, "second session", a6.ups)
	if got, err := get(t, c2.RoundTripper("lon1", "a1"), "http://a1/"); err != nil || got != "coordinator/c2 /" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := get(t, c2.RoundTripper("lon1", "a6"), "http://a6/"); err != nil || got != "six" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBackoff(t *testing.T) {
	for fails := 1; fails < 100; fails++ {
		for range 100 {
			if d := Backoff(fails, time.Minute); d < 0 || d > time.Minute || fails == 1 && d > time.Second {
				t.Fatalf("Backoff(%d) = %v", fails, d)
			}
		}
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(`{"hello":{"agent":"a1","site":"lon1","boot":"","version":"","heads":{}}}` + "\n"))
	f.Add([]byte(`{"heads":{}}` + "\n" + `{"ping":{}}` + "\n"))
	f.Add([]byte(`{"busy":{"retryAfter":-1}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newLineReader(bytes.NewReader(b))
		for range bytes.Count(b, []byte("\n")) + 1 {
			l, err := r.next()
			if err != nil {
				return
			}
			if _, err := encode(l); err != nil {
				t.Fatalf("cannot write what was read: %v", err)
			}
		}
		t.Fatal("more lines than newlines")
	})
}

// Renew puts another session in the place of the one that stands: requests go on in both directions without one that fails, one that
// began before ends on the old session, and the coordinator sees the agent once, with its new key.
func TestRenew(t *testing.T) {
	for _, lane := range []transport.Lane{transport.LaneQUIC, transport.LaneTCP} {
		t.Run(string(lane), func(t *testing.T) {
			d := pkitest.New(t)
			began, slow := make(chan struct{}), make(chan struct{})
			c := startCoordinator(t, d.Coordinator("c1"), "127.0.0.1:0", func(cfg *ServerConfig) {
				quick := cfg.Handler
				cfg.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/slow" {
						close(began)
						<-slow
					}
					quick.ServeHTTP(w, r)
				})
			})
			n := d.Agent("lon1", "a1", "")
			var leaf atomic.Pointer[tls.Certificate]
			leaf.Store(n.Leaf)
			n.TLS.Leaf = leaf.Load
			a := startAgent(t, n, nil, Target{Addr: []string{c.addr}})
			if lane == transport.LaneTCP {
				a.mu.Lock()
				a.failures = quicTries // as after three dials that UDP did not carry
				a.mu.Unlock()
			}
			receive(t, "session", a.ups)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			var asked atomic.Int64
			for _, rt := range []http.RoundTripper{a.RoundTripper(), c.RoundTripper("lon1", "a1")} {
				wg.Go(func() {
					tick := time.NewTicker(20 * time.Millisecond) // a peer may ask 100 times a second
					defer tick.Stop()
					for ; ctx.Err() == nil; <-tick.C {
						if _, err := get(t, rt, "http://x/y"); err != nil {
							t.Error(err)
							return
						}
						asked.Add(1)
					}
				})
			}
			wg.Go(func() {
				if _, err := get(t, a.RoundTripper(), "http://coordinator/slow"); err != nil {
					t.Errorf("slow: %v", err)
				}
			})
			<-began
			a.mu.Lock()
			old := a.sess
			a.mu.Unlock()
			fresh := d.Unlisted("lon1", "a1")
			r := *d.Rosters["lon1"]
			r.Agents = []intent.RosterAgent{r.Agents[0]}
			r.Agents[0].TLS = [][]byte{fresh.Leaf.Leaf.RawSubjectPublicKeyInfo, r.Agents[0].TLS[0]}
			d.Holder.Set(d.Holder.View().WithRoster("lon1", &r))
			leaf.Store(fresh.Leaf)
			a.Renew()
			receive(t, "another session", a.ups)
			if old.Context().Err() != nil {
				t.Error("the old session ended before the slow request did")
			}
			close(slow)
			select {
			case <-old.Context().Done():
			case <-time.After(limit):
				t.Error("the old session stays")
			}
			if ss := c.Sessions(); len(ss) != 1 || ss[0].Key != trust.SPKIOf(fresh.Leaf.Leaf) || ss[0].CA != trust.SPKIOf(d.CA.Cert) || ss[0].Lane != lane {
				t.Errorf("sessions %+v", ss)
			}
			before := asked.Load()
			for asked.Load() < before+4 && !t.Failed() {
				if _, err := get(t, c.RoundTripper("lon1", "a1"), "http://x/z"); err != nil {
					t.Error(err)
				}
			}
			cancel()
			wg.Wait()
			if len(a.downs) != 0 {
				t.Errorf("the uplink was down: %v", <-a.downs)
			}
		})
	}
}
