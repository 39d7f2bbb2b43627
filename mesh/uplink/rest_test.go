package uplink

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/test/sim/memnet"
)

// rester is an agent in a bubble that should hold no session while others do, and its coordinator.
type rester struct {
	*testing.T
	net    *memnet.Net
	domain *pkitest.Domain
	server *Server
	client *Client
	holds  atomic.Bool
	spread atomic.Int64 // seconds, in the next welcome
	ups    atomic.Int64
	downs  atomic.Int64
	slow   chan struct{} // ends a request to /slow, of either side
}

// resters runs test with an agent whose first visit is over.
func resters(t *testing.T, lane transport.Lane, test func(*rester)) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)))
		r := &rester{T: t, net: memnet.New(), domain: pkitest.New(t), slow: make(chan struct{})}
		d, ctx, log := r.domain, t.Context(), slog.New(slog.DiscardHandler)
		ctx, cancel := context.WithCancel(ctx)
		alpns := []string{trust.ALPNUplink}
		serve := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/slow" {
				<-r.slow
			}
			_, _ = io.WriteString(w, "here")
		})
		end := func(ip string, n *pkitest.Node) *transport.Endpoint {
			e, err := transport.New(transport.Config{Listen: ip + ":7443", Network: r.net.Host(ip), TLS: n.TLS, UDP: alpns, TCP: alpns, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		above, here := end("10.0.0.1", d.Coordinator("c1")), end("10.0.0.2", d.Agent("lon1", "a1", ""))
		r.server = NewServer(ServerConfig{
			Endpoint: above, Log: log, Handler: serve,
			Welcome: func(string) (Welcome, error) {
				return Welcome{Coordinator: "c1", SpreadSeconds: int(r.spread.Load()), Heads: Heads{Intent: intent.Head{Epoch: 1, Seq: 1}}}, nil
			},
		})
		r.client = NewClient(ClientConfig{
			Endpoint: here, Log: log, Reverse: serve, Active: r.holds.Load, Visit: VisitEvery,
			Hello:   func() Hello { return Hello{Agent: "a1", Site: "lon1"} },
			Targets: func() []Target { return []Target{{ID: "c1", Addr: []string{"10.0.0.1:7443"}}} },
			OnUp:    func(context.Context, Welcome) { r.ups.Add(1) },
			OnDown:  func(error) { r.downs.Add(1) },
		})
		if lane == transport.LaneTCP {
			r.client.failures = quicTries
		}
		done := make(chan error, 3)
		for _, run := range []func(context.Context) error{above.Run, here.Run, r.client.Run} {
			go func() { done <- run(ctx) }()
		}
		defer func() {
			cancel()
			for range cap(done) {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}()
		time.Sleep(startSpread + time.Second)
		r.stands("at the first visit")
		r.rests()
		test(r)
	})
}

func (r *rester) stands(when string) {
	r.Helper()
	if st := r.client.Status(); !st.Up || st.Resting || r.server.Standing() != 1 {
		r.Fatalf("%s: %+v, %d sessions", when, st, r.server.Standing())
	}
}

// rests waits until the agent rests.
func (r *rester) rests() {
	r.Helper()
	time.Sleep(restAfter + 2*activePoll)
	ss := r.server.Sessions()
	if st := r.client.Status(); !st.Up || !st.Resting || r.server.Standing() != 0 || len(ss) != 1 || !ss[0].Resting || ss[0].Key.IsZero() || r.downs.Load() != 0 {
		r.Fatalf("%+v, %d sessions stand, shown are %+v, down %d times", st, r.server.Standing(), ss, r.downs.Load())
	}
}

// A session that others of the site hold is ended, and opened for each request of the agent, for the coordinator's sake now and then, and
// for good when the others hold none. No request fails by it, and nobody takes the agent for one that is cut off.
func TestRest(t *testing.T) {
	for _, lane := range []transport.Lane{transport.LaneQUIC, transport.LaneTCP} {
		t.Run(string(lane), func(t *testing.T) {
			resters(t, lane, func(r *rester) {
				ask := func(rt http.RoundTripper, path string) {
					r.Helper()
					if body, err := get(r.T, rt, "http://x"+path); err != nil || body != "here" {
						r.Errorf("%s: %q, %v", path, body, err)
					}
				}
				ask(r.client.RoundTripper(), "/")
				r.stands("at a request")
				r.rests()

				ups := r.ups.Load()
				time.Sleep(VisitEvery*5/4 + time.Second)
				if n := r.ups.Load() - ups; n < 1 || n > 2 {
					r.Errorf("came by %d times within %v", n, VisitEvery*5/4)
				}
				r.rests()

				r.client.Renew()
				time.Sleep(time.Second)
				r.stands("with another certificate")
				for _, rt := range []http.RoundTripper{r.client.RoundTripper(), r.server.RoundTripper("lon1", "a1")} {
					asked := make(chan struct{})
					go func() { defer close(asked); ask(rt, "/slow") }()
					time.Sleep(2 * restAfter)
					r.stands("while a request is under way")
					r.slow <- struct{}{}
					<-asked
				}
				r.rests()

				r.holds.Store(true)
				r.client.Reconsider()
				time.Sleep(time.Second)
				r.stands("when no other one does")
				time.Sleep(time.Hour)
				r.stands("an hour later")
				if n := r.downs.Load(); n != 0 {
					r.Errorf("down %d times", n)
				}
			})
		})
	}
}

// An agent that rests notices at its next request, or its next visit, that it cannot reach the coordinator, which forgets it then. It is back
// as soon as one that should hold a session.
func TestRestCutOff(t *testing.T) {
	resters(t, transport.LaneQUIC, func(r *rester) {
		r.net.Cut("10.0.0.2", "10.0.0.1", true)
		if _, err := get(r.T, r.client.RoundTripper(), "http://x/"); !errors.Is(err, ErrDown) {
			r.Errorf("a request: %v", err)
		}
		if st := r.client.Status(); st.Up || st.Resting || r.downs.Load() != 1 {
			r.Errorf("%+v, down %d times", st, r.downs.Load())
		}
		began := time.Now()
		if _, err := get(r.T, r.client.RoundTripper(), "http://x/"); !errors.Is(err, ErrDown) || !time.Now().Equal(began) {
			r.Errorf("the next request: %v, after %v", err, time.Since(began))
		}
		time.Sleep(restKept)
		if ss := r.server.Sessions(); len(ss) != 0 {
			r.Errorf("who was not heard for %v is shown as %+v", restKept, ss)
		}
		r.net.Cut("10.0.0.2", "10.0.0.1", false)
		time.Sleep(2*maxBackoff + helloTimeout)
		if st := r.client.Status(); !st.Up || r.downs.Load() != 1 {
			r.Errorf("%+v, down %d times", st, r.downs.Load())
		}
	})
}

// Whoever rests is alive, and nobody takes its place; whoever was revoked is not, at once.
func TestRestingIsAlive(t *testing.T) {
	resters(t, transport.LaneQUIC, func(r *rester) {
		if !r.server.Connected("lon1", "a1") || r.server.Connected("lon1", "a2") || r.server.Connected("lon1", "") {
			r.Errorf("connected: a1 %v, a2 %v, any %v", r.server.Connected("lon1", "a1"), r.server.Connected("lon1", "a2"), r.server.Connected("lon1", ""))
		}
		r.net.Cut("10.0.0.2", "10.0.0.1", true)
		time.Sleep(restKept + time.Second)
		if r.server.Connected("lon1", "a1") {
			r.Errorf("who was not heard for %v is alive", restKept)
		}
		r.net.Cut("10.0.0.2", "10.0.0.1", false)
		time.Sleep(2*maxBackoff + helloTimeout)
		time.Sleep(restAfter + 2*activePoll)
		if !r.server.Connected("lon1", "a1") || r.server.Standing() != 0 {
			r.Errorf("it does not rest again: %+v", r.server.Sessions())
		}
		r.domain.Revoke(intent.RevokeAgent, "lon1/a1")
		if r.server.Connected("lon1", "a1") || len(r.server.Sessions()) != 0 {
			r.Errorf("who was revoked is shown: %+v", r.server.Sessions())
		}
	})
}

// Where UDP does not go through, whoever rests is not down for minutes each hour, as QUIC is tried again; nor does a request wait long.
func TestRestWithoutUDP(t *testing.T) {
	resters(t, transport.LaneTCP, func(r *rester) {
		r.net.Storm(1, memnet.Weather{MTU: 29}) // no datagram arrives; streams do
		failed := 0
		for range 180 {
			time.Sleep(time.Minute)
			ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second) // as a site waits that is asked for a change
			q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/", nil)
			if err != nil {
				r.Fatal(err)
			}
			if res, err := r.client.RoundTripper().RoundTrip(q); err != nil {
				failed++
			} else {
				_ = res.Body.Close()
			}
			cancel()
		}
		if failed > 0 || r.downs.Load() > 0 {
			r.Errorf("%d of 180 requests failed, down %d times in three hours", failed, r.downs.Load())
		}
		r.net.Storm(1, memnet.Weather{})
		time.Sleep(2 * lanesRest)
		if lane, _ := r.client.lane("10.0.0.1:7443"); lane != transport.LaneQUIC {
			r.Error("TCP is kept, though UDP goes through again")
		}
	})
}

