package sflow

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

// heard is a sink that keeps what it was told.
type heard struct {
	arrivals []Arrival
	steps    []Step
	lost     int
	wake     chan struct{}
}

func (h *heard) Datagram(a *Arrival, r *Reader) {
	h.arrivals = append(h.arrivals, *a)
	h.lost += a.Lost
	for r.Next() {
		h.steps = append(h.steps, r.Step)
	}
	if h.wake != nil {
		h.wake <- struct{}{}
	}
}

func receiver(h *heard) *Receiver {
	return New(Config{
		Listen: "127.0.0.1:0", Sink: h, Log: slog.New(slog.DiscardHandler),
		Known: func(agent, from netip.Addr) bool { return agent == hostA && from == hostA },
	})
}

// TestSequences: what is missing is counted once, what comes late or twice is not.
func TestSequences(t *testing.T) {
	f := func(name string, want string, seqs ...uint32) {
		t.Helper()
		h := &heard{}
		r := receiver(h)
		now := time.Unix(1e9, 0)
		for i, s := range seqs {
			e := sflowtest.Exporter{Agent: hostA, Seq: s - 1, Uptime: 600_000 + uint32(i)*100}
			r.Take(e.Datagram(), hostA, now.Add(time.Duration(i)*100*time.Millisecond))
		}
		resets := 0
		for _, a := range h.arrivals[1:] {
			resets += int(a.Flags & Reset)
		}
		if got := fmt.Sprintf("%d taken, %d lost, %d twice, %d resets", len(h.arrivals), h.lost, r.Dropped(ReasonDuplicate), resets); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	f("in order", "3 taken, 0 lost, 0 twice, 0 resets", 5, 6, 7)
	f("a gap", "3 taken, 2 lost, 0 twice, 0 resets", 5, 6, 9)
	f("late", "4 taken, 0 lost, 0 twice, 0 resets", 5, 7, 6, 8)
	f("twice", "3 taken, 0 lost, 2 twice, 0 resets", 5, 6, 6, 7, 5)
	f("late and twice", "4 taken, 0 lost, 1 twice, 0 resets", 5, 7, 6, 6, 8)
	f("over the end", "4 taken, 0 lost, 0 twice, 0 resets", 0xfffffffe, 0xffffffff, 0, 1)
	f("too late to tell", "2 taken, 45 lost, 1 twice, 0 resets", 100, 146, 80)
	f("a jump", "3 taken, 0 lost, 0 twice, 1 resets", 5, 5000, 5001)
	f("a jump back", "3 taken, 0 lost, 0 twice, 1 resets", 90000, 5, 6)
}

// TestLossProperty: whatever is dropped, repeated and shuffled within the window, taken and lost make up what was sent.
func TestLossProperty(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		h := &heard{}
		r := receiver(h)
		var queue []uint32
		for s := uint32(1); s <= 500; s++ {
			if rnd.IntN(10) == 0 && s > 1 && s < 500 {
				continue
			}
			queue = append(queue, s)
			if rnd.IntN(10) == 0 {
				queue = append(queue, s)
			}
		}
		for i := 1; i+9 < len(queue)-1; i += 8 {
			rnd.Shuffle(8, func(a, b int) { queue[i+a], queue[i+b] = queue[i+b], queue[i+a] })
		}
		distinct := map[uint32]bool{}
		for _, s := range queue {
			distinct[s] = true
			e := sflowtest.Exporter{Agent: hostA, Seq: s - 1, Uptime: s * 10}
			r.Take(e.Datagram(), hostA, time.Unix(1e9, int64(s)*1e7))
		}
		if len(h.arrivals) != len(distinct) || len(h.arrivals)+h.lost != 500 {
			t.Fatalf("seed %d: %d taken of %d, %d lost", seed, len(h.arrivals), len(distinct), h.lost)
		}
	}
}

// TestEpochs: a restart begins anew, an uptime that wraps too, and buckets are the exporter's own minutes.
func TestEpochs(t *testing.T) {
	h := &heard{}
	r := receiver(h)
	start := time.Unix(1e9, 0)
	take := func(after time.Duration, seq, uptime uint32) Arrival {
		t.Helper()
		n := len(h.arrivals)
		e := sflowtest.Exporter{Agent: hostA, Seq: seq - 1, Uptime: uptime}
		r.Take(e.Datagram(), hostA, start.Add(after))
		if len(h.arrivals) != n+1 {
			t.Fatalf("datagram %d at %d ms was not taken", seq, uptime)
		}
		return h.arrivals[n]
	}
	boot := start.Add(-100 * time.Second)
	if a := take(0, 10, 100_000); a.Bucket != 1 || !a.Epoch.Equal(boot) || !a.Start.Equal(boot.Add(time.Minute)) {
		t.Errorf("%+v", a)
	}
	if a := take(30*time.Second, 11, 130_000); a.Bucket != 2 || !a.Epoch.Equal(boot) || a.Flags != 0 {
		t.Errorf("%+v", a)
	}
	if a := take(40*time.Second, 13, 140_000); a.Lost != 1 {
		t.Errorf("%+v", a)
	}
	if a := take(41*time.Second, 12, 139_000); a.Lost != -1 || a.Flags != 0 || a.Bucket != 2 {
		t.Errorf("late: %+v", a)
	}
	if a := take(60*time.Second, 12, 5_000); a.Flags&Reset == 0 || a.Bucket != 0 || a.Lost != 0 {
		t.Errorf("restart with an old sequence: %+v", a)
	}
	if a := take(70*time.Second, 13, 4294960000); a.Flags&Reset == 0 {
		t.Logf("%+v", a) // an uptime that leaps is the exporter's affair
	}
}

