package account

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/telemetry/sflow"
	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

func lines(fs []Figure) string {
	var w strings.Builder
	for _, f := range fs {
		fmt.Fprintf(&w, "%s %s %s %s %s %s %s: %d bytes, %d l3, %d packets, %d samples %v\n", f.Project, f.Network, f.Subnet, f.Machine, f.Switch, f.Direction, f.Scope, f.Bytes, f.L3, f.Packets, f.Samples, f.Flags.Names())
	}
	return w.String()
}

func allFields() []Field {
	return []Field{ByProject, ByNetwork, ByMachine, BySwitch, ByDirection, ByScope}
}

// TestCounting: each packet counts once in each direction, at its machine's own port, however the switch samples.
func TestCounting(t *testing.T) {
	const self, unknown, many, drop = sflow.SelfPort, 0, 2 << 30, 1<<30 | 1
	f := func(name string, mode Mode, want string, flows ...sflowtest.Flow) {
		t.Helper()
		a := newAgent(t, plan(mode), nil)
		e := sflowtest.Exporter{Agent: swA, Uptime: 60_000}
		for i, fl := range flows {
			fl.Seq, fl.Pool = uint32(i), uint32(i)*100
			a.Take(e.Datagram(fl.Sample()), swA, t0)
		}
		a.end(t, t0)
		q, err := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, allFields(), nil, t0)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.ReplaceAll(lines(ask(t, q, t0, a)), ": 101800 bytes, 100000 l3, 100 packets, 1 samples", "")
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
	out1 := "acme web  m1 sw1 out outside []\n"
	in1 := "acme web  m1 sw1 in outside []\n"
	f("from a machine to the world", Ingress, out1, flow(m1, away, 1, 1, 9))
	f("from the world to a machine", Ingress, in1, flow(away, m1, 9, 9, 1))
	f("between two of a project", Ingress, "acme web  m1 sw1 out inside []\nacme web  m2 sw1 in inside []\n", flow(m1, m2, 1, 1, 2))
	f("to another project in the same pool", Ingress, "acme web  m1 sw1 out outside []\nevil web  m3 sw1 in outside []\n", flow(m1, m3, 1, 1, 3))
	f("an egress sample where ingress counts", Ingress, "", flow(away, m1, 1, 9, 1))
	f("both: what came in does not count as out", Both, "", flow(away, m1, 9, 9, 1))
	f("both: the port's own sample does", Both, in1, flow(away, m1, 1, 9, 1))
	f("both: from a machine", Both, out1, flow(m1, away, 1, 1, 9))
	f("between ports that are nobody's", Ingress, "", flow(away, away, 8, 8, 9))
	f("discarded", Ingress, out1, flow(m1, away, 1, 1, drop))
	f("to a port that is not named", Ingress, "acme web  m1 sw1 in outside [by_address]\n", flow(away, m1, 9, 9, unknown))
	f("to many ports", Ingress, "acme web  m1 sw1 in outside [by_address]\n", flow(away, m1, 9, 9, many))
	f("both: to many ports, which sample it too", Both, "", flow(away, m1, 9, 9, many))
	f("host, both ways", Host, "acme web  m1 sw1 out inside [by_address]\nacme web  m2 sw1 in inside [by_address]\n", flow(m1, m2, 1, self, self))
	f("from a machine, with an address of nobody", Ingress, "acme   m1 sw1 out outside []\n", flow(away, away, 1, 1, 9))
	bridge := flow(m1, m2, 0, 1, 2)
	bridge.Source = 2<<24 | 7
	f("Open vSwitch's bridge as source", Auto, "acme web  m1 sw1 out inside []\nacme web  m2 sw1 in inside []\n", bridge)
	f("from a member of an aggregate", Ingress, out1, flow(m1, away, 11, 11, 9))
	f("from a member, as the whole", Ingress, out1, flow(m1, away, 11, 1, 9))
	f("to a member", Ingress, in1, flow(away, m1, 9, 9, 12))
	f("both: sampled at a member, named as the whole", Both, in1, flow(away, m1, 12, 9, 1))
	f("from one member to another", Ingress, "acme   m1 sw1 in inside []\nacme web  m1 sw1 out outside []\n", flow(m1, away, 11, 11, 12))
	none := flow(m1, away, 1, 1, 9)
	none.Rate = 0
	f("without a rate", Ingress, "", none)
	huge := flow(m1, away, 1, 1, 9)
	huge.Len = 1 << 31
	f("longer than any frame", Ingress, "", huge)
	arp := flow(m1, away, 1, 1, 9)
	arp.Header = make([]byte, 64)
	f("no IP", Ingress, "acme   m1 sw1 out outside: 101800 bytes, 0 l3, 100 packets, 1 samples []\n", arp)
}

