package transport

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
)

func TestRPC(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, b := pkitest.New(t), newBook()
		rpc := func(e *Endpoint) { e.HandleHTTP(trust.ALPNMesh, hello) }
		a1 := launch(t, d.Agent("lon1", "a1", ""), b, lane, rpc)
		a2 := launch(t, d.Agent("lon1", "a2", ""), b, lane, rpc)
		big := make([]byte, 3<<20)
		got, err := get(t, a1.RoundTripper(Peer{"lon1", "a2"}), "http://a2/m/1/x", big)
		if err != nil || got != fmt.Sprintf("lon1/a1 /m/1/x %d", len(big)) {
			t.Fatalf("%q, %v", got, err)
		}
		// The other way round, on the session that stands: over TCP on a connection that a1 parked.
		c, err := a2.Dial(t.Context(), Peer{"lon1", "a1"})
		if err != nil || c.Dialled() || c.Lane() != lane {
			t.Fatalf("a2 dialled anew: %v, %v", c, err)
		}
		for range 5 {
			got, err = get(t, c.RoundTripper(), "http://a1/y", nil)
			if err != nil || got != "lon1/a2 /y 0" {
				t.Fatalf("%q, %v", got, err)
			}
		}
		if n := len(a1.Sessions()); n != 1 {
			t.Errorf("%d sessions", n)
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got, err := get(t, a1.RoundTripper(Peer{"lon1", "a2"}), "http://a2/z", big[:9]); err != nil || got != "lon1/a1 /z 9" {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		wg.Wait()
		if _, err := a1.Dial(t.Context(), Peer{"lon1", "a9"}); !errors.Is(err, ErrNoAddress) {
			t.Errorf("an unknown peer: %v", err)
		}
	})
}

func TestStreamsAndPackets(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, b := pkitest.New(t), newBook()
		got := make(chan string, 64)
		setup := func(e *Endpoint) {
			e.HandlePacket(func(from trust.Identity, b []byte) {
				got <- fmt.Sprintf("%s %d %x", from, len(b), b[0])
			})
			e.HandleStream(trust.ALPNMesh, KindGossip, func(_ context.Context, s *Stream) {
				defer s.Close()
				_, _ = io.Copy(s, io.LimitReader(s, 5)) // echo
			})
		}
		a1 := launch(t, d.Agent("lon1", "a1", ""), b, lane, setup)
		launch(t, d.Agent("lon1", "a2", ""), b, lane, setup)
		for _, p := range [][]byte{{7}, bytes.Repeat([]byte{8}, 1150), bytes.Repeat([]byte{9}, 40_000)} {
			if err := a1.SendPacket(Peer{"lon1", "a2"}, p); err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("lon1/a1 %d %x", len(p), p[0])
			select {
			case g := <-got:
				if g != want {
					t.Errorf("got %q, want %q", g, want)
				}
			case <-time.After(limit):
				t.Fatalf("%q never came", want)
			}
		}
		if err := a1.SendPacket(Peer{"lon1", "a2"}, make([]byte, maxPacket+1)); !errors.Is(err, ErrPacketSize) {
			t.Errorf("too large: %v", err)
		}
		if n := a1.MaxDatagram(Peer{"lon1", "a2"}); lane == LaneQUIC && n < 1151 {
			t.Errorf("MaxDatagram = %d: a gossip packet of 1,150 octets and its pool no longer fit", n)
		}
		c, err := a1.Dial(t.Context(), Peer{"lon1", "a2"})
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.OpenStream(t.Context(), KindGossip)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Write([]byte("12345")); err != nil {
			t.Fatal(err)
		}
		echo := make([]byte, 5)
		if _, err := io.ReadFull(s, echo); err != nil || string(echo) != "12345" {
			t.Errorf("%q, %v", echo, err)
		}
	})
}

