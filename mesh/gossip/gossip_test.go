package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/serf/serf"
	"go.uber.org/goleak"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
)

// TestMain allows one foreign goroutine: memberlist's Shutdown does not wait for a probe under way, which ends by itself
// after at most its interval (1 s, times 8 when the machine is slow).
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

const limit = time.Minute // suspicion alone takes 4-9 s; far above that on a busy machine

// site is the agents of one site under test.
type site struct {
	t *testing.T
	d *pkitest.Domain
	// host returns the network of an address; nil: this machine's.
	host func(listen string) transport.Network

	mu     sync.Mutex
	roster *intent.RosterBody
}

func (s *site) Roster() *intent.RosterBody {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roster
}

func (s *site) nodes() []Node { return Roster("lon1", s.Roster()) }

// edit replaces the roster by a changed copy.
func (s *site) edit(f func(*intent.RosterBody)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := *s.roster
	r.Agents = slices.Clone(r.Agents)
	f(&r)
	s.roster = &r
	s.d.Holder.Set(s.d.Holder.View().WithRoster("lon1", &r))
}

// member is one running agent.
type member struct {
	*Pool
	n    *pkitest.Node
	addr string
	stop func()
}

func newSite(t *testing.T) *site {
	return &site{t: t, d: pkitest.New(t), roster: &intent.RosterBody{}}
}

// add makes an agent with certificate and roster entry, and starts it.
func (s *site) add(id string) *member {
	s.t.Helper()
	n := s.d.Unlisted("lon1", id)
	return s.addAt(n, "127.0.0.1:0")
}

func (s *site) addAt(n *pkitest.Node, listen string) *member {
	s.t.Helper()
	id := n.ID.ID
	m := s.start(n, listen, func(addr string) {
		s.edit(func(r *intent.RosterBody) {
			r.Agents = append(r.Agents, intent.RosterAgent{ID: id, State: "agent", Addr: []string{addr}, TLS: [][]byte{n.Leaf.Leaf.RawSubjectPublicKeyInfo}})
		})
	})
	return m
}

func (s *site) start(n *pkitest.Node, listen string, bound func(addr string)) *member {
	s.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var network transport.Network
	if s.host != nil {
		network = s.host(listen)
	}
	e, err := transport.New(transport.Config{
		Listen: listen, Network: network, TLS: n.TLS, UDP: []string{trust.ALPNMesh}, TCP: []string{trust.ALPNMesh}, Log: log, ResetKey: bytes.Repeat([]byte{2}, 32),
		Resolver: transport.ResolverFunc(func(p transport.Peer) []string {
			for _, a := range s.Roster().Agents {
				if a.ID == p.ID {
					return a.Addr
				}
			}
			return nil
		}),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if bound != nil {
		bound(e.Addr().String())
	}
	p, err := New(Config{Endpoint: e, Self: n.ID.ID, Scope: Site, Nodes: s.nodes, Log: log})
	if err != nil {
		s.t.Fatal(err)
	}
	Register(e, p)
	ctx, cancel := context.WithCancel(context.Background())
	ectx, ecancel := context.WithCancel(context.Background())
	done, edone := make(chan error, 1), make(chan error, 1)
	go func() { edone <- e.Run(ectx) }()
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		for _, x := range []struct {
			end  func()
			done chan error
		}{{cancel, done}, {ecancel, edone}} {
			x.end()
			select {
			case err := <-x.done:
				if err != nil {
					s.t.Error(err)
				}
			case <-time.After(limit):
				s.t.Error("Run did not end")
			}
		}
	})
	s.t.Cleanup(stop)
	return &member{p, n, e.Addr().String(), stop}
}

// await reads events until one fits.
func await(t *testing.T, what string, m *member, fits func(Event) bool) Event {
	t.Helper()
	deadline := time.After(limit)
	for {
		select {
		case e := <-m.Events():
			if fits(e) {
				return e
			}
		case <-deadline:
			t.Fatalf("%s: never seen by %s; members %+v", what, m.n.ID, m.Members())
		}
	}
}