// TestAuto: a port whose egress is sampled too counts by that from the next interval on, and nothing twice in it.
func TestAuto(t *testing.T) {
	a := newAgent(t, plan(Auto), nil)
	e := sflowtest.Exporter{Agent: swA}
	seq := uint32(0)
	for minute := range 3 {
		for range 10 {
			seq++
			e.Uptime = uint32(minute)*60_000 + seq
			in, out := flow(away, m1, 9, 9, 1), flow(away, m1, 1, 9, 1)
			in.Seq, out.Seq, in.Pool, out.Pool = seq, seq, seq*100, seq*100
			a.Take(e.Datagram(in.Sample(), out.Sample()), swA, t0.Add(time.Duration(e.Uptime)*time.Millisecond))
		}
	}
	a.end(t, t0.Add(time.Hour))
	q, _ := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 60*time.Second, []Field{ByMachine}, nil, t0)
	got := ""
	for _, f := range ask(t, q, t0, a) {
		got += fmt.Sprint(f.Samples, " ")
	}
	if got != "10 10 10 " {
		t.Errorf("samples by minute: %s", got)
	}
}

// TestRates: what was lost is corrected by the exporter's pool, a rate that is not kept too, and both are flagged; a few samples by
// chance off are left alone.
func TestRates(t *testing.T) {
	f := func(name string, s sourceStat, named uint32, want float64, why Flags) {
		t.Helper()
		if n, got := s.rate(named); n != want || got != why {
			t.Errorf("%s: %v %v, want %v %v", name, n, got.Names(), want, why.Names())
		}
	}
	f("as named", sourceStat{received: 1000, stepped: 1000, pool: 101_000}, 100, 100, 0)
	f("by chance", sourceStat{received: 20, stepped: 20, pool: 3_000}, 100, 100, 0)
	f("a rate that lies", sourceStat{received: 1000, stepped: 1000, pool: 200_000}, 100, 200, FlagRate)
	f("lost", sourceStat{received: 500, lost: 500, stepped: 500, pool: 100_000}, 100, 200, FlagLoss)
	f("lost by the exporter", sourceStat{received: 500, stepped: 500, pool: 100_000, drops: 500}, 100, 200, FlagLoss)
	f("lost, and the pool does not move", sourceStat{received: 500, lost: 500, stepped: 500}, 100, 200, FlagLoss)
	f("one sample", sourceStat{received: 1}, 100, 100, 0)
	f("less than one", sourceStat{received: 1000, stepped: 1000, pool: 10}, 1, 1, 0)
}

// TestPortByName: a port that intent knows by name alone counts once the exporter's counters told which ifIndex has it.
func TestPortByName(t *testing.T) {
	p := NewPlan([]Switch{{Name: "sw1", Agents: []netip.Addr{swA}, Mode: Ingress, Ports: []Port{{Name: "Ethernet17", Machine: "m1", Project: "acme"}}}}, nil)
	a := newAgent(t, p, nil)
	e := sflowtest.Exporter{Agent: swA, Uptime: 60_000}
	first, second := flow(m1, away, 5, 5, 9), flow(m1, away, 5, 5, 9)
	first.Seq, second.Seq, second.Pool = 1, 2, 100
	a.Take(e.Datagram(first.Sample()), swA, t0)
	a.Take(e.Datagram(sflowtest.Interface{Index: 5, Name: "Ethernet17"}.Sample(), sflowtest.Interface{Index: 6, Name: "Ethernet18"}.Sample(), second.Sample()), swA, t0)
	a.end(t, t0)
	q, _ := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, []Field{ByMachine, ByDirection}, nil, t0)
	if fs := ask(t, q, t0, a); len(fs) != 1 || fs[0].Machine != "m1" || fs[0].Direction != Out || fs[0].Samples != 1 {
		t.Errorf("%+v", fs)
	}
}

