package wan

import (
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/storage/state"
)

type box struct {
	*testing.T
	dir  string
	db   *state.DB
	spec *intent.WANSpec
	now  time.Time
	ok   bool
	*Keeper
}

func newBox(t *testing.T) *box {
	b := &box{T: t, dir: filepath.Join(t.TempDir(), "state"), ok: true}
	b.open()
	t.Cleanup(func() { _ = b.db.Close() })
	return b
}

func (b *box) open() {
	b.Helper()
	var err error
	b.db, err = state.Open(state.Config{Dir: b.dir, Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler), UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Keeper = Open(Config{
		DB: b.db, Log: slog.New(slog.DiscardHandler),
		Spec: func() *intent.WANSpec { return b.spec }, Clock: func() (time.Time, bool) { return b.now, b.ok },
	})
}

func (b *box) at(s string) {
	b.Helper()
	var err error
	if b.now, err = time.Parse("Mon 2006-01-02 15:04", s); err != nil || b.now.Weekday().String()[:3] != s[:3] {
		b.Fatal(s, err)
	}
}

func (b *box) wants(what string, c swarm.Class, others uint64, rate float64, why string) {
	b.Helper()
	got, err := b.Allow(c, others)
	if (err != nil) != (why != "") || err != nil && !strings.Contains(err.Error(), why) || got != rate {
		b.Errorf("%s: %v, %v; want %v, %q", what, got, err, rate, why)
	}
}

func TestAllow(t *testing.T) {
	b, inf := newBox(t), math.Inf(1)
	b.at("Fri 2026-11-27 12:00")
	b.wants("no budget", swarm.Wanted, 1<<40, inf, "")
	b.spec = &intent.WANSpec{}
	b.wants("an empty one", swarm.Wanted, 1<<40, inf, "")
	b.spec = &intent.WANSpec{RateIn: "8M", Windows: []intent.WANWindow{
		{Days: []string{"mon", "tue", "wed", "thu", "fri"}, From: "08:00", To: "18:30", Rate: "800k"},
		{From: "22:00", To: "06:00", Rate: "0"},
		{Days: []string{"sat"}, From: "10:00", To: "10:00", Rate: "80M"},
	}}
	b.wants("in office hours", swarm.Wanted, 0, 1e5, "")
	b.wants("in office hours, live", swarm.Live, 0, 1e5, "")
	b.at("Fri 2026-11-27 18:29")
	b.wants("their last minute", swarm.Wanted, 0, 1e5, "")
	b.at("Fri 2026-11-27 18:30")
	b.wants("after them", swarm.Wanted, 0, 1e6, "")
	b.at("Fri 2026-11-27 22:00")
	b.wants("quiet", swarm.Wanted, 0, 0, "quiet hours of the site until 06:00")
	b.wants("quiet, live", swarm.Live, 0, 1e6, "")
	b.ok = false
	b.wants("by a clock that nobody believes", swarm.Wanted, 0, 1e6, "")
	b.ok = true
	b.at("Sat 2026-11-28 05:59")
	b.wants("quiet since yesterday", swarm.Wanted, 0, 0, "quiet")
	b.at("Sat 2026-11-28 06:00")
	b.wants("the morning", swarm.Wanted, 0, 1e6, "")
	b.at("Sat 2026-11-28 10:00")
	b.wants("a day from ten to ten", swarm.Wanted, 0, 1e7, "")
	b.at("Sun 2026-11-29 09:59")
	b.wants("its end", swarm.Wanted, 0, 1e7, "")
	b.at("Sun 2026-11-29 10:00")
	b.wants("after it", swarm.Wanted, 0, 1e6, "")
}

func TestDay(t *testing.T) {
	b, inf := newBox(t), math.Inf(1)
	b.at("Fri 2026-11-27 12:00")
	b.spec = &intent.WANSpec{DailyCap: "100M"}
	b.Took(40e6)
	b.wants("under the cap", swarm.Wanted, 59e6, inf, "")
	b.wants("at the cap, with others", swarm.Wanted, 60e6, 0, "the site took 100 MB today, of 100M")
	b.wants("at the cap, live", swarm.Live, 60e6, inf, "")
	b.wants("a fifth beyond it, live", swarm.Live, 80e6, 0, "took 120 MB")
	if err := b.db.Close(); err != nil {
		t.Fatal(err)
	}
	b.open() // after a crash
	if got := b.Today(); got < 40e6-saveEvery || got > 40e6 {
		t.Errorf("%d octets after a restart", got)
	}
	b.at("Thu 1970-01-01 00:00")
	b.ok = false
	b.wants("by a clock that nobody believes", swarm.Wanted, 80e6, 0, "took")
	b.ok = true
	b.at("Sat 2026-11-28 00:00")
	b.wants("midnight", swarm.Wanted, 0, inf, "")
	if got := b.Today(); got != 0 {
		t.Errorf("%d octets at midnight", got)
	}
}

// TestOut: what leaves for other sites is paced to this agent's part of the rate; without a rate it leaves as it comes.
func TestOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := &intent.WANSpec{RateOut: "80k"} // 10 kB/s, of which this one of two agents has half
		k := &Keeper{cfg: Config{Spec: func() *intent.WANSpec { return spec }, Share: func() int { return 2 }}, out: rate.NewLimiter(rate.Inf, outBurst)}
		began, sent := time.Now(), 0
		for sent < 100_000 {
			n, err := k.Out(t.Context(), 100_000-sent)
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			sent += n
		}
		if took := time.Since(began).Round(time.Second); took < 18*time.Second || took > 21*time.Second {
			t.Errorf("100 kB at 5 kB/s took %v", took)
		}
		spec = &intent.WANSpec{}
		if n, err := k.Out(t.Context(), 1<<20); n != 1<<20 || err != nil {
			t.Errorf("without a rate: %d, %v", n, err)
		}
	})
}
