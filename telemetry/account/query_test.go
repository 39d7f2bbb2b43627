package account

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

// TestNewQuery: what the ledger cannot answer is refused with what to do, and the tier is the finest that reaches back.
func TestNewQuery(t *testing.T) {
	f := func(from, to, step time.Duration, by []Field, want string) {
		t.Helper()
		q, err := NewQuery(t0.Add(-from), t0.Add(-to), step, by, nil, t0)
		got := fmt.Sprint("tier ", q.Tier)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%v to %v: %s, want %s", from, to, got, want)
		}
	}
	day := 24 * time.Hour
	f(day, 0, 0, allFields(), "tier 0")
	f(day, 0, time.Minute, nil, "tier 0")
	f(30*day, 0, 0, nil, "tier 1")
	f(30*day, 0, time.Minute, nil, "cannot answer: minutes are kept for 72 hours; use step 3600 or a later from")
	f(500*day, 0, 0, nil, "cannot answer: the ledger keeps 400 days; ask for a later from")
	f(0, 0, 0, nil, "cannot answer: from is not before to")
	f(day, 0, time.Second, nil, "cannot answer: step is 60, 3600 or total")
	f(day, 0, 0, []Field{"port"}, `cannot answer: by "port": use project, network, subnet, machine, switch, direction and scope, each once`)
	f(day, 0, 0, []Field{ByScope, ByScope}, `cannot answer: by "scope": use project, network, subnet, machine, switch, direction and scope, each once`)
	f(day, -4000*day, time.Minute, nil, "cannot answer: too much for one answer: narrow from and to, or use a longer step")
}

// TestCoverage: an agent that was away, samples that were lost and time before the first datagram.
func TestCoverage(t *testing.T) {
	f := func(name string, want float64, flags string, skip func(minute, second int) bool, lose int) {
		t.Helper()
		a := newAgent(t, plan(Ingress), nil)
		e := sflowtest.Exporter{Agent: swA}
		seq := uint32(0)
		for s := range 3600 {
			e.Uptime = uint32(s) * 1000
			fl := flow(m1, away, 1, 1, 9)
			seq++
			fl.Seq, fl.Pool, fl.Rate = seq, seq*10, 10
			b := e.Datagram(fl.Sample())
			now := t0.Add(time.Duration(s) * time.Second)
			if (skip != nil && skip(s/60, s%60)) || (lose > 0 && s%lose == 1) {
				continue
			}
			a.Take(b, swA, now)
			a.e.Tick(now, false)
		}
		a.end(t, t0.Add(time.Hour))
		q, _ := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, nil, nil, t0)
		fs := ask(t, q, t0.Add(2*time.Hour), a)
		if len(fs) != 1 || math.Abs(fs[0].Coverage-want) > 0.005 || fmt.Sprint(fs[0].Flags.Names()) != flags {
			t.Errorf("%s: %+v %v", name, fs, fs[0].Flags.Names())
		}
		if lose > 0 && math.Abs(float64(fs[0].Packets)-36_000) > 100 {
			t.Errorf("%s: %d packets of 36,000", name, fs[0].Packets)
		}
	}
	f("all of it", 1, "[]", nil, 0)
	f("15 minutes away", 0.75, "[]", func(m, _ int) bool { return m >= 20 && m < 35 }, 0)
	f("45 s of a minute away", 1-45.0/3600, "[loss]", func(m, s int) bool { return m == 20 && s >= 10 && s < 55 }, 0)
	f("a minute's end and the next one's beginning", 1-60.0/3600, "[loss]", func(m, s int) bool { return m == 20 && s >= 30 || m == 21 && s < 30 }, 0)
	f("every fourth lost", 0.75, "[loss]", nil, 4)
}

// TestSteps: figures by hour and minute begin and end where they say.
func TestSteps(t *testing.T) {
	a := newAgent(t, plan(Ingress), nil)
	e := sflowtest.Exporter{Agent: swA}
	for s := range 7200 {
		e.Uptime = uint32(s) * 1000
		fl := flow(m1, away, 1, 1, 9)
		fl.Seq, fl.Pool, fl.Rate = uint32(s), uint32(s), 1
		now := t0.Add(time.Duration(s) * time.Second)
		a.Take(e.Datagram(fl.Sample()), swA, now)
		a.e.Tick(now, false)
	}
	now := t0.Add(3 * time.Hour)
	a.end(t, now)
	show := func(step time.Duration, from, to time.Duration) (out string) {
		q, err := NewQuery(t0.Add(from), t0.Add(to), step, nil, nil, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range ask(t, q, now, a) {
			out += fmt.Sprintf("%s-%s %d %.2f; ", f.Start.Format("15:04:05"), f.End.Format("15:04:05"), f.Packets, f.Coverage)
		}
		return out
	}
	// The stream's minutes begin at 30 s of the wall's.
	if got := show(time.Hour, 0, 3*time.Hour); got != "10:00:30-11:00:00 3600 1.00; 11:00:00-12:00:00 3600 1.00; " {
		t.Errorf("by hour: %s", got)
	}
	if got := show(time.Minute, time.Hour, time.Hour+2*time.Minute); got != "11:00:30-11:01:00 60 1.00; 11:01:00-11:02:00 60 1.00; " {
		t.Errorf("by minute: %s", got)
	}
	if got := show(0, 30*time.Minute, 31*time.Minute); got != "10:30:30-10:31:30 60 1.00; " {
		t.Errorf("in all: %s", got)
	}
}

// TestOthersProjects: a query for some projects adds nothing of the rest.
func TestOthersProjects(t *testing.T) {
	a := newAgent(t, plan(Ingress), nil)
	e := sflowtest.Exporter{Agent: swA, Uptime: 60_000}
	a.Take(e.Datagram(flow(m1, m3, 1, 1, 3).Sample()), swA, t0)
	a.end(t, t0)
	for projects, want := range map[string]int{"acme": 1, "evil": 1, "other": 0, "": 0} {
		q, _ := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, allFields(), []string{projects}, t0)
		fs := ask(t, q, t0, a)
		if len(fs) != want || (want == 1 && fs[0].Project != projects) {
			t.Errorf("%q: %+v", projects, fs)
		}
	}
}

// TestTooMuch: an agent with more intervals than one answer holds says what to narrow.
func TestTooMuch(t *testing.T) {
	m := &memory{m: map[string][]byte{}}
	l, _ := OpenLedger(m)
	v := interval(0, t0, 1).parts()[0]
	for i := range maxHeaders + 1 {
		m.m[string(id(Minutes, Minutes.slot(t0), uint16(i), uint8(i>>16)).key())] = v
	}
	q, _ := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, nil, nil, t0)
	if _, err := l.Headers(q); !errors.Is(err, ErrTooMuch) {
		t.Errorf("%v", err)
	}
}
