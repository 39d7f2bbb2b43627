package gossip

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/trust"
)

// header is the beginning of a state, as memberlist writes it.
func header(t testing.TB, nodes, user int) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{msgPushPull})
	h := struct {
		Nodes, UserStateLen int
		Join                bool
	}{nodes, user, true}
	if err := codec.NewEncoder(b, &codec.MsgpackHandle{}).Encode(h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestVet(t *testing.T) {
	f := func(ok bool, in []byte) {
		t.Helper()
		r := bytes.NewReader(append(bytes.Clone(in), "rest"...))
		head, err := vet(r)
		if (err == nil) != ok || err != nil && !errors.Is(err, errVetted) {
			t.Errorf("%x: %v, want %v", in, err, ok)
		}
		if ok {
			rest, err := io.ReadAll(r)
			if got := append(head, rest...); err != nil || !bytes.Equal(got, append(bytes.Clone(in), "rest"...)) {
				t.Errorf("%x became %x, %v", in, got, err)
			}
		}
	}
	f(true, header(t, 3, 100))
	f(true, header(t, maxNodes, maxUser))
	f(false, header(t, maxNodes+1, 0))
	f(false, header(t, 1<<20, 0))
	f(false, header(t, -1, 0))
	f(false, header(t, 1, maxUser+1))
	f(false, header(t, 1, -5))
	f(false, append([]byte{msgPushPull}, bytes.Repeat([]byte{0xdf}, 300)...)) // a map without end
	f(true, []byte{msgPing})
	f(true, []byte{msgAck})
	f(true, []byte{msgError})
	f(false, []byte{8})   // a user message
	f(false, []byte{9})   // compressed
	f(false, []byte{10})  // encrypted
	f(false, []byte{244}) // labelled
}

func FuzzVet(f *testing.F) {
	for _, in := range [][]byte{header(f, 3, 100), header(f, 1<<20, 0), {msgPing}, {msgPushPull, 0xdf, 0xff, 0xff, 0xff, 0xff}, {8}} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if head, err := vet(bytes.NewReader(in)); err == nil && !bytes.HasPrefix(in, head) {
			t.Errorf("%x is passed on as %x", in, head)
		}
	})
}

// TestMeters: a peer that floods is cut down to what members need, and another one is not.
func TestMeters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m meters
		count := func(id string) (n int) {
			for range 100_000 {
				if m.peer(id).packets.Allow() {
					n++
				}
			}
			return n
		}
		if n := count("evil"); n != packetBurst {
			t.Errorf("%d packets at once, want %d", n, packetBurst)
		}
		if !m.peer("good").packets.Allow() {
			t.Error("one peer's flood stops another")
		}
		time.Sleep(2 * time.Second)
		if n := count("evil"); n != 2*packetRate {
			t.Errorf("%d packets in two seconds, want %d", n, 2*packetRate)
		}
	})
}

// TestMillionMembers: an agent of the site, with valid keys, opens streams that announce a million members each, and one compressed to
// nothing. The other one allocates nothing for them, and goes on.
func TestMillionMembers(t *testing.T) {
	s := newSite(t)
	a1 := s.add("a1")
	defer a1.stop()
	n := s.d.Unlisted("lon1", "a2")
	e, err := transport.New(transport.Config{
		Listen: "127.0.0.1:0", TLS: n.TLS, UDP: []string{trust.ALPNMesh}, TCP: []string{trust.ALPNMesh}, Log: slog.New(slog.DiscardHandler),
		Resolver: transport.ResolverFunc(func(transport.Peer) []string { return []string{a1.addr} }),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.edit(func(r *intent.RosterBody) {
		r.Agents = append(r.Agents, intent.RosterAgent{ID: "a2", State: "agent", Addr: []string{e.Addr().String()}, TLS: [][]byte{n.Leaf.Leaf.RawSubjectPublicKeyInfo}})
	})
	e.HandlePacket(func(trust.Identity, []byte) {}) // it says nothing of its own
	e.HandleStream(trust.ALPNMesh, transport.KindGossip, func(_ context.Context, s *transport.Stream) { _ = s.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	conn, err := e.Dial(ctx, transport.Peer{Site: "lon1", ID: "a1"})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 2 * streamBurst {
		st, err := conn.OpenStream(ctx, transport.KindGossip)
		if err != nil { // both dialled, and the other session stands
			if conn, err = e.Dial(ctx, transport.Peer{Site: "lon1", ID: "a1"}); err == nil {
				st, err = conn.OpenStream(ctx, transport.KindGossip)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write(append([]byte{byte(Site)}, header(t, 1<<20, 0)...)); err != nil {
			t.Logf("write: %v", err) // it was refused already
		}
		if err := st.SetReadDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, st); errors.Is(err, context.DeadlineExceeded) {
			t.Error("the stream was not ended")
		}
		_ = st.Close()
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > 32 {
		t.Errorf("%d MiB were allocated", got)
	}
	if ms := a1.Members(); len(ms) == 0 {
		t.Error("a1 does not answer")
	}
	cancel()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	<-ended
}