// A request of who rests does not outlive Run.
func TestRestAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientConfig{Active: func() bool { return false }, Visit: VisitEvery})
		c.rest.back = make(chan struct{}) // it rests
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
		wait, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		began := time.Now()
		if _, _, err := c.session(wait); !errors.Is(err, ErrDown) || !time.Now().Equal(began) {
			t.Errorf("%v, after %v", err, time.Since(began))
		}
	})
}

// Those that are to hold a session because the ones that stood were lost do not come all at once; but a request does not wait.
func TestRestSpread(t *testing.T) {
	resters(t, transport.LaneQUIC, func(r *rester) {
		r.spread.Store(60)
		time.Sleep(VisitEvery * 5 / 4)
		late := time.Duration(0)
		for i := range 10 {
			r.holds.Store(false)
			r.rests()
			began := time.Now()
			r.holds.Store(true)
			r.client.Reconsider()
			if i == 0 {
				time.Sleep(time.Millisecond)
				if body, err := get(r.T, r.client.RoundTripper(), "http://x/"); err != nil || body != "here" || time.Since(began) > time.Second {
					r.Errorf("a request: %q, %v, after %v", body, err, time.Since(began))
				}
				continue
			}
			for r.server.Standing() == 0 {
				time.Sleep(10 * time.Millisecond)
			}
			late = max(late, time.Since(began))
			if late > restSpread+time.Second {
				r.Fatalf("back after %v", late)
			}
		}
		if late < restSpread/10 { // by chance once in a thousand million
			r.Errorf("back after %v at most", late)
		}
	})
}