// TestChangedRate: samples count by the rate that each names.
func TestChangedRate(t *testing.T) {
	a := newAgent(t, plan(Ingress), nil)
	e := sflowtest.Exporter{Agent: swA, Uptime: 60_000}
	for i := range 4 {
		fl := flow(m1, away, 1, 1, 9)
		fl.Seq, fl.Rate = uint32(i), uint32(100<<(i/2))
		a.Take(e.Datagram(fl.Sample()), swA, t0)
	}
	a.end(t, t0)
	q, _ := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, nil, nil, t0)
	if got := ask(t, q, t0, a); len(got) != 1 || got[0].Packets != 600 || got[0].Bytes != 610_800 {
		t.Errorf("%+v", got)
	}
}

// TestImplausible: more than the port's speed allows is told, not cut.
func TestImplausible(t *testing.T) {
	f := func(rate uint32, want string) {
		t.Helper()
		a := newAgent(t, plan(Ingress), nil)
		e := sflowtest.Exporter{Agent: swA, Uptime: 60_000}
		fl := flow(m1, away, 1, 1, 9)
		fl.Rate = rate
		a.Take(e.Datagram(sflowtest.Interface{Index: 1, Speed: 1e9}.Sample(), fl.Sample()), swA, t0)
		s := e.Datagram(sflowtest.Interface{Index: 1, Speed: 1e9}.Sample())
		a.Take(s, swA, t0)
		a.end(t, t0)
		q, _ := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, nil, nil, t0)
		got := ask(t, q, t0, a)
		if len(got) != 1 || fmt.Sprint(got[0].Flags.Names()) != want {
			t.Errorf("rate %d: %+v", rate, got)
		}
	}
	f(7_000_000, "[]")
	f(9_000_000, "[implausible]") // 9.2 GB in a minute of a gigabit
}

// TestReconcile: samples that fit the counters give a ratio near 1; a switch that says another rate than it keeps is told the third time,
// once, and its figures are flagged from then on.
func TestReconcile(t *testing.T) {
	member := uint32(1)
	f := func(name string, real, said uint32, fcs uint64, want int, ratio string) {
		t.Helper()
		a := newAgent(t, plan(Ingress), nil)
		e := sflowtest.Exporter{Agent: swA}
		var octets uint64
		var packets uint32
		now := t0
		for minute := range 31 {
			var samples []sflowtest.Sample
			for range 50 {
				fl := flow(m1, away, member, member, 9)
				packets++
				fl.Seq, fl.Rate, fl.Pool = packets, said, packets*said
				octets += uint64(real) * (1018 - fcs)
				samples = append(samples, fl.Sample())
			}
			samples = append(samples, sflowtest.Interface{Index: 1, Speed: 1e10, In: octets}.Sample(), sflowtest.Interface{Index: 12, Speed: 1e10}.Sample())
			e.Uptime = uint32(minute) * 60_000
			now = t0.Add(time.Duration(minute) * time.Minute)
			a.Take(e.Datagram(samples...), swA, now)
			a.e.Tick(now, false)
		}
		a.end(t, now)
		got := a.e.Ratios()
		if len(got) != 1 || fmt.Sprintf("%.2f", got[0].Out) != ratio || len(a.told) != want {
			t.Errorf("%s: %+v, %d told", name, got, len(a.told))
		}
		q, _ := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, nil, nil, t0)
		if fs := ask(t, q, now, a); (fs[0].Flags&FlagMismatch != 0) != (want > 0) {
			t.Errorf("%s: %v", name, fs[0].Flags.Names())
		}
	}
	f("right", 100, 100, 0, 0, "1.00")
	f("counters without FCS", 100, 100, 4, 0, "1.00")
	f("twice the rate", 100, 200, 0, 1, "2.00")
	f("half the rate", 100, 50, 0, 1, "0.50")
	member = 11
	f("by a member of an aggregate, whose whole is counted", 100, 100, 0, 0, "1.00")
}

