package rota

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Every is how often a device that answers is asked.
const Every = time.Minute

const (
	limit = 45 * time.Second // of one device: its next turn is not missed
	rest  = 15 * time.Minute // the longest of one that does not answer
	look  = time.Second
	learn = 10 * time.Second // between two looks at which devices there are
	// atOnce bounds sockets and memory, no device: what one stands is its own governor's business, and most of a reading is waiting for its turn.
	atOnce = 256
)

// Rota asks devices in turn. D says how to reach one.
type Rota[D any] struct {
	// Look returns the devices that are to be asked now, by name.
	Look func() map[string]D
	// Poll asks one. An error makes it wait longer; it has 45 s.
	Poll func(ctx context.Context, name string, d D) error
	// Left tells that a device is asked no more; nil: nobody needs to know.
	Left func(name string)

	mu      sync.Mutex // guards what follows
	devices map[string]*turn[D]
	busy    map[string]bool // is being asked, also when it left and came again
}

type turn[D any] struct {
	d       D
	next    time.Time // zero: at once
	fails   int
	asked   bool
	seconds float64 // of the last poll
}

// Outcome is how the last poll of a device went.
type Outcome struct {
	Name    string
	OK      bool
	Seconds float64 // that it took
}

// Outcomes returns how the last polls went, by name; who was not asked yet is left out.
func (r *Rota[D]) Outcomes() (out []Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.devices)) {
		if t := r.devices[name]; t.asked {
			out = append(out, Outcome{name, t.fails == 0, t.seconds})
		}
	}
	return out
}

// Get returns a device that is asked now.
func (r *Rota[D]) Get(name string) (d D, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.devices[name]; t != nil {
		return t.d, true
	}
	return d, false
}

// Run asks until ctx ends.
func (r *Rota[D]) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, atOnce)
	t := time.NewTicker(look)
	defer t.Stop()
	for n := 0; ; n++ {
		if n%int(learn/look) == 0 {
			r.refresh()
		}
		for name, d := range r.due(time.Now(), cap(slots)-len(slots)) {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				r.one(ctx, name, d)
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (r *Rota[D]) refresh() {
	now := r.Look()
	var left []string
	r.mu.Lock()
	if r.devices == nil {
		r.devices, r.busy = map[string]*turn[D]{}, map[string]bool{}
	}
	for name, d := range now {
		t := r.devices[name]
		if t == nil {
			t = &turn[D]{} // at once, then at its place in the minute
			r.devices[name] = t
		}
		t.d = d
	}
	for name := range r.devices {
		if _, here := now[name]; !here {
			delete(r.devices, name)
			left = append(left, name)
		}
	}
	r.mu.Unlock()
	if r.Left != nil {
		for _, name := range left {
			r.Left(name)
		}
	}
}

// spread is a device's place in the minute, so that not all are asked at once.
func spread(now time.Time, name string) time.Time {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	at := now.Truncate(Every).Add(time.Duration(h % uint64(Every)))
	if at.Before(now) {
		at = at.Add(Every)
	}
	return at
}

// due takes up to n devices whose time has come.
func (r *Rota[D]) due(now time.Time, n int) map[string]D {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]D{}
	for name, t := range r.devices {
		set := t.next.Sub(now) > rest+Every // the clock was set back since
		if len(out) < n && !r.busy[name] && (set || !t.next.After(now)) {
			r.busy[name] = true
			out[name] = t.d
		}
	}
	return out
}

func (r *Rota[D]) one(ctx context.Context, name string, d D) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := r.Poll(ctx, name, d)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, name)
	t := r.devices[name]
	if t == nil {
		return // it left meanwhile
	}
	t.asked, t.seconds = true, now.Sub(begun).Seconds()
	t.next = spread(now, name)
	if err == nil {
		t.fails = 0
		return
	}
	wait := min(Every<<min(t.fails, 4), rest)
	t.fails++
	if wait > Every {
		t.next = spread(now.Add(wait-Every), name)
	}
}
