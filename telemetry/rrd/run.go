package rrd

import (
	"context"
	"fmt"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/sync/errgroup"
)

const (
	scrubEvery = 24 * time.Hour
	scrubFirst = time.Hour // after the start, which has other work
)

// Run ticks at the end of each of the shortest steps and scrubs once a day, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.tick(ctx) })
	g.Go(func() error { return s.scrub(ctx) })
	return g.Wait()
}

func (s *Store) tick(ctx context.Context) error {
	step := time.Hour
	for _, p := range s.profiles {
		step = min(step, time.Duration(p.Step)*time.Second)
	}
	var said time.Time
	for {
		now := time.Now()
		if !wait(ctx, now.Truncate(step).Add(step).Sub(now)) {
			return nil
		}
		if err := s.Tick(time.Now()); err != nil && time.Since(said) >= time.Minute {
			said = time.Now()
			s.cfg.Log.Warn("series: a tick was not written; reads go on", "err", err)
		}
	}
}

func (s *Store) scrub(ctx context.Context) error {
	for next := scrubFirst; wait(ctx, next); next = scrubEvery {
		if err := s.Scrub(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("series: scrub ended early", "err", err)
		}
		s.mu.RLock()
		seen := s.counts.Scrub
		s.mu.RUnlock()
		if seen.Damaged > 0 {
			s.cfg.Log.Warn("series: the scrub found damage; these rows are unknown", "values", seen.Damaged, "of", seen.Keys)
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Gauges registers what the store tells of itself.
func (s *Store) Gauges(set *metrics.Set) {
	set.NewGauge("skerry_rrd_series", func() float64 { return float64(s.Counts().Series) })
	set.NewGauge("skerry_rrd_commit_seconds", func() float64 { return s.Counts().CommitSeconds })
	set.NewGauge("skerry_rrd_last_tick_timestamp_seconds", func() float64 {
		if t := s.Counts().LastTick; !t.IsZero() {
			return float64(t.Unix())
		}
		return 0
	})
	for _, r := range []string{"full", "clock", "error"} {
		set.NewGauge(fmt.Sprintf("skerry_rrd_ticks_dropped_total{reason=%q}", r), func() float64 { return float64(s.Counts().Dropped[r]) })
	}
	for _, r := range []string{"agent", "device", "project", "definition"} {
		set.NewGauge(fmt.Sprintf("skerry_rrd_series_refused_total{reason=%q}", r), func() float64 { return float64(s.Counts().Refused[r]) })
	}
	for r, n := range map[string]func(Counts) int{
		"late": func(c Counts) int { return c.Late }, "ahead": func(c Counts) int { return c.Ahead },
	} {
		set.NewGauge(fmt.Sprintf("skerry_rrd_samples_refused_total{reason=%q}", r), func() float64 { return float64(n(s.Counts())) })
	}
	set.NewGauge("skerry_rrd_values_damaged_total", func() float64 { return float64(s.Counts().Damaged) })
}
