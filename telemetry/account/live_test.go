package account

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

// show writes rates as lines.
func show(rr []Rate) string {
	var b strings.Builder
	for _, r := range rr {
		fmt.Fprintf(&b, "%s/%s %s %s:%s %s %.0f B/s of %.0f s, %.3g heard, low %v %v\n", r.Project, r.Network, r.Machine, r.Switch, r.Port, r.Direction, r.Bytes, r.Seconds, r.Coverage, r.Low, r.Flags.Names())
	}
	return b.String()
}

// TestLive: rates of the open minute, from ten seconds on, before that of the minute that ended; by machine, network and port, of some
// projects only; samples that were lost show; a switch that fell silent is gone after a minute.
func TestLive(t *testing.T) {
	a := newAgent(t, plan(Auto), nil)
	e := sflowtest.Exporter{Agent: swA}
	seq, pool := uint32(0), uint32(0)
	send := func(ms uint32, lose uint32) {
		e.Uptime = 600_000 + ms
		seq, pool = seq+1+lose, pool+100*(1+lose)
		f := flow(m1, away, 1, 1, 9)
		f.Seq, f.Pool = seq, pool
		a.Take(e.Datagram(f.Sample()), swA, t0.Add(time.Duration(ms)*time.Millisecond))
	}
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	f := func(ms int, by string, projects []string, want string) {
		t.Helper()
		a.e.Tick(at(ms), false)
		if got := show(Top(MergeLive(map[string][]Live{"a": a.e.Live(at(ms))}), by, projects)); got != want {
			t.Errorf("at %d ms by %s:\n%swant\n%s", ms, by, got, want)
		}
	}
	for ms := range uint32(125) {
		if ms < 100 {
			send(ms*1000, 0)
		} else if ms%2 == 0 {
			send(ms*1000, 1) // every other sample is lost
		}
		switch ms {
		case 5:
			f(5000, "machine", nil, "")
		case 20: // 21 samples of 1-in-100, 1018 octets each
			f(20_500, "machine", nil, "acme/ m1 : out 104283 B/s of 20 s, 1 heard, low true []\n")
		case 59:
			f(59_500, "machine", nil, "acme/ m1 : out 102655 B/s of 60 s, 1 heard, low false []\n")
			f(59_500, "network", nil, "acme/web  : out 102655 B/s of 60 s, 1 heard, low false []\n")
			f(59_500, "port", nil, "acme/ m1 sw1:1 out 102655 B/s of 60 s, 1 heard, low false []\n")
			f(59_500, "machine", []string{"evil"}, "")
		case 65: // the minute that ended
			f(65_500, "machine", nil, "acme/ m1 : out 101800 B/s of 60 s, 1 heard, low false []\n")
		case 118: // 50 of 60 samples, each for 120 packets
			f(118_500, "machine", nil, "acme/ m1 : out 104410 B/s of 58 s, 0.833 heard, low false [loss]\n")
		case 75:
			f(75_500, "machine", nil, "acme/ m1 : out 105084 B/s of 16 s, 1 heard, low true []\n")
		}
	}
	f(200_000, "machine", nil, "")
	rr := Top([]Live{{Seconds: 10, Samples: 100, Rows: []LiveRow{{Label: Label{Machine: "m1"}, Sums: Sums{Samples: 100, Bytes: 1000, Packets: 10, Var: 400, PacketVar: 4}}}}}, "machine", nil)
	if math.Abs(rr[0].Bytes95-1.96*2) > 0.01 || math.Abs(rr[0].Packets95-1.96*0.2) > 0.01 {
		t.Errorf("%+v", rr)
	}
}

// TestLiveLate: who begins to listen near the end of a minute tells no rate of the second that it heard of it.
func TestLiveLate(t *testing.T) {
	a := newAgent(t, plan(Auto), nil)
	e := sflowtest.Exporter{Agent: swA}
	for ms := uint32(58_000); ms < 80_000; ms += 500 {
		e.Uptime = 600_000 + ms
		f := flow(m1, away, 1, 1, 9)
		f.Seq, f.Pool = ms/500, ms/5
		a.Take(e.Datagram(f.Sample()), swA, t0.Add(time.Duration(ms)*time.Millisecond))
		l := a.e.Live(t0.Add(time.Duration(ms) * time.Millisecond))
		if (len(l) == 1) != (ms >= 70_000) || len(l) == 1 && l[0].Seconds < 10 {
			t.Fatalf("at %d ms: %+v", ms, l)
		}
	}
}

// TestMergeLive: of an exporter that two agents hear one counts; exporters of different agents all do.
func TestMergeLive(t *testing.T) {
	row := func(n uint64) []LiveRow {
		return []LiveRow{{Label: Label{Machine: "m1", Direction: In}, Sums: Sums{Bytes: n}}}
	}
	one, two := Live{Datagrams: 100, Lost: 1, Samples: 50, Seconds: 10, Rows: row(1000)}, Live{Datagrams: 60, Samples: 50, Seconds: 10, Rows: row(900)}
	other := Live{Datagrams: 5, Samples: 50, SamplesLost: 50, Seconds: 20, Rows: row(100)}
	other.SubAgent = 7
	f := func(shares map[string][]Live, want string) {
		t.Helper()
		if got := show(Top(MergeLive(shares), "machine", nil)); got != want {
			t.Errorf("%swant %s", got, want)
		}
	}
	f(map[string][]Live{"a": {one}, "b": {two}}, "/ m1 : in 90 B/s of 10 s, 1 heard, low false []\n")
	f(map[string][]Live{"b": {one}, "a": {one}}, "/ m1 : in 100 B/s of 10 s, 1 heard, low false []\n")
	f(map[string][]Live{"a": {one}, "b": {two, other}}, "/ m1 : in 95 B/s of 10 s, 0.667 heard, low false []\n")
	f(nil, "")
}