// TestRevokedSessionCloses is half of F15: live sessions of a revoked agent go within a second, and no new one comes.
func TestRevokedSessionCloses(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, b := pkitest.New(t), newBook()
		held := make(chan *Stream, 1)
		a1 := launch(t, d.Agent("lon1", "a1", ""), b, lane, func(e *Endpoint) {
			e.HandleStream(trust.ALPNMesh, KindSwarm, func(_ context.Context, s *Stream) { held <- s })
		})
		a2 := launch(t, d.Agent("lon1", "a2", ""), b, lane, nil)
		a3 := launch(t, d.Agent("lon1", "a3", ""), b, lane, nil)
		c, err := a2.Dial(t.Context(), Peer{"lon1", "a1"})
		if err != nil {
			t.Fatal(err)
		}
		other, err := a3.Dial(t.Context(), Peer{"lon1", "a1"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.OpenStream(t.Context(), KindSwarm); err != nil {
			t.Fatal(err)
		}
		s := <-held
		defer s.Close()
		if n := a1.CloseIf(func(id trust.Identity) bool { return !d.Holder.View().Admits(id) }); n != 0 {
			t.Errorf("%d cut while all are admitted", n)
		}
		d.Revoke(intent.RevokeAgent, "lon1/a2")
		start := time.Now()
		if n := a1.CloseIf(func(id trust.Identity) bool { return !d.Holder.View().Admits(id) }); n == 0 {
			t.Error("nothing was cut")
		}
		select {
		case <-c.Context().Done():
			if took := time.Since(start); took > time.Second {
				t.Errorf("took %v", took)
			}
		case <-time.After(limit):
			t.Fatal("the revoked session lives on")
		}
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("its stream lives on")
		}
		if other.Context().Err() != nil {
			t.Error("another agent was cut as well")
		}
		// It cannot come back. A TLS 1.3 client may believe so for one round trip.
		if c, err := a2.Dial(t.Context(), Peer{"lon1", "a1"}); err == nil {
			eventually(t, "the revoked agent's new session ends", func() bool { return c.Context().Err() != nil })
		}
	})
}

// TestBothDial: two sessions dialled at the same moment become one, and both sides keep the same.
func TestBothDial(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, b := pkitest.New(t), newBook()
		rpc := func(e *Endpoint) { e.HandleHTTP(trust.ALPNMesh, hello) }
		a1 := launch(t, d.Agent("lon1", "a1", ""), b, lane, rpc)
		a2 := launch(t, d.Agent("lon1", "a2", ""), b, lane, rpc)
		var wg sync.WaitGroup
		for _, x := range []struct {
			e *node
			p Peer
		}{{a1, Peer{"lon1", "a2"}}, {a2, Peer{"lon1", "a1"}}} {
			wg.Go(func() {
				if _, err := get(t, x.e.RoundTripper(x.p), "http://x/", nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		eventually(t, "both sides hold one and the same session", func() bool {
			x, y := a1.Sessions(), a2.Sessions()
			return len(x) == 1 && len(y) == 1 && x[0].Dialled() != y[0].Dialled()
		})
	})
}

// TestPeerRestarts: a peer that comes back on the same port is reached again without waiting for an idle timeout.
func TestPeerRestarts(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, b := pkitest.New(t), newBook()
		rpc := func(e *Endpoint) { e.HandleHTTP(trust.ALPNMesh, hello) }
		a1 := launch(t, d.Agent("lon1", "a1", ""), b, lane, rpc)
		n2 := d.Agent("lon1", "a2", "")
		a2 := launch(t, n2, b, lane, rpc)
		rt := a1.RoundTripper(Peer{"lon1", "a2"})
		if _, err := get(t, rt, "http://a2/", nil); err != nil {
			t.Fatal(err)
		}
		a2.stop()
		if _, err := get(t, rt, "http://a2/", nil); err == nil {
			t.Error("a stopped peer answered")
		}
		launch(t, n2, b, lane, rpc)
		eventually(t, "the restarted peer answers", func() bool {
			_, err := get(t, rt, "http://a2/", nil)
			return err == nil
		})
	})
}

