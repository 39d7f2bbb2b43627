package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
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

// encode returns v behind the octets of before.
func encode(t testing.TB, v any, before ...byte) []byte {
	t.Helper()
	b := bytes.NewBuffer(before)
	if err := codec.NewEncoder(b, &codec.MsgpackHandle{}).Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// compound is messages as memberlist sends them together.
func compound(ms ...[]byte) []byte {
	b := []byte{msgCompound, byte(len(ms))}
	for _, m := range ms {
		b = binary.BigEndian.AppendUint16(b, uint16(len(m)))
	}
	return append(b, bytes.Join(ms, nil)...)
}

func summed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{msgHasCRC}, crc32.ChecksumIEEE(b)), b...)
}

func knowsA1(name string) bool { return name == "a1" }

// huge is a map of one extension of 4 GiB, a time.
var huge = []byte{0x81, 0xa1, 'x', 0xc9, 0xff, 0xff, 0xff, 0xff, 0xff}

func TestVet(t *testing.T) {
	node := encode(t, stateNode{Name: "a1", Addr: []byte{10, 0, 0, 1}, Port: 7444, Vsn: []byte{1, 5, 2, 2, 5, 4}})
	times := func(more ...string) []byte {
		l := map[string]uint64{"a1": 7}
		for _, n := range more {
			l[n] = 9
		}
		return encode(t, serfTimes{8, l}, serfState)
	}
	events := encode(t, map[string]any{"LTime": 8, "StatusLTimes": map[string]int{"a1": 7}, "LeftMembers": []string{"a1"}, "Events": []any{nil, "x"}}, serfState)
	state := func(nodes int, user []byte) []byte {
		return slices.Concat(header(t, nodes, len(user)), bytes.Repeat(node, nodes), user)
	}
	f := func(in, want []byte) {
		t.Helper()
		got, err := vet(bytes.NewReader(in), knowsA1)
		if (err == nil) != (want != nil) || err != nil && !errors.Is(err, errVetted) && !errors.Is(err, io.EOF) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%x became %x, %v, want %x", in, got, err, want)
		}
	}
	f(state(3, times()), state(3, times()))
	f(state(1, times("x1", "x2")), state(1, times()))
	f(state(1, events), state(1, times()))
	f(state(0, nil), state(0, nil))
	f(state(1, []byte{3, 0x80}), nil) // an event
	f(state(1, slices.Concat([]byte{serfState}, huge)), nil)
	f(slices.Concat(header(t, 1, 0), huge), nil)
	f(state(2, times())[:100], nil)
	f(header(t, maxNodes+1, 0), nil)
	f(header(t, 1<<20, 0), nil)
	f(header(t, -1, 0), nil)
	f(header(t, 1, maxUser+1), nil)
	f(header(t, 1, -5), nil)
	f(append([]byte{msgPushPull}, bytes.Repeat([]byte{0xdf}, 300)...), nil) // a map without end
	ping := encode(t, map[string]int{"SeqNo": 1}, msgPing)
	f(append(bytes.Clone(ping), 1, 2), ping)
	f(append([]byte{msgPing}, huge...), nil)
	for _, kind := range []byte{msgUser, 9, 10, 244} { // 9 compressed, 10 encrypted, 244 labelled
		f([]byte{kind, 0x80}, nil)
	}
}

func TestVetPacket(t *testing.T) {
	f := func(in, want []byte) {
		t.Helper()
		if got := vetPacket(in, knowsA1); !bytes.Equal(got, want) {
			t.Errorf("%x became %x, want %x", in, got, want)
		}
	}
	ping := encode(t, map[string]int{"SeqNo": 1}, msgPing)
	join := encode(t, serfIntent{7, "a1"}, msgUser, serfJoin)
	other := encode(t, serfIntent{7, "x1"}, msgUser, serfJoin)
	leave := encode(t, serfIntent{7, "a1"}, msgUser, 0)
	event := encode(t, map[string]any{"LTime": 1, "Name": "x"}, msgUser, 3)
	f(ping, ping)
	f(join, join)
	f(summed(ping), ping)
	f(append(summed(ping), 0), nil)
	f(compound(ping, join), compound(ping, join))
	f(summed(compound(other, ping, event, join, leave, nil)), compound(ping, join))
	f(compound(other, leave, event), nil)
	f(compound(compound(ping)), nil)
	f(summed(summed(ping)), nil)
	f(compound(ping, join)[:8], nil)
	f(compound(ping, encode(t, make([]byte, maxPacket), msgAck)), nil) // larger than memberlist sends
	f(append([]byte{msgPing}, huge...), nil)
	f(append([]byte{msgUser, serfJoin}, huge...), nil)
	for _, kind := range []byte{msgPushPull, 9, 10, msgError, 244} { // 9 compressed, 10 encrypted, 244 labelled
		f([]byte{kind, 0x80}, nil)
	}
	f(nil, nil)
}

