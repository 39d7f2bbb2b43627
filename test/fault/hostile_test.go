package fault

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
	agentkeys "github.com/skerry-metal/skerry/siteagent/keys"
)

// More than is taken of an answer, and of a question.
const (
	tooMuch     = 20 << 20
	tooMuchSaid = 3 << 20
)

// flood reads as text without end: JSON that never closes, or lines.
type flood struct {
	pattern string
	left    int
}

func (f *flood) Read(b []byte) (int, error) {
	if f.left <= 0 {
		return 0, io.EOF
	}
	n := 0
	for n+len(f.pattern) <= len(b) {
		n += copy(b[n:], f.pattern)
	}
	if n == 0 {
		n = copy(b, f.pattern)
	}
	f.left -= n
	return n, nil
}

// turncoat is an agent of the site with valid keys, and somebody else's program.
type turncoat struct {
	w     *world
	end   *transport.Endpoint
	stop  context.CancelFunc
	wg    sync.WaitGroup
	asked atomic.Int64
}

// become puts a hostile program into the place of an agent that is down.
func (w *world) become(site, agent, peer string) *turncoat {
	w.Helper()
	me := w.boxes[site+"/"+agent]
	id, err := agentkeys.ReadIdentity(filepath.Join(me.dir, "keys"))
	w.must(err)
	own, err := agentkeys.Load(filepath.Join(me.dir, "keys"), id)
	w.must(err)
	other, err := agentkeys.ReadIdentity(filepath.Join(w.boxes[site+"/"+peer].dir, "keys"))
	w.must(err)
	chain := document.TrustChain{Pin: id.Pin}
	for _, env := range id.Trust {
		_, err := chain.Accept(env)
		w.must(err)
	}
	roster := &intent.RosterBody{Agents: []intent.RosterAgent{other.Roster, id.Roster}}
	v, err := trust.NewView(chain.Body)
	w.must(err)
	v = v.WithRoster(site, roster)
	h := &turncoat{w: w}
	h.end, err = transport.New(transport.Config{
		Listen: me.addr, Network: w.net.Host(me.ip), Log: w.log.With("who", "hostile"),
		TLS: &trust.TLS{Self: trust.Identity{Kind: trust.Agent, Site: site, ID: agent}, View: func() *trust.View { return v }, Leaf: own.Leaf},
		UDP: []string{trust.ALPNMesh, trust.ALPNBulk}, TCP: []string{trust.ALPNMesh, trust.ALPNBulk},
		Resolver: transport.ResolverFunc(func(p transport.Peer) []string { return []string{w.boxes[site+"/"+p.ID].addr} }),
	})
	w.must(err)
	pool, err := gossip.New(gossip.Config{
		Endpoint: h.end, Self: agent, Scope: gossip.Site, Nodes: func() []gossip.Node { return gossip.Roster(site, roster) }, Log: w.log.With("who", "hostile"),
		Tags: gossip.Tags{Intent: gossip.Hint{Epoch: 9, Seq: 1 << 40}}, // worth asking
	})
	w.must(err)
	gossip.Register(h.end, pool)
	h.end.HandleHTTP(trust.ALPNMesh, http.HandlerFunc(h.answer))
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	h.wg.Go(func() { _ = h.end.Run(ctx) })
	h.wg.Go(func() { _ = pool.Run(ctx) })
	for i := range 48 { // more than a peer may have at once
		h.wg.Go(func() { h.ask(ctx, i) })
	}
	return h
}

func (h *turncoat) over() {
	h.stop()
	_ = h.end.Close()
	h.wg.Wait()
}

// answer gives whoever asks more than he wants, or nothing for ever, or rubbish.
func (h *turncoat) answer(w http.ResponseWriter, r *http.Request) {
	body := []string{`{"heads":{"a":1,`, "{\"payload\":\"AAAA\"}\n", `{"records":[{"agent":"a1","seq":1},`, "\x00\xff\xfe", `[[[[[[[[[[[[[[[[`}
	switch n := h.asked.Add(1); n % 7 {
	case 0:
		<-r.Context().Done()
	case 1:
		w.Header().Set("Content-Length", "99999999999")
		w.WriteHeader(http.StatusOK)
	default:
		w.WriteHeader(http.StatusOK)
		if _, err := io.Copy(w, &flood{body[int(n)%len(body)], tooMuch}); err != nil {
			return // he had enough
		}
	}
}

// ask sends questions without end to every door of its peer.
func (h *turncoat) ask(ctx context.Context, i int) {
	doors := []string{"/m/1/journal", "/m/1/claims/promise", "/m/1/claims/confirm", "/m/1/claims/release", "/m/1/permission", "/m/1/assets/x", "/m/1/journal/heads"}
	rt := h.end.RoundTripper(transport.Peer{Site: h.end.Self().Site, ID: "a1"})
	for ctx.Err() == nil {
		body := io.Reader(&flood{[]string{`{"records":[`, `{"records":[{"agent":"a2","seq":1,"kind":"k","body":"` + strings.Repeat("x", 4000), `[`}[i%3], tooMuchSaid})
		actx, cancel := context.WithTimeout(ctx, 30*time.Second)
		req, err := http.NewRequestWithContext(actx, http.MethodPost, "http://a1"+doors[i%len(doors)], body)
		if err == nil {
			if res, err := rt.RoundTrip(req); err == nil {
				_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, tooMuch))
				_ = res.Body.Close()
			}
		}
		cancel()
		time.Sleep(15 * time.Second)
	}
}