// TestPeerKilled: after kill -9 and a restart on the same address, QUIC's stateless reset ends the old session at the first
// packet; nobody waits for the idle timeout of 45 s.
func TestPeerKilled(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, b := pkitest.New(t), newBook()
		rpc := func(e *Endpoint) { e.HandleHTTP(trust.ALPNMesh, hello) }
		a1 := launch(t, d.Agent("lon1", "a1", ""), b, lane, rpc)
		n2 := d.Agent("lon1", "a2", "")
		a2 := launch(t, n2, b, lane, rpc)
		rt := a1.RoundTripper(Peer{"lon1", "a2"})
		if _, err := get(t, rt, "http://a2/", nil); err != nil {
			t.Fatal(err)
		}
		// A killed process says no goodbye: its sockets are gone before anything can be written to them.
		a2.tcp.Close()
		a2.udp.Close()
		a2.mu.Lock()
		for l := range a2.live {
			if lane == LaneTCP {
				go l.close(CodeAway, "killed") // the kernel closes TCP connections of the dead
			}
		}
		a2.mu.Unlock()
		launchAt(t, n2, b, lane, a2.Addr().String(), rpc)
		start := time.Now()
		eventually(t, "the restarted peer answers", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://a2/", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := rt.RoundTrip(req)
			if err != nil {
				return false
			}
			return res.Body.Close() == nil
		})
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestFallsBackToTCP: where UDP is dead, three failed dials lead to TCP.
func TestFallsBackToTCP(t *testing.T) {
	d, b := pkitest.New(t), newBook()
	a1 := launch(t, d.Agent("lon1", "a1", ""), b, LaneAuto, nil)
	a2 := launch(t, d.Agent("lon1", "a2", ""), b, LaneAuto, func(e *Endpoint) {
		e.cfg.UDP = nil // it does not listen for QUIC
		e.HandleHTTP(trust.ALPNMesh, hello)
	})
	_ = a2
	p := Peer{"lon1", "a2"}
	for i := range quicFailures {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := a1.Dial(ctx, p); !errors.Is(err, ErrUnreachable) {
			t.Errorf("dial %d: %v", i, err)
		}
		cancel()
	}
	c, err := a1.Dial(t.Context(), p)
	if err != nil || c.Lane() != LaneTCP {
		t.Fatalf("%v, %v", c, err)
	}
	if got, err := get(t, a1.RoundTripper(p), "http://a2/", nil); err != nil || got != "lon1/a1 / 0" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestWeb: browsers and tools reach net/http by h2 and by HTTP/1.1 on the same TCP port; join connections go elsewhere.
func TestWeb(t *testing.T) {
	d, b := pkitest.New(t), newBook()
	joined := make(chan string, 1)
	a1 := launch(t, d.Agent("lon1", "a1", ""), b, LaneAuto, func(e *Endpoint) {
		e.HandleJoin(func(_ context.Context, c *tls.Conn) {
			defer c.Close()
			joined <- c.ConnectionState().NegotiatedProtocol
		})
	})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := a1.cfg.TLS.Identify(*r.TLS, true, trust.Want{})
		fmt.Fprintf(w, "%s %v %v", r.Proto, id, err)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(a1.HTTPListener()) }()
	t.Cleanup(func() { srv.Close(); <-done })
	roots := x509.NewCertPool()
	roots.AddCert(d.RootCA.Cert)
	ana := d.User("ana")
	f := func(h2 bool, certs []tls.Certificate, want string) {
		t.Helper()
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs}, ForceAttemptHTTP2: h2, DisableKeepAlives: true}
		defer tr.CloseIdleConnections()
		got, err := get(t, tr, "https://"+a1.Addr().String()+"/", nil)
		if err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	f(true, nil, "HTTP/2.0 none <nil>")
	f(false, nil, "HTTP/1.1 none <nil>")
	f(true, []tls.Certificate{*ana}, "HTTP/2.0 user/ana <nil>")

	c, err := tls.Dial("tcp", a1.Addr().String(), trust.JoinClient())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := <-joined; got != trust.ALPNJoin {
		t.Errorf("joined with %q", got)
	}
}

