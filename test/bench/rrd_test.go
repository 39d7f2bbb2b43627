package bench

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/rrd"
)

// readings are values as machines have them, by series: every fourth is constant, walks in steps of a half, is noise, or counts octets.
type readings struct {
	seed  []uint64
	value []float64
	count []uint64
}

func newReadings(n int) *readings {
	r := &readings{make([]uint64, n), make([]float64, n), make([]uint64, n)}
	for i := range n {
		r.seed[i], r.value[i] = uint64(i)*2654435761+1, 40
	}
	return r
}

func (r *readings) next(i int) rrd.Sample {
	r.seed[i] = r.seed[i]*6364136223846793005 + 1442695040888963407
	x := r.seed[i] >> 33
	switch i % 4 {
	case 0:
		return rrd.Sample{Value: 230}
	case 1:
		if x%3 == 0 {
			r.value[i] += float64(int(x>>4%3))/2 - 0.5
		}
		return rrd.Sample{Value: r.value[i]}
	case 2:
		return rrd.Sample{Value: float64(x) / 1e6}
	}
	r.count[i] += x % 10_000_000
	return rrd.Sample{N: r.count[i]}
}

// history is a store in a directory of its own, on a clock of its own.
type history struct {
	b     *testing.B
	dir   string
	raw   *state.Raw
	store *rrd.Store
	ids   []rrd.ID
	in    *readings
	step  int64
	tick  int64
}

func newHistory(b *testing.B, n int, p rrd.Profile) *history {
	h := &history{b: b, dir: filepath.Join(b.TempDir(), "telemetry"), in: newReadings(n), step: int64(p.Step), tick: 1_700_000_000 / 3600 * 3600 / int64(p.Step)}
	h.open(p)
	top := 1e12
	for i := range n {
		d := rrd.Def{Name: "x", Labels: map[string]string{"machine": fmt.Sprint("m", i/40), "sensor": fmt.Sprint("s", i)}, Type: rrd.Gauge, Profile: p.Name}
		if i%4 == 3 {
			d.Type, d.Max = rrd.Counter, &top
		}
		id, err := h.store.Series(d, time.Unix(h.tick*h.step, 0))
		if err != nil {
			b.Fatal(err)
		}
		h.ids = append(h.ids, id)
	}
	return h
}

func (h *history) open(p rrd.Profile) {
	var err error
	quiet := slog.New(slog.DiscardHandler)
	if h.raw, err = state.OpenRaw(state.Config{Dir: h.dir, Logger: quiet, UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1}); err == nil {
		h.store, err = rrd.Open(rrd.Config{Raw: h.raw, Log: quiet, Profiles: []rrd.Profile{p}})
	}
	if err != nil {
		h.b.Fatal(err)
	}
}

// run feeds ticks ticks, each on disk before the next.
func (h *history) run(ticks int) {
	for range ticks {
		h.tick++
		at := time.Unix(h.tick*h.step, 0)
		for i, id := range h.ids {
			if err := h.store.Update(id, at, h.in.next(i)); err != nil {
				h.b.Fatal(err)
			}
		}
		if err := h.store.Tick(time.Unix((h.tick+1)*h.step, 0)); err != nil {
			h.b.Fatal(err)
		}
	}
}

func (h *history) octets() (n int64) {
	err := filepath.WalkDir(h.dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil {
			n += i.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		h.b.Fatal(err)
	}
	return n
}

func usedCPU(who int) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		return math.NaN()
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}

// resident is the memory of this process in octets, and that of mapped files beside it, which the kernel may take back.
func resident() (anon, file float64) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	for l := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(l, "RssAnon: %f kB", &anon)
		_, _ = fmt.Sscanf(l, "RssFile: %f kB", &file)
	}
	return anon * 1024, file * 1024
}

func fast() rrd.Profile { return rrd.Profiles()[0] }

