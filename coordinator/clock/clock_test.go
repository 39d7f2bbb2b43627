package clock

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/storage/state"
)

const day = 24 * time.Hour

// A coordinator that was off for a month, or whose clock leapt, signs nothing until somebody has looked; a clock that lies behind signs
// with the floor; and what was saved outlives a stop.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)))
		dir := t.TempDir()
		var st store.Store
		power := func() {
			t.Helper()
			db, err := state.Open(state.Config{Dir: filepath.Join(dir, "state"), Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler), UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1})
			if err == nil {
				st, err = store.OpenBadger(db)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		power()
		jump := time.Duration(0)
		wall := func() time.Time { return time.Now().Round(0).Add(jump) }
		open := func(believed bool) *Clock {
			t.Helper()
			c, err := Open(t.Context(), st, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), wall, believed, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		f := func(c *Clock, signs bool, off time.Duration) {
			t.Helper()
			if err := c.Sign(); (err == nil) != signs || err != nil && !errors.Is(err, ErrLeads) {
				t.Errorf("Sign: %v, want %v", err, signs)
			}
			if got := time.Until(c.Now()).Round(time.Hour); got != off {
				t.Errorf("Now is off by %v, want %v", got, off)
			}
		}
		first := open(false) // nothing was saved: this is a new domain
		f(first, true, 0)
		jump = 29 * day
		f(first, true, 29*day) // as far as a stop may explain
		jump = 0
		f(first, true, 29*day) // what was signed has passed
		jump = 10 * 365 * day
		f(first, false, jump)
		jump = -3 * 365 * day
		f(first, true, 29*day)
		jump = 0
		for _, at := range []time.Time{time.Now(), time.Now().Add(day)} { // a later one lowers nothing
			if err := first.Lower(t.Context(), at); err != nil {
				t.Fatal(err)
			}
			f(first, true, 0)
		}
		f(open(false), true, 0) // a process that dies now has kept it

		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * day)
		power()
		off := open(false)
		f(off, false, 0)
		jump = -31 * day
		f(off, true, -31*day)
		jump = 0
		f(open(true), true, 0)
		f(open(false), true, 0) // it was said once
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
