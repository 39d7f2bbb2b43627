package trust

import (
	"sync"
	"time"
)

// Floor is the time that certainly has passed, without NTP: the newest of the build time, the floor saved before the last
// stop plus the monotonic time since, and the issue time of any verified document. The wall clock never raises it: one wrong
// jump would poison it. Safe for concurrent use.
// Source: trust.md section 2.
type Floor struct {
	wall func() time.Time
	mu   sync.Mutex // guards what follows
	base time.Time  // the floor at the moment seen
	seen time.Time  // carries the monotonic clock
}

// BuildTime is the lowest time that a floor starts from: this code did not exist before.
func BuildTime() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }

// NewFloor starts from the newer of build and saved (zero: none saved). wall is the clock of the machine, which may be wrong and may
// jump; nil is time.Now.
func NewFloor(build, saved time.Time, wall func() time.Time) *Floor {
	base := build
	if saved.After(base) {
		base = saved
	}
	if wall == nil {
		wall = time.Now
	}
	return &Floor{wall: wall, base: base.UTC().Round(0), seen: time.Now()}
}

// Value returns the floor, UTC.
func (f *Floor) Value() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.value()
}

func (f *Floor) value() time.Time { return f.base.Add(time.Since(f.seen)) }

// Observe raises the floor to the issue time of a verified document; an older one changes nothing.
func (f *Floor) Observe(issued time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if issued.After(f.value()) {
		f.base, f.seen = issued.UTC().Round(0), time.Now()
	}
}

// Lower sets the floor to t where it lies above it. Only the floor field of a verified trust document may do it.
func (f *Floor) Lower(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t.Before(f.value()) {
		f.base, f.seen = t.UTC().Round(0), time.Now()
	}
}

// Now returns max(wall, floor) and whether the wall clock is believed (it does not lie below the floor).
func (f *Floor) Now() (now time.Time, trusted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wall := f.wall().UTC().Round(0)
	floor := f.value()
	if wall.Before(floor) {
		return floor, false
	}
	return wall, true
}

// Ahead returns how far the wall clock lies above the floor; negative when below. A coordinator signs nothing above 30 days.
func (f *Floor) Ahead() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wall().Round(0).Sub(f.value())
}