func FuzzVet(f *testing.F) {
	for _, in := range [][]byte{header(f, 3, 100), header(f, 0, 0), header(f, 1<<20, 0), {msgPing, 0x80}, {msgPushPull, 0xdf, 0xff, 0xff, 0xff, 0xff}, {8}} {
		f.Add(in)
	}
	f.Add(append(header(f, 0, 20), encode(f, serfTimes{1, map[string]uint64{"a1": 1}}, serfState)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := vet(bytes.NewReader(in), knowsA1)
		if err != nil {
			return
		}
		again, err := vet(bytes.NewReader(got), knowsA1)
		if err != nil || len(again) != len(got) { // maps have no order
			t.Errorf("%x is passed on as %x, and that as %x, %v", in, got, again, err)
		}
	})
}

func FuzzVetPacket(f *testing.F) {
	join := encode(f, serfIntent{7, "a1"}, msgUser, serfJoin)
	f.Add(summed(compound(join, encode(f, serfIntent{7, "x1"}, msgUser, serfJoin), []byte{msgPing, 0x80})))
	f.Add(join)
	f.Add(append([]byte{msgPing}, huge...))
	f.Fuzz(func(t *testing.T, in []byte) {
		got := vetPacket(in, knowsA1)
		if again := vetPacket(got, knowsA1); len(got) > len(in) || !bytes.Equal(again, got) {
			t.Errorf("%x is passed on as %x, and that as %x", in, got, again)
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

// hostile is an agent of the site, a2, with valid keys, that says nothing of its own.
func (s *site) hostile(to *member) (e *transport.Endpoint, stop func()) {
	s.t.Helper()
	n := s.d.Unlisted("lon1", "a2")
	e, err := transport.New(transport.Config{
		Listen: "127.0.0.1:0", TLS: n.TLS, UDP: []string{trust.ALPNMesh}, TCP: []string{trust.ALPNMesh}, Log: slog.New(slog.DiscardHandler),
		Resolver: transport.ResolverFunc(func(transport.Peer) []string { return []string{to.addr} }),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.edit(func(r *intent.RosterBody) {
		r.Agents = append(r.Agents, intent.RosterAgent{ID: "a2", State: "agent", Addr: []string{e.Addr().String()}, TLS: [][]byte{n.Leaf.Leaf.RawSubjectPublicKeyInfo}})
	})
	e.HandlePacket(func(trust.Identity, []byte) {})
	e.HandleStream(trust.ALPNMesh, transport.KindGossip, func(_ context.Context, s *transport.Stream) { _ = s.Close() })
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	return e, func() {
		cancel()
		if err := e.Close(); err != nil {
			s.t.Error(err)
		}
		<-ended
	}
}

// TestMillionMembers: an agent of the site, with valid keys, opens streams that announce a million members each, and one compressed to
// nothing. The other one allocates nothing for them, and goes on.
func TestMillionMembers(t *testing.T) {
	s := newSite(t)
	a1 := s.add("a1")
	defer a1.stop()
	e, stop := s.hostile(a1)
	ctx := t.Context()
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
	stop()
}

// TestFloodOfNames: an agent of the site, with valid keys, sends events, and intents to join and to leave of names, some invented, in
// packets. Serf keeps nothing of it, and the pool goes on.
func TestFloodOfNames(t *testing.T) {
	s := newSite(t)
	a1, a3 := s.add("a1"), s.add("a3")
	await(t, "a3 alive", a1, func(Event) bool { return a1.Alive("a3") })
	e, stop := s.hostile(a1)
	to := transport.Peer{Site: "lon1", ID: "a1"}
	if _, err := e.Dial(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	before := a1.serf.Load().Stats()
	for i := range packetBurst {
		ms := [][]byte{
			encode(t, map[string]any{"LTime": i + 1, "Name": strconv.Itoa(i), "Payload": make([]byte, 100)}, msgUser, 3),
			encode(t, serfIntent{1 << 40, "x" + strconv.Itoa(i)}, msgUser, serfJoin),
			compound(encode(t, serfIntent{1 << 40, "y" + strconv.Itoa(i)}, msgUser, serfJoin)),
			encode(t, map[string]any{"LTime": 1 << 40, "Node": "a3", "Prune": true}, msgUser, 0),
		}
		if err := e.SendPacket(to, append([]byte{byte(Site)}, compound(ms...)...)); err != nil {
			t.Fatal(err)
		}
		large := encode(t, map[string]any{"LTime": i + 1, "Name": "l" + strconv.Itoa(i), "Payload": make([]byte, 60<<10)}, msgUser, 3)
		if err := e.SendPacket(to, append([]byte{byte(Site)}, large...)); err != nil {
			t.Fatal(err)
		}
	}
	// What was sent before this arrives before it, or is lost.
	head := intent.Head{Epoch: 4, Seq: 1042, Hash: intent.DigestOf([]byte("x"))}
	a3.SetHead(intent.StreamIntent, head)
	await(t, "head", a1, func(e Event) bool { return e.Kind == EventHead && e.Member.Tags.Intent == HintOf(head) })
	after := a1.serf.Load().Stats()
	for _, of := range []string{"member_time", "event_time", "event_queue", "query_time", "left"} {
		if after[of] != before[of] && (of != "member_time" || len(after[of]) > 6) {
			t.Errorf("%s was %s, is %s", of, before[of], after[of])
		}
	}
	if !a1.Alive("a3") {
		t.Error("a3 was made to leave")
	}
	stop()
}