// TestBounds: streams, cells and pending intervals are bounded, and what does not fit is told.
func TestBounds(t *testing.T) {
	a := newAgent(t, plan(Ingress), nil)
	e := sflowtest.Exporter{Agent: swA}
	a.store.fail = fmt.Errorf("no disk")
	for minute := range maxPending + 20 {
		e.Uptime = uint32(minute) * 60_000
		at := t0.Add(time.Duration(minute) * time.Minute)
		a.Take(e.Datagram(flow(m1, away, 1, 1, 9).Sample()), swA, at)
		a.e.Tick(at, false)
		if minute%100 == 0 {
			if err := a.e.Flush(); minute > 100 && err == nil {
				t.Error("nothing was refused")
			}
		}
	}
	if d := a.e.Dropped(); d < 10 || d > 30 || len(a.e.pending) != maxPending {
		t.Errorf("%d dropped, %d wait", d, len(a.e.pending))
	}
	a.store.fail = nil
	a.end(t, t0.Add(maxPending*time.Minute))
	if a.store.octets > 1_200_000 {
		t.Errorf("a transaction of %d octets", a.store.octets)
	}
}

// TestStorm: an exporter, or who sends in its name, that restarts with each datagram and invents sources and ports fills neither memory nor
// the ledger, and the next honest minute is kept.
func TestStorm(t *testing.T) {
	a := newAgent(t, plan(Ingress), nil)
	e := sflowtest.Exporter{Agent: swA}
	now := t0
	for i := range uint32(6_000) {
		e.SubAgent = i % 300
		e.Uptime = (i / 300 % 2) * 1_000_000
		var flows []sflowtest.Sample
		for j := range uint32(5) {
			fl := flow(m1, away, i*5+j, 1, 9)
			fl.Input, fl.Seq = fl.Source, i
			flows = append(flows, fl.Sample(), sflowtest.Interface{Index: i*5 + j}.Sample())
		}
		a.Take(e.Datagram(flows...), swA, now)
		if i%600 == 0 {
			now = now.Add(10 * time.Second)
			a.e.Tick(now, false)
			if err := a.e.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(a.e.pending); n > maxPending || a.e.cells > allCells || a.e.cells < 0 || a.e.ports > allPorts || a.e.ports < 0 {
			t.Fatalf("%d wait, %d cells, %d ports", n, a.e.cells, a.e.ports)
		}
	}
	a.end(t, now)
	now = now.Add(time.Hour)
	honest := sflowtest.Exporter{Agent: swA, SubAgent: 1, Seq: 1 << 20, Uptime: 500_000_000}
	a.Take(honest.Datagram(flow(m2, away, 2, 2, 9).Sample()), swA, now)
	a.end(t, now)
	q, _ := NewQuery(now.Add(-5*time.Minute), now.Add(time.Minute), 0, []Field{ByMachine}, nil, now)
	if fs := ask(t, q, now, a); len(fs) != 1 || fs[0].Machine != "m2" || fs[0].Packets != 100 {
		t.Errorf("%+v", fs)
	}
	if a.store.octets > 1_200_000 {
		t.Errorf("a transaction of %d octets", a.store.octets)
	}
}

// TestManyRows: a minute of more rows than an interval holds is cut and says so; one that fits into no transaction is given up and counted,
// and holds nothing else up.
func TestManyRows(t *testing.T) {
	v := interval(0, t0, 1)
	var rows []Row
	for i := range maxRows + 10 {
		rows = append(rows, row(fmt.Sprintf("m%05d", i), 100))
	}
	v.setRows(addRows(nil, rows))
	if len(v.Rows) != maxRows || v.Flags&FlagTruncated == 0 {
		t.Errorf("%d rows, %v", len(v.Rows), v.Flags.Names())
	}
	a := newAgent(t, plan(Ingress), nil)
	for _, w := range []*Interval{v, interval(0, t0, 1, row("m1", 5))} {
		if left, err := a.l.Write([]*Interval{w}); err != nil || len(left) > 0 {
			t.Fatal(err, len(left))
		}
	}
	huge := *v
	for i := range 40_000 { // no engine makes such a one
		huge.Rows = append(huge.Rows, row(fmt.Sprintf("x%05d", i), 100))
	}
	if left, err := a.l.Write([]*Interval{&huge, interval(0, t0.Add(time.Minute), 2, row("m2", 7))}); err != nil || len(left) > 0 || a.l.Damaged() != 1 {
		t.Fatal(err, len(left), a.l.Damaged())
	}
	q, _ := NewQuery(t0.Add(30*time.Second), t0.Add(time.Hour), 0, []Field{ByMachine}, nil, t0)
	if fs := ask(t, q, t0, a); len(fs) != 1 || fs[0].Machine != "m2" {
		t.Errorf("%d figures", len(fs))
	}
}