// TestSilence: connections that never finish a handshake, or never name a kind, are cut and cost nobody else anything.
func TestSilence(t *testing.T) {
	d, b := pkitest.New(t), newBook()
	a1 := launch(t, d.Agent("lon1", "a1", ""), b, LaneAuto, func(e *Endpoint) { e.HandleHTTP(trust.ALPNMesh, hello) })
	a2 := launch(t, d.Agent("lon1", "a2", ""), b, LaneAuto, nil)
	mute, err := net.Dial("tcp", a1.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	noise, err := net.Dial("udp", a1.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer noise.Close()
	for range 100 {
		junk := make([]byte, 1200)
		rand.Read(junk)
		if _, err := noise.Write(junk); err != nil {
			t.Fatal(err)
		}
	}
	c, err := a2.Dial(t.Context(), Peer{"lon1", "a1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.q.OpenStreamSync(t.Context()); err != nil { // names no kind
		t.Fatal(err)
	}
	s, err := c.OpenStream(t.Context(), 0x77) // a kind that nobody serves
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("an unknown kind was served")
	}
	if got, err := get(t, a2.RoundTripper(Peer{"lon1", "a1"}), "http://a1/", nil); err != nil || !strings.HasPrefix(got, "lon1/a2") {
		t.Errorf("%q, %v", got, err)
	}
	if err := mute.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := mute.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !slices.Contains([]string{"EOF"}, fmt.Sprint(err)) {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			t.Error("a mute connection was kept")
		}
	}
}

// TestStrikes: the third protocol error cuts the peer off, and only that peer.
func TestStrikes(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, b := pkitest.New(t), newBook()
		launch(t, d.Agent("lon1", "a1", ""), b, lane, func(e *Endpoint) { e.HandleHTTP(trust.ALPNMesh, hello) })
		a2 := launch(t, d.Agent("lon1", "a2", ""), b, lane, nil)
		a3 := launch(t, d.Agent("lon1", "a3", ""), b, lane, nil)
		c, err := a2.Dial(t.Context(), Peer{"lon1", "a1"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range maxStrikes {
			s, err := c.OpenStream(t.Context(), 0x77)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Read(make([]byte, 1)); err == nil {
				t.Error("an unknown kind was served")
			}
			s.Close()
			if i < maxStrikes-1 && c.Context().Err() != nil {
				t.Errorf("cut after %d strikes", i+1)
			}
		}
		eventually(t, "the session is cut", func() bool { return c.Context().Err() != nil })
		if c, err := a2.Dial(t.Context(), Peer{"lon1", "a1"}); err == nil {
			eventually(t, "the peer that was struck out is refused", func() bool { return c.Context().Err() != nil })
		}
		if _, err := get(t, a3.RoundTripper(Peer{"lon1", "a1"}), "http://a1/", nil); err != nil {
			t.Errorf("another peer suffers: %v", err)
		}
	})
}

func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g guard
		id := trust.Identity{Kind: trust.Agent, Site: "lon1", ID: "a1"}
		n := 0
		for g.admit(id) {
			n++
		}
		g.leave(id)
		if n != maxPerPeer || !g.admit(id) || g.admit(id) {
			t.Errorf("%d connections admitted, want %d", n, maxPerPeer)
		}
		if !g.admit(trust.Identity{}) {
			t.Error("users share a budget")
		}
		n = 0
		for g.request(id) {
			n++
		}
		time.Sleep(time.Second)
		m := 0
		for g.request(id) {
			m++
		}
		if n != rpcBurst || m != rpcPerSecond {
			t.Errorf("%d requests at once, %d a second later", n, m)
		}
		g.leave(id)
		first, second, third := g.strike(id), g.strike(id), g.strike(id)
		if first || second || !third || g.admit(id) {
			t.Error("three strikes, and not out")
		}
		time.Sleep(strikeWindow)
		if !g.admit(id) {
			t.Error("refused for longer than said")
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 7})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		err := readFrames(bytes.NewReader(b), func(p []byte) { n += 4 + len(p) })
		if err == nil || n > len(b) {
			t.Fatalf("%d octets out of %d, %v", n, len(b), err)
		}
	})
}

// BenchmarkBody carries 64 MiB in one response over each lane.
func BenchmarkBody(b *testing.B) {
	for _, lane := range []Lane{LaneQUIC, LaneTCP} {
		b.Run(string(lane), func(b *testing.B) {
			const size = 64 << 20
			d, bk := pkitest.New(b), newBook()
			chunk := make([]byte, 1<<20)
			launch(b, d.Agent("lon1", "a1", ""), bk, lane, func(e *Endpoint) {
				e.HandleHTTP(trust.ALPNMesh, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					for range size / len(chunk) {
						if _, err := w.Write(chunk); err != nil {
							return
						}
					}
				}))
			})
			a2 := launch(b, d.Agent("lon1", "a2", ""), bk, lane, nil)
			rt := a2.RoundTripper(Peer{"lon1", "a1"})
			b.SetBytes(size)
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://a1/", nil)
				if err != nil {
					b.Fatal(err)
				}
				res, err := rt.RoundTrip(req)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, res.Body)
				if err != nil || n != size {
					b.Fatal(n, err)
				}
				res.Body.Close()
			}
		})
	}
}