// TestClock: an exporter whose clock runs at half speed is cut by ours, and says so; one whose seconds are whole is not.
func TestClock(t *testing.T) {
	f := func(rate float64, local bool) {
		t.Helper()
		h := &heard{}
		r := receiver(h)
		start := time.Unix(1e9+17, 0)
		for i := range 1000 {
			e := sflowtest.Exporter{Agent: hostA, Seq: uint32(i), Uptime: uint32(float64(i)*rate) * 1000}
			r.Take(e.Datagram(), hostA, start.Add(time.Duration(i)*time.Second))
		}
		last := h.arrivals[len(h.arrivals)-1]
		if got := last.Flags&Clock != 0; got != local {
			t.Errorf("rate %v: local clock %v", rate, got)
		}
		if local && (last.Start.Second() != 0 || last.Bucket != uint32(last.Start.Unix()/60)) {
			t.Errorf("rate %v: %+v", rate, last)
		}
	}
	f(1, false)
	f(1.05, false)
	f(0.5, true)
	f(2, true)
}

// TestSources: pools and losses are counted by source, step by step.
func TestSources(t *testing.T) {
	h := &heard{}
	r := receiver(h)
	e := sflowtest.Exporter{Agent: hostA}
	take := func(flows ...sflowtest.Flow) {
		var s []sflowtest.Sample
		for _, f := range flows {
			s = append(s, f.Sample())
		}
		e.Uptime += 100
		r.Take(e.Datagram(s...), hostA, time.Unix(1e9, int64(e.Uptime)*1e6))
	}
	take(sflowtest.Flow{Seq: 1, Source: 3, Pool: 0xfffffff0}, sflowtest.Flow{Seq: 7, Source: 4, Pool: 100})
	take(sflowtest.Flow{Seq: 2, Source: 3, Pool: 0x10, Drops: 2}, sflowtest.Flow{Seq: 10, Source: 4, Pool: 500})
	take(sflowtest.Flow{Seq: 9, Source: 4, Pool: 450}, sflowtest.Flow{Seq: 3, Source: 3, Pool: 0x5})
	want := []Step{
		{Source: 0, Fresh: true},
		{Source: 1, Fresh: true},
		{Source: 0, Pool: 0x20, Drops: 2, Since: 100},
		{Source: 1, Pool: 400, Lost: 2, Since: 100},
		{Source: 1, Lost: -1},
		{Source: 0, Fresh: true}, // its pool fell
	}
	if fmt.Sprint(h.steps) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", h.steps, want)
	}
	for i := range MaxSources + 10 {
		take(sflowtest.Flow{Seq: 1, Source: uint32(1000 + i)})
	}
	if n := r.Dropped(ReasonSources); n != 12 {
		t.Errorf("%d samples of too many sources", n)
	}
}

// TestRefusedAtTheDoor: what is no switch's, malformed or of too many streams is counted, and logged once an hour.
func TestRefusedAtTheDoor(t *testing.T) {
	h := &heard{}
	var log strings.Builder
	r := New(Config{
		Sink: h, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Known: func(agent, from netip.Addr) bool { return from == hostA && agent == hostA },
	})
	e := sflowtest.Exporter{Agent: hostA}
	now := time.Unix(1e9, 0)
	r.Take(e.Datagram(), hostB, now)
	spoofed := sflowtest.Exporter{Agent: hostB}
	r.Take(spoofed.Datagram(), hostA, now)
	r.Take(spoofed.Datagram(), hostA, now.Add(time.Minute))
	r.Take([]byte("no sFlow"), hostA, now)
	for i := range MaxStreams + 5 {
		e.SubAgent = uint32(i)
		r.Take(e.Datagram(), hostA, now)
	}
	got := ""
	for _, why := range Reasons() {
		got += fmt.Sprintf("%s %d, ", why, r.Dropped(why))
	}
	got += fmt.Sprintf("%d taken, %d unknown, %d lines", len(h.arrivals), r.Unknown(), strings.Count(log.String(), "\n"))
	if want := "malformed 1, source 3, duplicate 0, streams 5, sources 0, panic 0, 256 taken, 0 unknown, 2 lines"; got != want {
		t.Errorf("%s, want %s\n%s", got, want, log.String())
	}
}

// TestSocket hears real datagrams, and ends with its context.
func TestSocket(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", ":0"} {
		t.Run(listen, func(t *testing.T) { socket(t, listen) })
	}
}

func socket(t *testing.T, listen string) {
	lo := netip.MustParseAddr("127.0.0.1")
	h := &heard{wake: make(chan struct{})}
	r := receiver(h)
	r.cfg.Listen = listen
	r.cfg.Known = func(agent, from netip.Addr) bool { return from == lo }
	at, err := r.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: lo.AsSlice(), Port: at.Port})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	e := sflowtest.Exporter{Agent: hostA}
	for range 100 {
		if _, err := c.Write(e.Datagram(sflowtest.Flow{Source: 3, Rate: 10}.Sample())); err != nil {
			t.Fatal(err)
		}
		<-h.wake
	}
	cancel()
	if err := <-done; err != nil || len(h.arrivals) != 100 || r.SocketDrops() != 0 {
		t.Errorf("%v, %d datagrams", err, len(h.arrivals))
	}
	if at, err = r.Listen(); err != nil {
		t.Fatal(err)
	}
	defer r.conn.Close()
	r.cfg.Listen = at.String()
	if _, err := r.Listen(); err == nil || !strings.Contains(err.Error(), "cannot listen for sFlow") {
		t.Errorf("%v", err)
	}
}
