package rrd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/storage/state"
)

// memory is a Raw without a disk.
type memory struct {
	mu   sync.Mutex
	m    map[string][]byte
	err  error // of writes
	sync int   // transactions
}

func newMemory() *memory { return &memory{m: map[string][]byte{}} }

func (m *memory) Get(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.m[string(key)]; ok {
		return slices.Clone(v), nil
	}
	return nil, state.ErrAbsent
}

func (m *memory) Write(batch []state.Pair) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	m.sync++
	for _, p := range batch {
		if p.Value == nil {
			delete(m.m, string(p.Key))
		} else {
			m.m[string(p.Key)] = slices.Clone(p.Value)
		}
	}
	return nil
}

func (m *memory) Scan(prefix, from []byte, fn func(k, v []byte) error) error {
	m.mu.Lock()
	keys := slices.Sorted(maps.Keys(m.m))
	m.mu.Unlock()
	for _, k := range keys {
		if !strings.HasPrefix(k, string(prefix)) || k < string(from) {
			continue
		}
		v, err := m.Get([]byte(k))
		if err != nil {
			continue
		}
		if err := fn([]byte(k), v); errors.Is(err, state.ErrStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

func openStore(t testing.TB, raw Raw, profiles ...Profile) *Store {
	t.Helper()
	s, err := Open(Config{Raw: raw, Profiles: profiles, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func realRaw(t testing.TB, dir string) *state.Raw {
	t.Helper()
	r, err := state.OpenRaw(state.Config{
		Dir: filepath.Join(dir, "telemetry"), Logger: slog.New(slog.DiscardHandler),
		Statfs: func(string) (uint64, uint64, error) { return 100 << 30, 200 << 30, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func add(t testing.TB, s *Store, d Def, now time.Time) ID {
	t.Helper()
	id, err := s.Series(d, now)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func gauge(name, machine string) Def {
	return Def{Name: name, Labels: map[string]string{"machine": machine}, Type: Gauge, Profile: "fast"}
}

func query(t testing.TB, s *Store, match string, from, to time.Time, cf CF, points int) Rows {
	t.Helper()
	m, err := ParseMatch(match)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Query(Query{Match: m, From: from, To: to, CF: cf, MaxPoints: points})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// text shows values for comparison: NaN is U.
func text(vv []float64) string {
	var b strings.Builder
	for _, v := range vv {
		if math.IsNaN(v) {
			b.WriteString(" U")
		} else {
			fmt.Fprintf(&b, " %.11g", v)
		}
	}
	return strings.TrimSpace(b.String())
}

// drive feeds one gauge per second-th step and ticks as Run does, from..to; value of each sample is fn of its time.
func drive(t testing.TB, s *Store, ids []ID, from, to time.Time, every time.Duration, fn func(i int, at time.Time) float64) {
	t.Helper()
	const step = 10 * time.Second
	tick := from.Truncate(step).Add(step)
	for at := from.Add(every); !at.After(to); at = at.Add(every) {
		for ; !tick.After(at); tick = tick.Add(step) {
			if err := s.Tick(tick); err != nil {
				t.Fatal(err)
			}
		}
		for i, id := range ids {
			if err := s.Update(id, at, Sample{Value: fn(i, at)}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func at(sec int64) time.Time { return time.Unix(1_700_000_000/3600*3600+sec, 0) }

// TestReopen: what was acknowledged reads the same after the store was opened again, in every archive, wherever the end fell.
func TestReopen(t *testing.T) {
	for _, n := range []int64{40, 650, 1250, 5000, 8005} {
		raw := realRaw(t, t.TempDir())
		s := openStore(t, raw)
		ids := []ID{add(t, s, gauge("a", "m1"), at(0)), add(t, s, gauge("a", "m2"), at(0))}
		value := func(i int, at time.Time) float64 { return float64(at.Unix()%1000) + float64(i)/3 }
		drive(t, s, ids, at(0), at(n), 10*time.Second, value)
		end := at(n).Truncate(10 * time.Second).Add(-10 * time.Second) // the last tick
		for _, points := range []int{500, 50, 5} {
			want := query(t, s, "a", at(0), end, Average, points)
			again := openStore(t, raw)
			got := query(t, again, "a", at(0), end, Average, points)
			for i := range want.Series {
				if g, w := text(got.Series[i].Values), text(want.Series[i].Values); g != w {
					t.Fatalf("n %d, step %v:\n%s\nwant\n%s", n, want.Step, g, w)
				}
			}
			if points == 500 && n <= 5000 && strings.Contains(text(want.Series[0].Values), "U") {
				t.Fatalf("n %d: unknown rows: %s", n, text(want.Series[0].Values))
			}
		}
		raw.Close()
	}
}

// TestOneTransaction: a tick is one transaction, and so is one that carries a part of a close.
func TestOneTransaction(t *testing.T) {
	m := newMemory()
	s := openStore(t, m)
	var ids []ID
	for i := range 1000 {
		ids = append(ids, add(t, s, gauge("a", fmt.Sprint("m", i)), at(0)))
	}
	for k := range int64(300) {
		now := at(10 * (k + 1))
		before := m.sync
		if err := s.Tick(now); err != nil {
			t.Fatal(err)
		}
		if k > 1 && m.sync != before+1 {
			t.Fatalf("tick %d took %d transactions", k, m.sync-before)
		}
		for _, id := range ids {
			if err := s.Update(id, now, Sample{Value: float64(k)}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFull: a full disk refuses ticks and costs no row that a later tick can still carry; reads go on, and so does time.
func TestFull(t *testing.T) {
	m := newMemory()
	s := openStore(t, m)
	ids := []ID{add(t, s, gauge("a", "m1"), at(0))}
	one := func(int, time.Time) float64 { return 1 }
	drive(t, s, ids, at(0), at(100), 10*time.Second, one)
	m.err = state.ErrFull
	for k := int64(11); k < 200; k++ {
		if err := s.Tick(at(10 * k)); k > 11 && !errors.Is(err, state.ErrFull) {
			t.Fatalf("tick on a full disk: %v", err)
		}
		err := s.Update(ids[0], at(10*k), Sample{Value: 1})
		if err != nil && !errors.Is(err, ErrAhead) {
			t.Fatal(err)
		}
		if got := query(t, s, "a", at(0), at(90), Average, 500); strings.Contains(text(got.Series[0].Values), "U") {
			t.Fatalf("reads on a full disk: %s", text(got.Series[0].Values))
		}
	}
	if c := s.Counts(); c.Dropped["full"] < 180 {
		t.Fatalf("dropped %v", c.Dropped)
	}
	m.err = nil
	drive(t, s, ids, at(2000), at(2200), 10*time.Second, one)
	got := text(query(t, s, "a", at(2050), at(2180), Average, 500).Series[0].Values)
	if strings.Contains(got, "U") {
		t.Fatalf("after the disk had room: %s", got)
	}
}

// TestClocks: back is refused, forward is a gap.
func TestClocks(t *testing.T) {
	s := openStore(t, newMemory())
	ids := []ID{add(t, s, gauge("a", "m1"), at(0))}
	one := func(int, time.Time) float64 { return 1 }
	drive(t, s, ids, at(0), at(3000), 10*time.Second, one)
	if err := s.Tick(at(1000)); !errors.Is(err, ErrClock) {
		t.Fatalf("tick of the past: %v", err)
	}
	if err := s.Update(ids[0], at(1000), Sample{Value: 9}); !errors.Is(err, ErrOld) {
		t.Fatalf("sample of the past: %v", err)
	}
	const day = 86400
	if err := s.Update(ids[0], at(100*day), Sample{Value: 9}); !errors.Is(err, ErrAhead) {
		t.Fatalf("sample of the future: %v", err)
	}
	if err := s.Tick(at(100 * day)); err != nil {
		t.Fatal(err)
	}
	drive(t, s, ids, at(100*day), at(100*day+7200), 10*time.Second, one)
	got := text(query(t, s, "a", at(100*day+600), at(100*day+7000), Average, 5000).Series[0].Values)
	if strings.Contains(got, "U") {
		t.Fatalf("after the gap: %s", got)
	}
	// The hour archive reaches over the gap: an hour on each side is known, for more than half at least.
	got = text(query(t, s, "a", at(0), at(100*day+7200), Average, 5000).Series[0].Values)
	if n := strings.Count(got, "1"); n != 2 {
		t.Fatalf("the gap has %d known rows", n)
	}
}

// TestGuestAndBMC: what a machine's guest makes up takes no room of what its BMC says.
func TestGuestAndBMC(t *testing.T) {
	s, err := Open(Config{Raw: newMemory(), Log: slog.New(slog.DiscardHandler), MaxDevice: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, label string
		want        error
	}{
		{"skerry_snmp_port_up", "a", nil},
		{"skerry_snmp_port_up", "b", nil},
		{"skerry_snmp_load_average", "c", ErrLimit},
		{"skerry_bmc_power_watts", "d", nil},
		{"skerry_bmc_temperature_celsius", "e", nil},
		{"skerry_bmc_voltage_volts", "f", ErrLimit},
	} {
		d := Def{Name: c.name, Labels: map[string]string{"machine": "m1", "of": c.label}, Type: Gauge, Profile: "fast"}
		if _, err := s.Series(d, at(0)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", d.Key(), err, c.want)
		}
	}
}

// TestLimits: series above a limit are refused and nobody gives way; a removed one makes room, and its place and keys are used again.
func TestLimits(t *testing.T) {
	m := newMemory()
	s, err := Open(Config{Raw: m, Log: slog.New(slog.DiscardHandler), MaxSeries: 4, MaxDevice: 2, MaxProject: 1})
	if err != nil {
		t.Fatal(err)
	}
	f := func(d Def, want error) ID {
		t.Helper()
		d.Type, d.Profile = Gauge, "fast"
		id, err := s.Series(d, at(0))
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Fatalf("%s: %v, want %v", d.Key(), err, want)
		}
		return id
	}
	l := func(kv ...string) map[string]string {
		out := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = kv[i+1]
		}
		return out
	}
	a := f(Def{Name: "a", Labels: l("machine", "m1")}, nil)
	f(Def{Name: "a", Labels: l("machine", "m1")}, nil)
	f(Def{Name: "b", Labels: l("machine", "m1")}, nil)
	f(Def{Name: "c", Labels: l("machine", "m1")}, ErrLimit)
	f(Def{Name: "a", Labels: l("project", "p")}, nil)
	f(Def{Name: "b", Labels: l("project", "p")}, ErrLimit)
	f(Def{Name: "a", Labels: l("machine", "m2")}, nil)
	f(Def{Name: "a", Labels: l("machine", "m3")}, ErrLimit)
	f(Def{Name: "a", Labels: l("machine", strings.Repeat("x", 129))}, ErrDefinition)
	f(Def{Name: "a b"}, ErrDefinition)
	if _, err := s.Series(Def{Name: "n", Type: Counter, Profile: "fast"}, at(0)); !errors.Is(err, ErrDefinition) {
		t.Fatalf("a counter without a maximum: %v", err)
	}
	drive(t, s, []ID{a}, at(0), at(9000), 10*time.Second, func(int, time.Time) float64 { return 7 })
	blocks := func() (n int) {
		_ = m.Scan([]byte{tableBlock}, nil, func(_, _ []byte) error { n++; return nil })
		return n
	}
	if blocks() == 0 {
		t.Fatal("no blocks yet")
	}
	if n, err := s.Remove(func(d Def) bool { return d.Labels["machine"] == "m1" }); err != nil || n != 2 {
		t.Fatalf("removed %d, %v", n, err)
	}
	if got := s.List(Match{}); len(got) != 2 {
		t.Fatalf("%d series are seen", len(got))
	}
	if err := s.Update(a, at(9100), Sample{Value: 1}); !errors.Is(err, ErrUnknownSeries) {
		t.Fatalf("sample of a removed series: %v", err)
	}
	s = openStore(t, m) // removal outlives the process
	if got := s.List(Match{}); len(got) != 2 || blocks() == 0 {
		t.Fatalf("%d series are seen after a restart", len(got))
	}
	if err := s.Scrub(context.Background()); err != nil {
		t.Fatal(err)
	}
	if blocks() != 0 {
		t.Fatalf("%d blocks are left", blocks())
	}
	if c := s.Counts().Scrub; c.Damaged+c.Orphans != 0 || c.Keys == 0 {
		t.Fatalf("scrub: %+v", c)
	}
	n := add(t, s, gauge("n", "m9"), at(9000))
	if n != a {
		t.Fatalf("the place was not used again: %d", n)
	}
	if got := text(query(t, s, "n", at(0), at(9000), Average, 500).Series[0].Values); strings.Trim(got, "U ") != "" {
		t.Fatalf("a new series has another's history: %s", got)
	}
	s = openStore(t, m)
	add(t, s, gauge("n", "m9"), at(9000))
	if got := text(query(t, s, "n", at(0), at(9000), Average, 500).Series[0].Values); strings.Trim(got, "U ") != "" {
		t.Fatalf("a new series has another's history: %s", got)
	}
}

// TestDamage: flipped values are unknown rows, counted; the rest reads, and nothing is deleted.
func TestDamage(t *testing.T) {
	m := newMemory()
	s := openStore(t, m)
	ids := []ID{add(t, s, gauge("a", "m1"), at(0)), add(t, s, gauge("a", "m2"), at(0))}
	drive(t, s, ids, at(0), at(9000), 10*time.Second, func(int, time.Time) float64 { return 5 })
	for k, v := range m.m {
		if k[0] == tableBlock && k[5] == 0 { // of the first series
			v[len(v)/2] ^= 1
		}
	}
	n := len(m.m)
	got := query(t, s, "a", at(0), at(8900), Average, 5000)
	if a, b := text(got.Series[0].Values), text(got.Series[1].Values); !strings.HasPrefix(a, "U U U") || strings.Contains(b, "U") {
		t.Fatalf("damaged:\n%s\nwhole:\n%s", a, b)
	}
	if err := s.Scrub(context.Background()); err != nil {
		t.Fatal(err)
	}
	if c := s.Counts(); c.Scrub.Damaged == 0 || c.Damaged == 0 || len(m.m) != n {
		t.Fatalf("%+v, %d keys of %d", c, len(m.m), n)
	}
	for k, v := range m.m { // anything may be damaged: the store opens
		if k[0] != tableMark || k[1] != 'v' {
			v[len(v)-1] ^= 1
		}
	}
	s = openStore(t, m)
	if c := s.Counts(); c.Damaged == 0 || c.Series != 0 {
		t.Fatalf("%+v", c)
	}
	add(t, s, gauge("a", "m1"), at(9000))
	m.m[string(keySchema())] = sealTick(schema + 1)
	if _, err := Open(Config{Raw: m, Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrSchema) {
		t.Fatalf("a newer schema: %v", err)
	}
}

// TestTurns: rings that turn five times do not grow in keys.
func TestTurns(t *testing.T) {
	m := newMemory()
	p := Profile{Name: "fast", Step: 10, Archives: []Archive{{Steps: 1, Rows: 120, XFF: 0.5}, {Steps: 6, Rows: 90, XFF: 0.5, CFs: []CF{Max}}}}
	s := openStore(t, m, p)
	ids := []ID{add(t, s, gauge("a", "m1"), at(0)), add(t, s, gauge("a", "m2"), at(0))}
	turn := int64(6 * 90 * 10) // seconds
	var keys []int
	for n := range int64(6) {
		drive(t, s, ids, at(n*turn), at((n+1)*turn), 10*time.Second, func(_ int, at time.Time) float64 { return float64(at.Unix()) })
		keys = append(keys, len(m.m))
	}
	if slices.Max(keys[1:]) != slices.Min(keys[1:]) {
		t.Fatalf("keys: %v", keys)
	}
}

func TestGauges(t *testing.T) {
	s := openStore(t, newMemory())
	ids := []ID{add(t, s, gauge("a", "m1"), at(0))}
	drive(t, s, ids, at(0), at(100), 10*time.Second, func(int, time.Time) float64 { return 5 })
	set := metrics.NewSet()
	s.Gauges(set)
	var b strings.Builder
	set.WritePrometheus(&b)
	for _, want := range []string{"skerry_rrd_series 1\n", fmt.Sprintf("skerry_rrd_last_tick_timestamp_seconds %d\n", at(90).Unix()), `skerry_rrd_ticks_dropped_total{reason="full"} 0`} {
		if !strings.Contains(b.String(), want) {
			t.Fatalf("%q is not in\n%s", want, b.String())
		}
	}
}

// TestPartsOfSeconds: the average of equal readings is that reading, whenever they come, and whatever is unknown between them.
func TestPartsOfSeconds(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := openStore(t, newMemory())
	now := at(0).Add(3_538_461 * time.Microsecond)
	id := add(t, s, gauge("a", "m1"), now)
	tick := at(10)
	for range 2000 {
		now = now.Add(time.Duration(r.Int64N(int64(12 * time.Second)))).Add(time.Microsecond)
		for ; !tick.After(now); tick = tick.Add(10 * time.Second) {
			if err := s.Tick(tick); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Update(id, now, Sample{Value: 22, Unknown: r.IntN(5) == 0}); err != nil {
			t.Fatal(err)
		}
	}
	rows := query(t, s, "a", at(0), tick, Average, 5000)
	known := 0
	for i, v := range rows.Series[0].Values {
		if !math.IsNaN(v) {
			known++
			if math.Abs(v-22) > 1e-9 {
				t.Fatalf("row %d is %v", i, v)
			}
		}
	}
	if known < 100 {
		t.Fatalf("%d rows are known", known)
	}
}

// TestAnew: a counter whose collector knows that it began anew has a row or none that is unknown, and no rate that never was: unknown a
// millisecond before its first reading, then that reading.
func TestAnew(t *testing.T) {
	most := 1e9
	f := func(second int64, want string) {
		t.Helper()
		s := openStore(t, newMemory())
		id := add(t, s, Def{Name: "c", Labels: map[string]string{"switch": "sw1"}, Type: Counter, Max: &most, Profile: "slow"}, at(0))
		n := uint64(4_000_000_000) // as a counter of 64 bits; its drop would be taken for a wrap at 2^32
		for i := int64(1); i <= 12; i++ {
			when := at(60*i + second)
			if n += 6000; i == 6 {
				n = 300
				if err := s.Update(id, when.Add(-time.Millisecond), Sample{Unknown: true}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Update(id, when, Sample{N: n}); err != nil {
				t.Fatal(err)
			}
			if err := s.Tick(at(60*i + 60)); err != nil {
				t.Fatal(err)
			}
		}
		if got := text(query(t, s, "c", at(120), at(600), Average, 500).Series[0].Values); got != want {
			t.Fatalf("at second %d of the minute: %s", second, got)
		}
	}
	f(17, "100 100 100 100 100 100 100 100") // 17 s of the minute before, and 43 of that after, are known
	f(47, "100 100 100 100 U 100 100 100")
}