// BenchmarkSeries is 10,000 series every 10 s, two hours of them, and rrdtool with 1,000 of the same in files with the same archives.
func BenchmarkSeries(b *testing.B) {
	const series, ticks = 10_000, 2 * 360
	for b.Loop() {
		h := newHistory(b, series, fast())
		cpu, begun := usedCPU(syscall.RUSAGE_SELF), time.Now()
		h.run(ticks)
		cpu = usedCPU(syscall.RUSAGE_SELF) - cpu
		took := time.Since(begun)
		ours := float64(series*ticks) / cpu

		var lasts []time.Duration
		m, err := rrd.ParseMatch(`x{machine=~"m(1?[0-9]|2[0-4])"}`) // 25 machines of 40
		if err != nil {
			b.Fatal(err)
		}
		for range 100 {
			at := time.Now()
			rows, err := h.store.Query(rrd.Query{Match: m, From: time.Unix((h.tick-360)*10, 0), To: time.Unix(h.tick*10, 0), MaxPoints: 200})
			if err != nil || len(rows.Series) != 1000 {
				b.Fatal(len(rows.Series), err)
			}
			lasts = append(lasts, time.Since(at))
		}
		if err := h.raw.Close(); err != nil {
			b.Fatal(err)
		}
		h.open(fast()) // what lay in memory tables is in tables now
		size := h.octets()
		values := float64(series) * float64(min(ticks, 2160)+2*(ticks/6+ticks/30+ticks/360))
		Figure(os.Stdout, "series: samples a CPU second, 10,000 series, one fsync a tick", fmt.Sprintf("%.0f k", ours/1e3), "", "", "≥ 200 k")
		peer := rrdtoolRate(b)
		Figure(os.Stdout, "series: beside rrdtool update, the same archives", fmt.Sprintf("%.0f k/s", ours/1e3), fmt.Sprintf("%.1f k/s", peer/1e3), fmt.Sprintf("%.0f x", ours/peer), "≥ 20 x")
		Figure(os.Stdout, "series: octets a value on disk after a restart", fmt.Sprintf("%.2f B", float64(size)/values), "8 B", "", "< 6 B")
		Figure(os.Stdout, "series: time to write two hours", Seconds(took), "", "", "")
		Figure(os.Stdout, "series: query of 1,000 series' last hour, p99", Seconds(Quantile(lasts, 0.99)), "", "", "< 0.50 s")
		if err := h.raw.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSeriesMemory is what the process of 10,000 series every 10 s has in memory at most, by how much faster than time they come:
// at twice the time of a block, when everything is closed and compacted that ever is.
func BenchmarkSeriesMemory(b *testing.B) {
	for _, rate := range []int{1, 10, 100} {
		b.Run(fmt.Sprint("rate=", rate), func(b *testing.B) {
			for b.Loop() {
				h := newHistory(b, 10_000, fast())
				begun := time.Now()
				most, files := 0.0, 0.0
				for i := range 130 * min(rate, 4) {
					h.run(1)
					anon, file := resident()
					most, files = max(most, anon), max(files, file)
					time.Sleep(time.Until(begun.Add(time.Duration(i+1) * 10 * time.Second / time.Duration(rate)))) // its clock is ours
				}
				Figure(os.Stdout, fmt.Sprintf("series: resident with this benchmark, 10,000 series, %d times as fast as time", rate), fmt.Sprintf("%.0f MB + %.0f MB of files", most/1e6, files/1e6), "", "", "< 200 MB")
				if err := h.raw.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// rrdtoolRate is updates of one series a CPU second: commands to one process, files in the page cache, no fsync.
func rrdtoolRate(b *testing.B) float64 {
	if _, err := exec.LookPath("rrdtool"); err != nil {
		b.Skip("rrdtool is not installed")
	}
	const files, updates = 1000, 60
	dir, begin := b.TempDir(), int64(1_700_000_000)
	var create, update bytes.Buffer
	for f := range files {
		fmt.Fprintf(&create, "create %s/%d.rrd --start %d --step 10 DS:x:GAUGE:25:U:U", dir, f, begin)
		for i, a := range fast().Archives {
			fmt.Fprintf(&create, " RRA:AVERAGE:0.5:%d:%d", a.Steps, a.Rows)
			if i > 0 {
				fmt.Fprintf(&create, " RRA:MAX:0.5:%d:%d", a.Steps, a.Rows)
			}
		}
		create.WriteByte('\n')
	}
	in := newReadings(files)
	for u := range int64(updates) {
		for f := range files {
			fmt.Fprintf(&update, "update %s/%d.rrd %d:%g\n", dir, f, begin+10*(u+1), in.next(f/4*4+2).Value)
		}
	}
	run := func(commands *bytes.Buffer) float64 {
		c := exec.Command("rrdtool", "-")
		c.Stdin = commands
		out, err := c.CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("ERROR")) {
			b.Fatalf("rrdtool: %v: %.300s", err, out)
		}
		return (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds()
	}
	run(&create)
	return files * updates / run(&update)
}

// BenchmarkSeriesTurns turns rings five times: the directory does not grow.
func BenchmarkSeriesTurns(b *testing.B) {
	p := rrd.Profile{Name: "fast", Step: 10, Archives: []rrd.Archive{
		{Steps: 1, Rows: 360, XFF: 0.5}, {Steps: 6, Rows: 120, XFF: 0.5, CFs: []rrd.CF{rrd.Max}}, {Steps: 30, Rows: 48, XFF: 0.5, CFs: []rrd.CF{rrd.Max}},
	}}
	for b.Loop() {
		h := newHistory(b, 1000, p)
		var sizes []string
		first, last := 0.0, 0.0
		for turn := range 6 {
			most := int64(0)
			for range 12 { // the directory goes up and down with Badger's compactions
				h.run(30 * 48 / 12)
				most = max(most, h.octets())
			}
			sizes = append(sizes, fmt.Sprintf("%.0f", float64(most)/1e6))
			if last = float64(most); turn == 1 {
				first = last
			}
		}
		Figure(os.Stdout, "series: MB on disk at most, in each of six turns of the ring, 1,000 series", strings.Join(sizes, " "), "", fmt.Sprintf("%.2f", last/first), "flat")
		if err := h.raw.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSeriesMonth is a query of 30 days of one of 20 series that are polled once a minute.
func BenchmarkSeriesMonth(b *testing.B) {
	for b.Loop() {
		h := newHistory(b, 20, rrd.Profiles()[1])
		h.run(30 * 1440)
		var took []time.Duration
		for i := range 500 {
			m, err := rrd.ParseMatch(fmt.Sprintf(`x{sensor="s%d"}`, i%20))
			if err != nil {
				b.Fatal(err)
			}
			at := time.Now()
			rows, err := h.store.Query(rrd.Query{Match: m, From: time.Unix((h.tick-30*1440)*60, 0), To: time.Unix(h.tick*60, 0)})
			if err != nil || len(rows.Series) != 1 || rows.Count < 300 {
				b.Fatal(rows.Count, err)
			}
			took = append(took, time.Since(at))
		}
		Figure(os.Stdout, "series: query of 30 days of one series, p99", fmt.Sprintf("%.2f ms", Quantile(took, 0.99).Seconds()*1e3), "", "", "< 50 ms")
		if err := h.raw.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
