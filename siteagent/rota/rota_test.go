package rota

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRota: each device once a minute, not all at once, one that fails ever less often until it answers, one that hangs alone; who left is
// told and is new when it comes again.
func TestRota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked, bad := map[string][]time.Time{}, map[string]bool{"b": true, "hangs": true}
		here := map[string]int{"a": 1, "b": 2, "hangs": 3, "c": 4}
		var left []string
		r := &Rota[int]{
			Look: func() map[string]int { mu.Lock(); defer mu.Unlock(); return maps.Clone(here) },
			Poll: func(ctx context.Context, name string, d int) error {
				mu.Lock()
				asked[name] = append(asked[name], time.Now())
				fails := bad[name]
				mu.Unlock()
				if name == "hangs" {
					<-ctx.Done()
				}
				if fails {
					return errors.New("no")
				}
				return nil
			},
			Left: func(name string) { left = append(left, name) },
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		time.Sleep(2*time.Hour + time.Second)
		mu.Lock()
		if n := len(asked["a"]); n < 120 || n > 122 {
			t.Errorf("a was asked %d times in two hours", n)
		}
		for _, name := range []string{"b", "hangs"} {
			if n := len(asked[name]); n < 8 || n > 13 {
				t.Errorf("%s was asked %d times in two hours", name, n)
			}
			if d := asked[name][9-1].Sub(asked[name][8-1]); d < 14*time.Minute || d > 17*time.Minute {
				t.Errorf("%s rests %v", name, d)
			}
		}
		if asked["a"][5].Equal(asked["c"][5]) {
			t.Error("all are asked at the same moment")
		}
		bad["b"], asked["b"] = false, nil
		delete(here, "a")
		mu.Unlock()
		time.Sleep(time.Hour)
		mu.Lock()
		if n := len(asked["b"]); n < 44 {
			t.Errorf("b answers again and was asked %d times in an hour", n)
		}
		if !slices.Equal(left, []string{"a"}) {
			t.Errorf("left: %v", left)
		}
		if _, ok := r.Get("a"); ok {
			t.Error("a is here")
		}
		if d, ok := r.Get("c"); !ok || d != 4 {
			t.Error("c is not here")
		}
		oo := r.Outcomes()
		if len(oo) != 3 || oo[0] != (Outcome{"b", true, 0}) || oo[2].OK || oo[2].Seconds != 45 {
			t.Errorf("%+v", oo)
		}
		mu.Unlock()
		cancel()
		wg.Wait()
	})
}

// TestClockSetBack: a clock that is set back by a day stops no polling.
func TestClockSetBack(t *testing.T) {
	r := &Rota[int]{Look: func() map[string]int { return map[string]int{"a": 1} }}
	r.refresh()
	now := time.Now()
	r.devices["a"].next = now.Add(24 * time.Hour) // by the clock of before
	if due := r.due(now, 8); len(due) != 1 {
		t.Errorf("due are %v", due)
	}
}

// TestSlowDevices: 200 controllers that take half a minute each, as those with 60 sensors at two requests a second do, are all read every minute.
func TestSlowDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const devices, minutes = 200, 20
		here := map[string]int{}
		for i := range devices {
			here[fmt.Sprint("m", i)] = i
		}
		var mu sync.Mutex
		asked := map[string]int{}
		r := &Rota[int]{
			Look: func() map[string]int { return maps.Clone(here) },
			Poll: func(_ context.Context, name string, _ int) error {
				time.Sleep(30 * time.Second)
				mu.Lock()
				defer mu.Unlock()
				asked[name]++
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		time.Sleep(minutes*time.Minute + time.Second)
		cancel()
		wg.Wait()
		for name := range here {
			if asked[name] < minutes-1 {
				t.Fatalf("%s was read %d times in %d minutes", name, asked[name], minutes)
			}
		}
	})
}
