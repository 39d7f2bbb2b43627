package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/test/sim/memnet"
)

// deaf hears nothing but that it should prove its address: a client that begins handshakes and never goes on.
type deaf struct{ net.PacketConn }

func (d deaf) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := d.PacketConn.ReadFrom(b)
		if err != nil || n > 0 && b[0]&0x80 != 0 && b[0]>>4&3 == 3 { // a Retry (RFC 9000, 17.2.5)
			return n, from, err
		}
	}
}

// flooded is an endpoint in a bubble that is flooded, and two peers that have sessions with it, one of each lane.
type flooded struct {
	*testing.T
	net   *memnet.Net
	peers map[Lane]*node
	conns []*Conn
}

const floodedAddr = "10.0.0.1:7444"

func newFlooded(t *testing.T) *flooded {
	t.Helper()
	time.Sleep(time.Until(time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC))) // a bubble begins in 2000
	f := &flooded{T: t, net: memnet.New(), peers: map[Lane]*node{}}
	d, b := pkitest.New(t), newBook()
	b.set(Peer{"lon1", "a1"}, floodedAddr)
	for i, lane := range []Lane{LaneAuto, LaneQUIC, LaneTCP} {
		ip := fmt.Sprintf("10.0.0.%d", i+1)
		n := d.Agent("lon1", fmt.Sprintf("a%d", i+1), "")
		e, err := New(Config{
			Listen: ip + ":7444", Network: f.net.Host(ip), TLS: n.TLS, Resolver: b, Lane: lane, Log: slog.New(slog.DiscardHandler),
			UDP: []string{trust.ALPNMesh, trust.ALPNBulk}, TCP: []string{trust.ALPNMesh, trust.ALPNBulk},
		})
		if err != nil {
			t.Fatal(err)
		}
		e.HandleHTTP(trust.ALPNMesh, hello)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		f.peers[lane] = &node{e, n, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}}
		if i > 0 {
			c, err := e.Dial(t.Context(), Peer{"lon1", "a1"})
			if err != nil {
				t.Fatal(err)
			}
			f.conns = append(f.conns, c)
		}
	}
	time.Sleep(time.Second) // the other ends are done with their handshakes too
	return f
}

// stands looks whether what stood goes on, and whether who comes by a lane is let in within a second.
func (f *flooded) stands(when string, lane Lane) {
	f.Helper()
	for _, l := range []Lane{LaneQUIC, LaneTCP} {
		if _, err := get(f.T, f.peers[l].RoundTripper(Peer{"lon1", "a1"}), "http://a1/", nil); err != nil {
			f.Errorf("%s: the session over %s: %v", when, l, err)
		}
	}
	for _, c := range f.conns {
		if c.Context().Err() != nil {
			f.Errorf("%s: a session ended: %v", when, context.Cause(c.Context()))
		}
	}
	ctx, cancel := context.WithTimeout(f.Context(), time.Second)
	defer cancel()
	c, err := f.peers[lane].DialAddr(ctx, floodedAddr, trust.ALPNBulk, trust.Want{Kind: trust.Agent, Site: "lon1"}, lane)
	if err != nil {
		f.Errorf("%s: nobody can enter over %s: %v", when, lane, err)
		return
	}
	c.Close(CodeDone, "")
}

func (f *flooded) over() {
	for _, p := range f.peers {
		p.stop()
	}
	time.Sleep(2 * time.Minute) // the last timers
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// Experiment F12, its floods: 5,000 TCP connections from one address that say nothing, while somebody else's handshake takes its time,
// and 1,000 QUIC handshakes from an address that is proven and goes no further. What stood goes on, who comes is let in at once.
func TestHandshakeFloods(t *testing.T) {
	t.Run("tcp", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFlooded(t)
			defer f.over()
			raw, err := f.net.Host("10.0.0.3").DialContext(t.Context(), "tcp", floodedAddr)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			var open []net.Conn
			for i := range 5000 {
				c, err := f.net.Host("10.66.0.1").DialContext(t.Context(), "tcp", floodedAddr)
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, c)
				if i%100 == 99 {
					synctest.Wait()
				}
			}
			if n := f.peers[LaneAuto].tcpOpen.count(); n != maxHalfOpen {
				t.Errorf("%d handshakes under way, want %d", n, maxHalfOpen)
			}
			slow := tls.Client(raw, f.peers[LaneTCP].n.TLS.Client(trust.ALPNBulk, trust.Want{Kind: trust.Agent, Site: "lon1"}))
			if err := slow.HandshakeContext(t.Context()); err != nil {
				t.Errorf("a slow one was pushed out: %v", err)
			}
			f.stands("flooded", LaneTCP)
			f.stands("flooded", LaneQUIC)
			for _, c := range append(open, slow) {
				_ = c.Close()
			}
			time.Sleep(2 * handshakeTimeout)
			if n := f.peers[LaneAuto].tcpOpen.count(); n != 0 {
				t.Errorf("%d handshakes are counted that nobody does", n)
			}
		})
	})
	t.Run("quic", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFlooded(t)
			defer f.over()
			before := heap()
			pc, err := f.net.Host("10.66.0.1").ListenPacket("udp", "10.66.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			tr := &quic.Transport{Conn: deaf{pc}}
			ctx, cancel := context.WithCancel(t.Context())
			conf := f.peers[LaneQUIC].n.TLS.Client(trust.ALPNMesh, trust.Want{Kind: trust.Agent, Site: "lon1"})
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() { _, _ = tr.Dial(ctx, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(floodedAddr)), conf, nil) })
			}
			time.Sleep(time.Second)
			if n := f.peers[LaneAuto].quicOpen.count(); n <= retryAbove || n > maxHalfOpen/2 {
				t.Errorf("%d handshakes under way, want at most %d", n, maxHalfOpen/2)
			}
			f.stands("flooded", LaneTCP)
			f.stands("flooded", LaneQUIC)
			if got := int64(heap()-before) >> 20; got > 128 { // of both sides
				t.Errorf("%d MiB more than before", got)
			}
			cancel()
			wg.Wait()
			_ = tr.Close()
			_ = pc.Close()
			time.Sleep(time.Minute)
			if n := f.peers[LaneAuto].quicOpen.count(); n != 0 {
				t.Errorf("%d handshakes are counted that nobody does", n)
			}
		})
	})
}

// TestHalfOpenPlaces: a handshake that was pushed out hears of it when it ends, and no place is given back twice.
func TestHalfOpenPlaces(t *testing.T) {
	var h halfOpen
	slow, evil := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	g := h.begin(slow, func() { t.Error("the slow one was pushed out") })
	cut := 0
	first := h.begin(evil, func() { cut++ })
	for range 4999 {
		h.begin(evil, func() { cut++ })
	}
	if cut != 5001-maxHalfOpen || h.count() != maxHalfOpen {
		t.Errorf("%d were cut, %d are under way", cut, h.count())
	}
	if h.end(first) || !h.end(g) || h.end(g) || h.count() != maxHalfOpen-1 {
		t.Errorf("%d are under way after one ended", h.count())
	}
	if h.begin(evil, nil) != nil {
		t.Error("an address that has half of all got one more that cannot be cut")
	}
}
