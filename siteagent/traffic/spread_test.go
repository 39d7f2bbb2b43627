package traffic

import (
	"log/slog"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/account"
	"github.com/skerry-metal/skerry/telemetry/probe"
)

// readingDesk is an agent whose probe gave one reading now, since the one before.
func readingDesk(t *testing.T, since time.Duration, r probe.Reading) (*Desk, time.Time) {
	t.Helper()
	raw, err := state.OpenRaw(state.Config{Dir: t.TempDir() + "/telemetry", Logger: slog.New(slog.DiscardHandler), UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1})
	must(t, err)
	t.Cleanup(func() { must(t, raw.Close()) })
	d := New(Config{Site: "lon1", Self: "a1", Store: raw, Peers: &mesh{}, Agents: func() []string { return []string{"a1"} }, Plan: func() *account.Plan { return account.NewPlan(nil, nil) }, Log: slog.New(slog.DiscardHandler)})
	now := time.Now().Truncate(time.Hour)
	d.count.read = now.Add(-since)
	point := account.Point{Agent: "a1"}
	d.count.points.Store(&[]account.Point{point})
	d.count.known[point] = true
	d.count.took(r, now)
	must(t, d.engine.Flush())
	return d, now
}

func asked(t *testing.T, d *Desk, from, to time.Time, step time.Duration) []telemetry.TrafficRow {
	t.Helper()
	a, err := d.Traffic(t.Context(), "lon1", telemetry.TrafficQuery{From: from, To: to, Step: step, By: []string{"machine"}})
	must(t, err)
	return a.Rows
}

func readingOf(rate float64, lost uint64) probe.Reading {
	l := labelled{Label: account.Label{Project: "acme", Machine: "m1"}}
	return probe.Reading{Samples: 100, Lost: lost, Rows: []probe.Row{{Label: l.text(), Rate: rate, Lost: lost > 0, Samples: 100, Bytes: 1_000_003, L3: 900_001, Frames: 100}}}
}

// TestLongGap: what was counted while no agent read for ten days is spread over them, all of it and none twice; two days alike.
func TestLongGap(t *testing.T) {
	for _, days := range []int{2, 10} {
		since := time.Duration(days) * 24 * time.Hour
		d, now := readingDesk(t, since, readingOf(1, 0))
		whole := asked(t, d, now.Add(-since), now, 0)
		if len(whole) != 1 || whole[0].Bytes != 1_000_003 || whole[0].Packets != 100 || len(whole[0].Flags) != 1 || whole[0].Flags[0] != "spread" || whole[0].Coverage < 0.99 {
			t.Errorf("%d days: %+v", days, whole)
		}
		last := asked(t, d, now.Add(-24*time.Hour), now, 0)
		if share := 1_000_003 / uint64(days); len(last) != 1 || last[0].Bytes < share*8/10 || last[0].Bytes > share*12/10 {
			t.Errorf("%d days: the last of them has %+v", days, last)
		}
	}
	d, now := readingDesk(t, 30*time.Minute, readingOf(1, 0))
	if rows := asked(t, d, now.Add(-30*time.Minute), now, 0); len(rows) != 1 || rows[0].Bytes != 1_000_003 || len(rows[0].Flags) > 0 {
		t.Errorf("half an hour: %+v", rows)
	}
}

// TestPacketGap: samples that rung packet lost are in the figure, by the others; the flag and coverage say so.
func TestPacketGap(t *testing.T) {
	d, now := readingDesk(t, time.Minute, readingOf(128, 100)) // as many lost as looked at
	rows := asked(t, d, now.Add(-time.Minute), now, 0)
	if len(rows) != 1 || rows[0].Bytes != 128*1_000_003 || len(rows[0].Flags) != 1 || rows[0].Flags[0] != "loss" || rows[0].Coverage > 0.51 || rows[0].Coverage < 0.45 {
		t.Errorf("%+v", rows)
	}
}