func TestSite(t *testing.T) {
	s := newSite(t)
	a1, a2, a3 := s.add("a1"), s.add("a2"), s.add("a3")
	all := []*member{a1, a2, a3}
	for _, m := range all {
		for _, o := range all {
			if m != o && !m.Alive(o.n.ID.ID) {
				await(t, o.n.ID.ID+" alive", m, func(e Event) bool { return e.Kind == EventAlive && m.Alive(o.n.ID.ID) })
			}
		}
	}
	// A head is named to all within the second that mesh.md allows, and then some for a busy machine.
	start := time.Now()
	head := intent.Head{Epoch: 4, Seq: 1042, Hash: intent.DigestOf([]byte("x"))}
	a1.SetHead(intent.StreamIntent, head)
	for _, m := range []*member{a2, a3} {
		e := await(t, "head", m, func(e Event) bool { return e.Kind == EventHead && e.Member.Tags.Intent == HintOf(head) })
		if e.Member.ID != "a1" || !e.Member.Tags.Intent.Newer(Hint{4, 1041, ""}) {
			t.Errorf("event %+v", e)
		}
	}
	t.Logf("head seen by all after %v", time.Since(start))

	// An agent that goes silent is absent, not removed; back on its address it is alive again.
	a3.stop()
	for _, m := range []*member{a1, a2} {
		await(t, "a3 dead", m, func(e Event) bool { return e.Kind == EventDead && e.Member.ID == "a3" })
		ms := m.Members()
		if len(ms) != 3 || ms[2].Alive || ms[2].Since.IsZero() {
			t.Errorf("members %+v", ms)
		}
	}
	t.Logf("a3 missed by all after %v", time.Since(start))
	s.start(a3.n, a3.addr, nil)
	for _, m := range []*member{a1, a2} {
		await(t, "a3 back", m, func(e Event) bool { return e.Kind == EventAlive && e.Member.ID == "a3" })
	}

	// The roster's removals beat gossip.
	s.edit(func(r *intent.RosterBody) { r.Agents = r.Agents[:2] })
	if ms := a1.Members(); len(ms) != 2 || a1.Alive("a3") {
		t.Errorf("members %+v", ms)
	}
	if !a1.Alive("a1") {
		t.Error("this agent is not alive")
	}
}

func TestMergeRefuses(t *testing.T) {
	s := newSite(t)
	s.edit(func(r *intent.RosterBody) {
		r.Agents = []intent.RosterAgent{
			{ID: "a1", State: "agent", Addr: []string{"10.0.0.1:7444"}},
			{ID: "a2", State: "agent", Addr: []string{"10.0.0.2:7444"}},
			{ID: "s1", State: "spare", Addr: []string{"10.0.0.3:7444"}},
			{ID: "a4", State: "agent", Addr: []string{"host.example.net:7444"}},
		}
	})
	p := &Pool{cfg: Config{Self: "a1", Nodes: s.nodes}}
	f := func(ok bool, id, ip string, port uint16) {
		t.Helper()
		if err := p.NotifyMerge([]*serf.Member{{Name: id, Addr: net.ParseIP(ip), Port: port}}); (err == nil) != ok {
			t.Errorf("%s at %s:%d: %v", id, ip, port, err)
		}
	}
	f(true, "a2", "10.0.0.2", 7444)
	f(false, "a2", "10.0.0.9", 7444) // a clone elsewhere
	f(false, "a2", "10.0.0.2", 7445)
	f(false, "a9", "10.0.0.2", 7444)
	f(false, "s1", "10.0.0.3", 7444) // a spare is not admitted yet
	f(true, "a4", "10.0.0.4", 7444)  // a name is looked up by the dialler, and TLS decides
	f(true, "a1", "10.0.0.1", 7444)
}

func TestTags(t *testing.T) {
	h := Hint{1<<64 - 1, 1<<64 - 1, "ffffffff"}
	full := Tags{State: Draining, Rack: strings.Repeat("r", 63), WAN: true, DiskFree: 100, Intent: h, Revocation: h, Trust: h, Evidence: 1<<64 - 1, Assets: 1<<64 - 1, Devices: 1<<64 - 1}
	if n := encodedSize(full.encode()); n > tagsMax {
		t.Errorf("the largest tags take %d octets, at most %d", n, tagsMax)
	}
	if got := decodeTags(full.encode()); got != full {
		t.Errorf("decoded %+v", got)
	}
	if got := (Tags{}).encode(); !maps.Equal(got, map[string]string{"v": "1"}) {
		t.Errorf("empty tags are %v", got)
	}
	if got := decodeTags(map[string]string{"i": "x", "d": "-1", "b": "999999999999999999999", "d2": "?"}); got != (Tags{}) {
		t.Errorf("garbage reads as %+v", got)
	}
}

func TestRejoinWait(t *testing.T) {
	f := func(absence, lo, hi time.Duration) {
		t.Helper()
		for range 200 {
			if w := rejoinWait(absence); w < lo || w > hi {
				t.Fatalf("after %v: %v", absence, w)
			}
		}
	}
	f(0, 2500*time.Millisecond, 7500*time.Millisecond)
	f(2*time.Minute, 15*time.Second, 45*time.Second)
	f(400*24*time.Hour, 30*time.Second, 90*time.Second)
}

func FuzzParseHint(f *testing.F) {
	f.Add("4.1042.00ff00ff")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHint(s)
		if err == nil && h.String() != s {
			t.Fatalf("%q reads as %q", s, h)
		}
	})
}
