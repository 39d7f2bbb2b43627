package traffic

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/telemetry/account"
	"github.com/skerry-metal/skerry/telemetry/probe"
	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// must ends the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func catalogOf(t *testing.T, without string) *intent.Catalog {
	t.Helper()
	c := intent.NewCatalog()
	for _, line := range strings.Split(strings.TrimSpace(site), "\n") {
		if without != "" && strings.Contains(line, without) {
			continue
		}
		o, err := intent.DecodeObject([]byte(strings.Replace(line, "{", `{"apiVersion":"skerry/v1",`, 1)))
		must(t, err)
		c.Put(o)
	}
	return c
}

// pointsOf has m1 bound to acme's array, and m2 to nobody, as planOf.
func pointsOf(c *intent.Catalog) func(string, []probe.State, map[string]string) (probe.Plan, []account.Point) {
	return func(self string, at []probe.State, macs map[string]string) (probe.Plan, []account.Point) {
		b := map[string]reconcile.Binding{"i1": {Project: "acme", Array: "shop", Machine: "m1"}}
		return PointsOf(c, effective.Addresses(c, &intent.RosterBody{}, "lon1"), b, "lon1", self, at, macs)
	}
}

// TestPoints: where what counts, so that each direction of each link counts once.
func TestPoints(t *testing.T) {
	const mac1, mac2, other = "52:54:00:88:00:01", "52:54:00:88:00:02", "52:54:00:88:00:99"
	tcx := probe.State{Interface: "e0", Method: probe.TCX, In: true, Out: true}
	xdp := probe.State{Interface: "e0", Method: probe.XDP, In: true}
	counters := probe.State{Interface: "e0", Method: probe.Counters}
	f := func(name, without string, at probe.State, mac string, want ...string) {
		t.Helper()
		plan, points := pointsOf(catalogOf(t, without))("a1", []probe.State{at}, map[string]string{"e0": mac})
		var got []string
		for _, p := range points {
			got = append(got, fmt.Sprintf("point %q in %v out %v", p.Machine, p.In, p.Out))
		}
		for _, l := range plan.Links {
			got = append(got, fmt.Sprintf("link %d own %v whole %v %s", l.Table, l.Own, l.Whole, l.Label))
		}
		for _, x := range plan.Prefixes {
			got = append(got, fmt.Sprintf("%d %s group %d peer %v %s", x.Table, x.Prefix, x.Group, x.Peer, x.Label))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
	f("machines are on the other side, and hang on ports of a switch that count", "", tcx, other,
		`point "" in false out false`, `link 0 own false whole false `,
		`0 10.88.0.22/32 group 1 peer true {"p":{},"subnet":"10.88.0.0/16","machine":"m2"}`,
		`0 10.88.0.21/32 group 2 peer true {"p":{},"project":"acme","network":"web","subnet":"10.88.0.0/16","machine":"m1"}`)
	f("machines are on the other side, without a switch", "Switch", tcx, other,
		`point "" in false out false`, `link 0 own false whole false `,
		`0 10.88.0.22/32 group 1 peer false {"p":{},"subnet":"10.88.0.0/16","machine":"m2"}`,
		`0 10.88.0.21/32 group 2 peer false {"p":{},"project":"acme","network":"web","subnet":"10.88.0.0/16","machine":"m1"}`)
	f("the interface is m1's, which hangs on a port", "", tcx, mac1,
		`point "m1" in true out true`, `link 1 own true whole true {"p":{"m":"m1","i":true,"o":true},"project":"acme","machine":"m1"}`,
		`1 10.88.0.0/16 group 0 peer false {"p":{"m":"m1","i":true,"o":true},"project":"acme","network":"web","subnet":"10.88.0.0/16","machine":"m1"}`,
		`1 10.88.0.21/32 group 1 peer false {"p":{"m":"m1","i":true,"o":true},"project":"acme","network":"web","subnet":"10.88.0.0/16","machine":"m1"}`)
	f("what goes out of m1 is not seen", "", xdp, mac1,
		`point "m1" in true out false`, `link 1 own true whole true {"p":{"m":"m1","i":true},"project":"acme","machine":"m1"}`,
		`1 10.88.0.0/16 group 0 peer false {"p":{"m":"m1","i":true},"project":"acme","network":"web","subnet":"10.88.0.0/16","machine":"m1"}`,
		`1 10.88.0.21/32 group 1 peer false {"p":{"m":"m1","i":true},"project":"acme","network":"web","subnet":"10.88.0.0/16","machine":"m1"}`)
	f("whose what passes is, nobody sees: the port counts", "", counters, mac1)
	f("the same without a port", "Switch", counters, mac2,
		`point "" in false out false`, `link 1 own true whole true {"p":{},"machine":"m2"}`,
		`1 10.88.0.22/32 group 1 peer false {"p":{},"subnet":"10.88.0.0/16","machine":"m2"}`)
	f("at the other side the counters are nobody's", "", counters, other,
		`point "" in false out false`, `link 0 own false whole true {"p":{}}`,
		`0 10.88.0.22/32 group 1 peer true {"p":{},"subnet":"10.88.0.0/16","machine":"m2"}`,
		`0 10.88.0.21/32 group 2 peer true {"p":{},"project":"acme","network":"web","subnet":"10.88.0.0/16","machine":"m1"}`)
	f("off", "", probe.State{Interface: "e0", Method: probe.Off}, mac1)
}

// TestTwoNICs: a machine with two access ports, one of which its own host does not see, counts by its ports.
func TestTwoNICs(t *testing.T) {
	c := intent.NewCatalog()
	for _, line := range strings.Split(`{"kind":"Machine","metadata":{"name":"m1","site":"lon1","uid":"u1"},"spec":{"nics":[{"mac":"52:54:00:88:00:01"},{"mac":"52:54:00:88:00:02"}]}}
{"kind":"Switch","metadata":{"name":"sw1","site":"lon1"},"spec":{"sflow":{"agents":["127.0.0.1"]},"ports":[{"index":1,"nic":"52:54:00:88:00:01"},{"index":2,"nic":"52:54:00:88:00:02"}]}}`, "\n") {
		o, err := intent.DecodeObject([]byte(strings.Replace(line, "{", `{"apiVersion":"skerry/v1",`, 1)))
		must(t, err)
		c.Put(o)
	}
	f := func(points, links int, at ...probe.State) {
		t.Helper()
		plan, ps := pointsOf(c)("a1", at, map[string]string{"e0": "52:54:00:88:00:01", "e1": "52:54:00:88:00:02"})
		if len(ps) != points || len(plan.Links) != links {
			t.Errorf("%+v: %+v %+v", at, ps, plan)
		}
	}
	e0, e1 := probe.State{Interface: "e0", Method: probe.TCX, In: true, Out: true}, probe.State{Interface: "e1", Method: probe.TCX, In: true, Out: true}
	f(0, 0, e0)
	f(1, 2, e0, e1)
	f(0, 0, e0, probe.State{Interface: "e1", Method: probe.XDP, In: true})
	f(0, 0, e0, probe.State{Interface: "e1", Method: probe.Off})
}

// bench is an agent in a namespace of its own, with a machine on the other end of its e0, and a switch that it hears.
type bench struct {
	*testing.T
	host, machine *netlab.Namespace
	dir, data     string
	desk          *Desk
	now           time.Time
	began         bool // no agent was there yet
}

func newBench(t *testing.T) *bench {
	t.Helper()
	lab.Need(t, lab.Root, lab.Tool("ip", "iproute2"), lab.Tool("ethtool", "ethtool"))
	l := lab.New(t)
	b := &bench{T: t, dir: t.TempDir(), data: t.TempDir(), now: time.Now().Add(-2 * time.Hour), began: true}
	must(t, unix.Mount("bpf", b.dir, "bpf", 0, "mode=0700"))
	t.Cleanup(func() { must(t, unix.Unmount(b.dir, unix.MNT_DETACH)) })
	var err error
	b.host, err = l.Namespace("th")
	must(t, err)
	b.machine, err = l.Namespace("tm")
	must(t, err)
	for _, err := range []error{l.Veth(b.host, "e0", b.machine, "e0"), b.host.Addr("e0", "10.88.0.1/16"), b.machine.Addr("e0", "10.88.0.21/16")} {
		must(t, err)
	}
	return b
}

// in runs fn inside the host.
func (b *bench) in(fn func()) {
	b.Helper()
	must(b, b.host.Do(func() error { fn(); return nil }))
}

// start begins an agent, as after a crash; the store is as it was left.
func (b *bench) start(c *intent.Catalog) (end func()) {
	b.Helper()
	raw := OpenStore(filepath.Join(b.data, "s"), slog.New(slog.DiscardHandler))
	if raw == nil {
		b.Fatal("no store")
	}
	b.desk = New(Config{
		Site: "lon1", Self: "s1", Store: raw, Peers: &mesh{}, Agents: func() []string { return []string{"s1"} },
		Plan: func() *account.Plan { return planOf(b.T) }, Event: func(string, string) error { return nil }, Log: slog.New(slog.DiscardHandler),
		Count: Counting{Interfaces: []string{"e0"}, Dir: filepath.Join(b.dir, "v1", "x"), Plan: pointsOf(c)},
	})
	b.desk.engine.SetPlan(planOf(b.T))
	b.in(b.desk.count.follow)
	if b.began {
		b.began = false
		b.desk.count.read = b.now
	}
	return func() {
		must(b, b.desk.count.probe.Close())
		must(b, raw.Close())
	}
}

// minutes lets n of them pass, and reads.
func (b *bench) minutes(n int) {
	b.Helper()
	b.now = b.now.Add(time.Duration(n) * time.Minute)
	b.in(func() {
		if !b.desk.count.minute(b.now) {
			b.Fatal("no minute ended")
		}
		b.desk.count.take(b.now)
	})
	b.desk.flush()
}

// send sends datagrams of 1000 octets from the machine to the host.
func (b *bench) send(n int) {
	b.Helper()
	c, err := b.machine.ListenPacket("udp", "10.88.0.21:0")
	must(b, err)
	defer c.Close()
	for range n {
		_, err := c.WriteTo(make([]byte, 1000), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.88.0.1:9"))) // nobody listens
		must(b, err)
	}
}

// rows asks for all there is of datagrams, by machine and direction.
func (b *bench) rows() (out []string) {
	b.Helper()
	a, err := b.desk.Traffic(b.Context(), "lon1", tq(b.now))
	must(b, err)
	for _, r := range a.Rows {
		out = append(out, fmt.Sprintf("%s %s %s %s: %d packets ± %d, %d octets, %s %s %v", r.Project, r.Network, r.Machine, r.Direction, r.Packets, r.Packets95, r.Bytes, r.Source, r.Confidence, r.Flags))
	}
	return slices.DeleteFunc(out, func(s string) bool { return strings.Contains(s, " in: ") }) // refusals of datagrams: a few
}

// TestProbe: what an agent counts at its own interface is in the ledger, exactly, and once: over kills before and after it was written, and
// while no agent ran.
func TestProbe(t *testing.T) {
	b := newBench(t)
	c := catalogOf(t, "Switch")
	end := b.start(c)
	if s := b.desk.Probe(); s != "e0: tcx" && s != "e0: clsact (tcx is not supported here)" {
		t.Fatalf("%q", s)
	}
	b.send(1) // neighbours know each other
	b.minutes(1)
	b.send(50)
	b.minutes(1)
	b.send(49)
	end() // killed: the open minute is in the kernel
	b.send(100)
	end = b.start(c)
	b.minutes(10)
	b.send(100)
	b.in(func() { b.desk.count.take(b.now.Add(time.Minute)) }) // killed before it was on disk
	end()
	end = b.start(c)
	b.minutes(2)
	want := "acme web m1 out: 300 packets ± 0, 313800 octets, probe ok []"
	if got := b.rows(); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
	a, err := b.desk.Traffic(t.Context(), "lon1", tq(b.now))
	must(t, err)
	if a.Rows[0].Coverage < 0.99 {
		t.Errorf("coverage %v: the kernel counted all the time", a.Rows[0].Coverage)
	}
	end()
}

// TestProbeStandsIn: a host that is a machine counts in place of its access port, from when it does; until then, and for all others, the
// samples of the switch count.
func TestProbeStandsIn(t *testing.T) {
	b := newBench(t)
	must(t, b.host.IP("link", "set", "dev", "e0", "address", "52:54:00:88:00:01"))
	must(t, b.host.Addr("e0", "10.88.0.31/16"))
	const packets = 6000 // of each machine, in a minute, as the switch has it
	e := sflowtest.Exporter{Agent: lo, Uptime: 600_000}
	seq := uint32(0)
	sampled := func(minutes int) { // up to now
		for at := b.now.Add(time.Duration(-minutes) * time.Minute); at.Before(b.now); at = at.Add(time.Second) {
			seq++
			for port, src := range map[uint32]string{1: "10.88.0.21", 2: "10.88.0.22"} {
				g := e.Datagram(sflowtest.Flow{Seq: seq, Source: port, Rate: 100, Pool: seq * 100, Input: port, Output: 9, Len: 1018, Header: sflowtest.Frame(netip.MustParseAddr(src), netip.MustParseAddr("203.0.113.9"), 0, 1000)}.Sample())
				b.desk.ear.Take(g, lo, at)
			}
			e.Uptime += 1000
			b.desk.engine.Tick(at, false)
		}
	}
	end := b.start(catalogOf(t, ""))
	if ps := *b.desk.count.points.Load(); len(ps) != 1 || ps[0] != (account.Point{Agent: "s1", Machine: "m1", In: true, Out: true}) {
		t.Fatalf("%+v", ps)
	}
	b.now = b.now.Add(10 * time.Minute)
	b.desk.count.read = b.now // as if it began here
	sampled(10)
	for range 10 {
		b.send(1)
		b.minutes(1)
		sampled(1)
	}
	b.desk.engine.Tick(b.now, true)
	b.desk.flush()
	end() // nobody is there for a while; another agent hears the switch then, and its store is joined with this one's
	b.send(100)
	end = b.start(catalogOf(t, ""))
	b.now = b.now.Add(10 * time.Minute)
	sampled(10)
	b.now = b.now.Add(-time.Minute)
	b.minutes(1)
	b.desk.engine.Tick(b.now, true)
	b.desk.flush()

	a, err := b.desk.Traffic(t.Context(), "lon1", tq(b.now))
	must(t, err)
	got := map[string]uint64{}
	for _, r := range a.Rows {
		got[r.Machine+" "+r.Direction+" "+r.Source] += r.Packets
	}
	if n := got["m2 out sflow"]; n != 30*packets {
		t.Errorf("m2: %d packets, want %d", n, 30*packets)
	}
	// Of m1, ten minutes by its port, but for the one in which it began to count by itself, and then not one more.
	if n := got["m1 out probe+sflow"]; n < 9*packets || n > 10*packets+1000 {
		t.Errorf("m1: %d packets, want about %d: %v", n, 9*packets, got)
	}
	if n := got["m1 in probe"]; n < 100 {
		t.Errorf("to m1: %d packets: %v", n, got)
	}
	end()
}

// TestTopOfProbe: what a host counts by itself is shown live, of the last minute, in the place of what its access port is sampled for.
func TestTopOfProbe(t *testing.T) {
	b := newBench(t)
	must(t, b.host.IP("link", "set", "dev", "e0", "address", "52:54:00:88:00:01"))
	must(t, b.host.Addr("e0", "10.88.0.31/16"))
	b.now = time.Now().Add(-3 * time.Minute)
	end := b.start(catalogOf(t, ""))
	b.desk.count.read = b.now
	b.send(1) // neighbours know each other
	b.minutes(1)
	b.send(600)
	b.minutes(1)
	e, from := sflowtest.Exporter{Agent: lo, Uptime: 600_000}, time.Now().Add(-30*time.Second)
	for i := range uint32(30) {
		for port, src := range map[uint32]string{1: "10.88.0.21", 2: "10.88.0.22"} {
			b.desk.ear.Take(e.Datagram(sflowtest.Flow{Seq: i, Source: port, Rate: 100, Pool: i * 100, Input: port, Output: 9, Len: 1018, Header: sflowtest.Frame(netip.MustParseAddr(src), netip.MustParseAddr("203.0.113.9"), 0, 1000)}.Sample()), lo, from.Add(time.Duration(i)*time.Second))
		}
		e.Uptime += 1000
	}
	f, err := b.desk.Top(t.Context(), "lon1", telemetry.TopQuery{By: "machine", Limit: 100})
	must(t, err)
	got := map[string]telemetry.TopRow{}
	for _, r := range f.Rows {
		got[r.Machine+" "+r.Direction] = r
	}
	if r := got["m1 out"]; r.Packets > 1 || r.Packets95 != 0 {
		t.Errorf("m1 by its port: %+v", r)
	}
	if r := got["m1 in"]; r.Packets < 10 || r.Packets > 11 || r.Packets95 != 0 || r.Seconds != 60 || r.Confidence != "ok" || r.Coverage != 1 {
		t.Errorf("m1, counted by itself: %+v", r)
	}
	if r := got["m2 out"]; r.Packets < 90 || r.Packets > 110 {
		t.Errorf("m2, by the samples of its port: %+v", r)
	}
	end()
}

// tq asks for everything around now.
func tq(now time.Time) telemetry.TrafficQuery {
	return telemetry.TrafficQuery{From: now.Add(-3 * time.Hour), To: now, By: []string{"project", "network", "machine", "direction"}}
}
