package rrd

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/test/e2e/lab"
)

// reading is one sample, and how rrdtool is told it.
type reading struct {
	us   int64
	s    Sample
	text string
}

// randomReadings makes readings at all distances around the heartbeat, some unknown, some of a counter that wraps or was reset.
func randomReadings(r *rand.Rand, typ Type, start time.Time, n int) (out []reading) {
	us, c := start.UnixMicro(), r.Uint64N(1<<33)
	for range n {
		gap := [...]int64{10, 10, 10, 10, 3, 7, 17, 20, 25, 26, 60, 1, 400}[r.IntN(13)] * micro
		us += gap
		x := reading{us: us}
		switch typ {
		case Gauge:
			x.s.Value = math.Round(r.NormFloat64()*1e6) / 1e3
			x.text = strconv.FormatFloat(x.s.Value, 'f', -1, 64)
		case Counter:
			switch c += r.Uint64N(1 << 20); r.IntN(40) {
			case 0:
				c = r.Uint64N(1000) // reset
			case 1:
				c = math.MaxUint32 - r.Uint64N(1<<19)
			}
			x.s.N, x.text = c, strconv.FormatUint(c, 10)
		case Derive:
			v := int64(r.Uint64N(1<<22)) + 1 // it is lost between readings of different signs
			if r.IntN(20) == 0 {
				v <<= 30
			}
			x.s.N, x.text = uint64(v), strconv.FormatInt(v, 10)
		case Absolute:
			x.s.N = r.Uint64N(1 << 24)
			x.text = strconv.FormatUint(x.s.N, 10)
		}
		if r.IntN(9) == 0 {
			x.s, x.text = Sample{Unknown: true}, "U"
		}
		out = append(out, x)
	}
	return out
}

// TestPeer gives the same samples to rrdtool and to a Store; all rows of all archives must be equal at 11 digits. A counter that wraps at
// 2^32 may differ by one count in its step: rrdtool adds 2^32-1. Rates stay far from Max, or far above: where several steps end at once
// rrdtool compares with it what was counted in all of them, divided by the seconds of the first.
func TestPeer(t *testing.T) {
	lab.Need(t, lab.Tool("rrdtool", "rrdtool"))
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SKERRY_RRD_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("SKERRY_RRD_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range 3 {
		for _, typ := range []Type{Gauge, Counter, Derive, Absolute} {
			peerRound(t, r, typ, round)
		}
	}
}

func peerRound(t *testing.T, r *rand.Rand, typ Type, round int) {
	t.Helper()
	xff := []float64{0.5, 0, 0.3}[round]
	all := []CF{Min, Max, Last}
	p := Profile{Name: "fast", Step: 10, Archives: []Archive{
		{Steps: 1, Rows: 700, XFF: xff}, {Steps: 6, Rows: 300, XFF: xff, CFs: all}, {Steps: 90, Rows: 90, XFF: xff, CFs: all},
	}}
	low, high := -200.0, 3e7
	d := Def{Name: "x", Type: typ, Heartbeat: []float64{25, 11, 20}[round], Min: &low, Max: &high, Profile: "fast"}
	least := "-200"
	if typ != Gauge {
		d.Min, least = nil, "U"
	}
	start := at(r.Int64N(10_000))
	readings := randomReadings(r, typ, start, 800)

	file := filepath.Join(t.TempDir(), "x.rrd")
	args := []string{"create", file, "--start", fmt.Sprint(start.Unix()), "--step", "10", fmt.Sprintf("DS:x:%s:%v:%s:%v", typ, d.Heartbeat, least, int(high))}
	for _, a := range p.Archives {
		for _, cf := range append([]CF{Average}, all...) {
			args = append(args, fmt.Sprintf("RRA:%s:%v:%d:%d", cf, a.XFF, a.Steps, a.Rows))
		}
	}
	commands := []string{strings.Join(args, " ")}
	s := openStore(t, newMemory(), p)
	id := add(t, s, d, start)
	tick := start.Unix()/10*10 + 10
	for _, x := range readings {
		commands = append(commands, fmt.Sprintf("update %s %d:%s", file, x.us/micro, x.text))
		for ; tick <= x.us/micro; tick += 10 {
			if err := s.Tick(time.Unix(tick, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Update(id, time.UnixMicro(x.us), x.s); err != nil {
			t.Fatal(err)
		}
	}
	last := readings[len(readings)-1].us / micro / 10 // its last tick is known to both
	if err := s.Tick(time.Unix(10*last+10, 0)); err != nil {
		t.Fatal(err)
	}
	var checks []func(map[int64]float64)
	for _, a := range p.Archives {
		res := int64(10 * a.Steps)
		to := last * 10 / res * res
		from := to - int64(a.Rows-1)*res
		for _, cf := range append([]CF{Average}, all...) {
			commands = append(commands, fmt.Sprintf("fetch %s %s -r %d -s %d -e %d", file, cf, res, from, to))
			checks = append(checks, func(want map[int64]float64) {
				got := query(t, s, "x", time.Unix(from, 0), time.Unix(to, 0), cf, a.Rows-1)
				if got.Step != time.Duration(res)*time.Second {
					t.Fatalf("step %v, want %d s", got.Step, res)
				}
				for i, v := range got.Series[0].Values {
					when := from + int64(i+1)*res
					if w, ok := want[when]; !ok || !alike(typ, v, w) {
						for _, x := range readings {
							if s := x.us / micro; s > when-9*res && s < when+4*res {
								t.Logf("%d:%s", s, x.text)
							}
						}
						t.Fatalf("%s %s of %d s, row %d (%d of %d): %v, rrdtool has %v (%v)", typ, cf, res, when, i, len(want), v, w, ok)
					}
				}
			})
		}
	}
	for i, rows := range fetches(t, commands) {
		checks[i](rows)
	}
}

func alike(typ Type, a, b float64) bool {
	if math.IsNaN(a) || math.IsNaN(b) {
		return math.IsNaN(a) && math.IsNaN(b)
	}
	off := math.Abs(a - b)
	return off <= 1e-10*max(math.Abs(a), math.Abs(b)) || off < 1e-9 || typ == Counter && off <= 1
}

// fetches runs commands in one rrdtool, an update at a time (several updates of one command are written a row off where one of them ends
// several steps), and returns what each fetch of them says.
func fetches(t *testing.T, commands []string) (out []map[int64]float64) {
	t.Helper()
	c := exec.Command("rrdtool", "-")
	c.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	c.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	b, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("rrdtool: %v: %s", err, b)
	}
	rows := map[int64]float64{}
	for l := range strings.Lines(string(b)) {
		when, v, ok := strings.Cut(strings.TrimSpace(l), ": ")
		switch {
		case strings.HasPrefix(l, "ERROR"):
			t.Fatalf("rrdtool: %s", l)
		case strings.HasPrefix(l, "OK") && len(rows) > 0:
			out, rows = append(out, rows), map[int64]float64{}
		case ok && !strings.HasPrefix(l, "OK"):
			n, err := strconv.ParseInt(when, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if rows[n], err = strconv.ParseFloat(v, 64); err != nil {
				rows[n] = math.NaN() // -nan
			}
		}
	}
	return out
}