// While agents ask each other without a pause, one changes its key: the roster lists both, it renews its sessions, the roster lists
// the new one alone, and sessions of the old are cut. No request fails, a slow one that began before neither.
func TestRenew(t *testing.T) {
	lanes(t, func(t *testing.T, lane Lane) {
		d, b := pkitest.New(t), newBook()
		slow, began := make(chan struct{}), make(chan struct{})
		rpc := func(e *Endpoint) {
			e.HandleHTTP(trust.ALPNMesh, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(began)
					<-slow
				}
				hello(w, r)
			}))
		}
		n := d.Agent("lon1", "a1", "")
		var leaf atomic.Pointer[tls.Certificate]
		leaf.Store(n.Leaf)
		n.TLS.Leaf = leaf.Load
		a1, a2 := launch(t, n, b, lane, rpc), launch(t, d.Agent("lon1", "a2", ""), b, lane, rpc)
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		ask := func(from *node, to, path string) error {
			got, err := get(t, from.RoundTripper(Peer{"lon1", to}), "http://"+to+path, nil)
			if err == nil && got != "lon1/"+from.n.ID.ID+" "+path+" 0" {
				err = errors.New(got)
			}
			return err
		}
		if err := ask(a1, "a2", "/x"); err != nil {
			t.Fatal(err)
		}
		var asked atomic.Int64 // by a2
		for from, to := range map[*node]string{a1: "a2", a2: "a1"} {
			wg.Go(func() {
				tick := time.NewTicker(20 * time.Millisecond) // a peer may ask 100 times a second
				defer tick.Stop()
				for ; ctx.Err() == nil; <-tick.C {
					if err := ask(from, to, "/y"); err != nil {
						t.Errorf("%s to %s: %v", from.n.ID, to, err)
						return
					}
					if from == a2 {
						asked.Add(1)
					}
				}
			})
		}
		wg.Go(func() {
			if err := ask(a2, "a1", "/slow"); err != nil {
				t.Errorf("slow: %v", err)
			}
		})
		<-began
		fresh := d.Unlisted("lon1", "a1")
		both := *d.Rosters["lon1"]
		both.Agents = slices.Clone(both.Agents)
		alone := both
		alone.Agents = slices.Clone(both.Agents)
		both.Agents[0].TLS = [][]byte{fresh.Leaf.Leaf.RawSubjectPublicKeyInfo, both.Agents[0].TLS[0]}
		alone.Agents[0].TLS = [][]byte{fresh.Leaf.Leaf.RawSubjectPublicKeyInfo}
		d.Holder.Set(d.Holder.View().WithRoster("lon1", &both))
		old := a1.Sessions()[0]
		leaf.Store(fresh.Leaf)
		renewed := make(chan error, 1)
		go func() { renewed <- a1.Renew(ctx) }()
		eventually(t, "a2 sees the new key", func() bool {
			return slices.ContainsFunc(a2.Sessions(), func(c *Conn) bool { return c.Peer().SPKI == trust.SPKIOf(fresh.Leaf.Leaf) })
		})
		if old.Context().Err() != nil {
			t.Error("the old session ended before the slow request did")
		}
		close(slow)
		if err := <-renewed; err != nil || old.Context().Err() == nil {
			t.Errorf("renewed: %v; old session %v", err, old.Context().Err())
		}
		d.Holder.Set(d.Holder.View().WithRoster("lon1", &alone))
		gone := func(id trust.Identity) bool { return !d.Holder.View().Admits(id) }
		a1.CloseIf(gone)
		a2.CloseIf(gone)
		eventually(t, "they go on", func() bool { return ask(a2, "a1", "/z") == nil && ask(a1, "a2", "/z") == nil })
		cancel()
		wg.Wait()
		if asked.Load() == 0 {
			t.Error("nobody asked")
		}
	})
}
