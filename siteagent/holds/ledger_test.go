package holds

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
)

// A day of waiting is a day of this agent's own running, however often it is restarted and whatever the clock says meanwhile.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		record := time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)
		life := func(of, gap time.Duration, f func(l *Ledger)) {
			db, err := state.Open(state.Config{Dir: dir, Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler), UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
			if err != nil {
				t.Fatal(err)
			}
			l := Open(db, slog.New(slog.DiscardHandler))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- l.Run(ctx) }()
			f(l)
			for range of / (30 * time.Minute) { // planners ask all the time
				time.Sleep(30 * time.Minute)
				f(l)
			}
			time.Sleep(time.Minute)
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			time.Sleep(gap) // off, or the clock leaps
		}
		asked := func(l *Ledger, what string, at time.Time) time.Duration { return time.Since(l.Since(what, at)) }
		expect := func(why string, got, want time.Duration) {
			t.Helper()
			if got != want {
				t.Errorf("%s: waited %s, not %s", why, got, want)
			}
		}
		life(time.Hour, 365*24*time.Hour, func(l *Ledger) { asked(l, "m1", record) })
		life(time.Hour, time.Hour, func(l *Ledger) { asked(l, "m1", record) })
		life(0, 0, func(l *Ledger) {
			expect("two lives, a year off", asked(l, "m1", record), 2*time.Hour)
			expect("another release of the machine", asked(l, "m1", record.Add(time.Hour)), 0)
			expect("another machine", asked(l, "m2", record), 0)
			time.Sleep(30 * time.Minute)
			expect("half an hour", asked(l, "m2", record), 30*time.Minute)
			l.waits["m1"].asked = time.Now().Add(-forgetAfter - 1)
			time.Sleep(saveEvery)
		})
		life(0, 0, func(l *Ledger) {
			time.Sleep(2 * saveEvery)
			expect("kept", asked(l, "m2", record), time.Hour) // but for the minute after the last write
			if len(l.waits) != 1 {
				t.Errorf("%d waits are kept, not the one that was asked for", len(l.waits))
			}
		})
	})
}

// What is damaged has not waited.
func TestDamaged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	db, err := state.Open(state.Config{Dir: dir, Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler), UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, body := range []string{"", "{", "[]", "null", `{"m1":null}`, `{"m1":{"at":"1990-01-01T00:00:00Z","waited":-5}}`} {
		if err := db.Update(func(tx *state.Tx) error { return tx.Put(Bucket, key, []byte(body)) }); err != nil {
			t.Fatal(err)
		}
		l := Open(db, slog.New(slog.DiscardHandler))
		if at := l.Since("m1", time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)); at.Before(l.born) {
			t.Errorf("%q: it has waited since %s", body, at)
		}
	}
}
