package account

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
)

// TestPoints: what a host counted itself takes the place of its access port's samples in that direction and time, whoever heard them; other
// machines, directions and times stay. Of hours, only those count that a host counted at least half of.
func TestPoints(t *testing.T) {
	boot := time.Date(2026, 11, 20, 10, 0, 20, 0, time.UTC)
	now := boot.Add(4 * time.Hour)
	f := func(name string, tier Tier, from, minutes int, want string) {
		t.Helper()
		heard, host := &memory{m: map[string][]byte{}}, &memory{m: map[string][]byte{}}
		l, err := OpenLedger(heard)
		if err != nil {
			t.Fatal(err)
		}
		var vs []*Interval
		for i := range 3 * 60 { // three hours of a switch: m1 out and in, m2 out, 100 octets a minute each
			v := interval(0, boot.Add(time.Duration(i)*time.Minute), uint32(i), row("m1", 100), row("m2", 100))
			in := row("m1", 100)
			in.Direction = In
			v.Rows = addRows(v.Rows, []Row{in})
			vs = append(vs, v)
		}
		if _, err := l.Write(vs); err != nil {
			t.Fatal(err)
		}
		own, err := OpenLedger(host)
		if err != nil {
			t.Fatal(err)
		}
		e := NewEngine(own, nil)
		for i := range minutes { // what the host of m1 sent, one octet a minute
			start := boot.Truncate(time.Minute).Add(time.Duration(from+i) * time.Minute)
			e.Counted(Count{Point: Point{Agent: "b", Machine: "m1", Out: true}, Start: start, Rows: []Row{{Label{"acme", "web", "", "m1", Out, Outside}, Sums{Samples: 1, Bytes: 1, Packets: 1}}}})
		}
		if err := e.Flush(); err != nil {
			t.Fatal(err)
		}
		q, err := NewQuery(boot.Add(-time.Hour), now, 0, []Field{ByMachine, ByDirection}, nil, now)
		if err != nil {
			t.Fatal(err)
		}
		q.Tier = tier
		var got []string
		for _, fig := range ask(t, q, now, &agent{l: l}, &agent{l: own}) {
			got = append(got, fmt.Sprintf("%s %s %d %s", fig.Machine, fig.Direction, fig.Bytes, fig.Flags.Source()))
		}
		if g := strings.Join(got, ", "); g != want {
			t.Errorf("%s: %s, want %s", name, g, want)
		}
	}
	// Minutes of the switch begin 20 s into those of the host: the two at the edges overlap, and count by the host alone.
	f("an hour of minutes", Minutes, 60, 60, "m1 in 18000 sflow, m1 out 11960 probe+sflow, m2 out 18000 sflow")
	f("all the time", Minutes, -1, 182, "m1 in 18000 sflow, m1 out 182 probe, m2 out 18000 sflow")
	f("no time", Minutes, 0, 0, "m1 in 18000 sflow, m1 out 18000 sflow, m2 out 18000 sflow")
	f("an hour by hours", Hours, 60, 60, "m1 in 18000 sflow, m1 out 6060 probe+sflow, m2 out 18000 sflow")
	f("ten minutes by hours", Hours, 70, 10, "m1 in 18000 sflow, m1 out 18000 sflow, m2 out 18000 sflow")
}

// TestCountedTogether: what is to be kept with a count is on disk with it, or neither is; a stretch of several minutes covers all of them.
func TestCountedTogether(t *testing.T) {
	m := &memory{m: map[string][]byte{}, fail: errors.New("the disk is full")}
	l, err := OpenLedger(m)
	if err != nil {
		t.Fatal(err)
	}
	e := NewEngine(l, nil)
	start := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	p := Point{Agent: "a", Machine: "m1", In: true, Out: true}
	e.Counted(Count{Point: p, Start: start, Minutes: 10, Rows: []Row{{Label{"acme", "", "", "m1", In, Outside}, Sums{Samples: 5, Bytes: 500, Packets: 5}}}, Also: []state.Pair{{Key: []byte("e"), Value: []byte("read")}}})
	if e.Flush() == nil || len(m.m) != 0 {
		t.Fatalf("%v", m.m)
	}
	m.fail = nil
	if err := e.Flush(); err != nil || string(m.m["e"]) != "read" {
		t.Fatalf("%v %v", err, m.m)
	}
	now := start.Add(time.Hour)
	q, err := NewQuery(start, start.Add(10*time.Minute), 0, nil, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	fs := ask(t, q, now, &agent{l: l})
	if len(fs) != 1 || fs[0].Bytes != 500 || fs[0].Bytes95 != 0 || fs[0].Low || fs[0].Coverage != 1 {
		t.Errorf("%+v", fs)
	}
	hs, err := l.Headers(q)
	if err != nil {
		t.Fatal(err)
	}
	shares := []Share{{"a", l.Infos(), hs}}
	want := []Except{{Machine: "m1", Direction: In, From: start, To: start.Add(10 * time.Minute)}, {Machine: "m1", Direction: Out, From: start, To: start.Add(10 * time.Minute)}}
	if got := Points(q, shares, Merge(shares)); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