// Experiment F12: an agent of the site with valid keys turns on its peer. It answers each question with streams without end, rubbish or
// nothing for ever, and asks forty-eight at once with bodies without end. The peer stays up, answers its users at once, takes what
// the coordinator publishes, and holds no more memory than it may. (States and packets of gossip: mesh/gossip.TestMillionMembers;
// chunks: mesh/swarm; half-open connections: TestHalfOpen.)
func TestHostilePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		w.end("s1/a2")
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		h := w.become("s1", "a2", "a1")
		most, asked := uint64(0), 0
		for end := time.Now().Add(tierHostility); time.Now().Before(end); time.Sleep(5 * time.Second) {
			most = max(most, heap())
			began := time.Now()
			ctx, cancel := w.ask()
			s, err := w.api("admin", "s1/a1").SiteStatus(ctx, "s1")
			cancel()
			if err != nil || time.Since(began) > time.Second {
				t.Fatalf("its user waits %v: %v", time.Since(began), err)
			}
			if s.Rejected != "" {
				t.Errorf("it took something: %s", s.Rejected)
			}
			asked++
			if asked == 3 {
				ctx, cancel := w.ask()
				_, err := w.api("ana", "coordinator").Apply(ctx, rawDocs(namedKey("meanwhile", 1)), false, "")
				cancel()
				w.must(err)
			}
		}
		if got := (most - min(before, most)) >> 20; got > 96 {
			t.Errorf("it held %d MiB more than before", got)
		} else {
			t.Logf("it held up to %d MiB more than before; the hostile one was asked %d times", got, h.asked.Load())
		}
		if h.asked.Load() < 8 {
			t.Errorf("the hostile one was asked %d times: the test proves nothing", h.asked.Load())
		}
		info, _ := intent.KindSSHKey.Info()
		ctx, cancel := w.ask()
		defer cancel()
		if _, err := w.api("ana", "s1/a1").Get(ctx, info, "acme", "meanwhile"); err != nil {
			t.Errorf("what was published meanwhile: %v", err)
		}
		h.over()
		w.start("s1/a2", "")
		w.until("the site is whole again", func() bool { return w.level("s1") && w.company("s1/a1") == "a1 a2" })
	})
}

// Experiment F12: five thousand connections that say nothing, half of them from one address and the rest from a hundred, and as many
// first packets. The agent ends them, holds few of them at once, and its user, its peer and the coordinator notice nothing.
func TestHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.over()
		box := w.boxes["s1/a1"]
		before := runtime.NumGoroutine()
		most, ended := 0, strings.Count(w.logs.String(), `msg="uplink ended"`)
		var open []net.Conn
		for i := range 5000 {
			ip := "10.66.0.1"
			if i%2 == 1 {
				ip = fmt.Sprintf("10.66.1.%d", 1+i%100)
			}
			host := w.net.Host(ip)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if c, err := host.DialContext(ctx, "tcp", box.addr); err == nil { // refused is as good
				open = append(open, c)
			}
			cancel()
			if i%10 == 0 {
				pc, err := host.ListenPacket("udp", ip+":0")
				w.must(err)
				for range 10 {
					b := append([]byte{0xc3, 0, 0, 0, 1, 8}, bytes.Repeat([]byte{byte(i)}, 1194)...)
					_, err := pc.WriteTo(b, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(box.addr)))
					w.must(err)
				}
				w.must(pc.Close())
			}
			if i%250 == 0 {
				time.Sleep(100 * time.Millisecond)
				most = max(most, runtime.NumGoroutine())
				began := time.Now()
				if err := w.answers("s1/a1", w.token["ana"]); err != nil || time.Since(began) > 2*time.Second {
					t.Fatalf("after %d its user waits %v: %v", i, time.Since(began), err)
				}
			}
		}
		if more := most - before; more > 1500 {
			t.Errorf("%d goroutines more at once", more)
		} else {
			t.Logf("%d connections stood, %d goroutines more at once", len(open), more)
		}
		time.Sleep(time.Minute)
		if more := runtime.NumGoroutine() - before; more > 100 {
			t.Errorf("a minute later %d goroutines are left", more)
		}
		for _, c := range open {
			_ = c.Close()
		}
		if n := strings.Count(w.logs.String(), `msg="uplink ended"`); n != ended {
			t.Errorf("%d sessions of others ended", n-ended)
		}
		if got := w.company("s1/a2"); got != "a1 a2" {
			t.Errorf("its peer keeps company with %s", got)
		}
	})
}
