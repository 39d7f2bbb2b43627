package snmp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Reader reads devices. New makes it.
type Reader struct {
	dial func(ctx context.Context, t Target) (session, error)

	mu      sync.Mutex // guards what follows
	devices map[string]*device
}

// device is what is remembered of one.
type device struct {
	turn   chan struct{} // one Read at a time
	bulk   uint32        // variables to ask for at once
	clean  int           // readings without a timeout
	uptime uint32        // hundredths of a second, at
	at     time.Time     // zero: it told none yet
	anew   bool          // it restarted since the last whole reading
	last   map[string]uint64
	speeds map[string]float64 // octets per second, by port: the last that was known
	// names are those of sensors, by entPhysicalIndex: a long table that seldom changes.
	names map[uint32]string
	named time.Time
}

// New makes a Reader.
func New() *Reader { return &Reader{dial: dial, devices: map[string]*device{}} }

// Forget drops what is remembered of a device that left.
func (r *Reader) Forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.devices, name)
}

func (r *Reader) device(name string) *device {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.devices[name]
	if d == nil {
		d = &device{turn: make(chan struct{}, 1), bulk: firstBulk, last: map[string]uint64{}, speeds: map[string]float64{}}
		r.devices[name] = d
	}
	return d
}

// sysUpTime is SNMPv2-MIB's.
func sysUpTime() oid { return oid{1, 3, 6, 1, 2, 1, 1, 3, 0} }

// errRestarted: what was read of it is of two lives.
var errRestarted = errors.New("the device restarted while it was read")

// Read returns what a device says, the most useful first, and what went wrong: readings that come with an error are good, and some
// are missing. name is what the device is remembered by. It takes at most 20 s.
func (r *Reader) Read(ctx context.Context, name string, t Target) ([]Reading, error) {
	d := r.device(name)
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot read %s: %w", name, ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	s, err := r.dial(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", name, err)
	}
	out, err := d.read(ctx, s)
	if cerr := s.close(); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		err = fmt.Errorf("cannot read all of %s: %w", name, err)
	}
	ranks := map[Metric]int{}
	for i, x := range metrics() {
		ranks[x.m] = i
	}
	slices.SortStableFunc(out, func(a, b Reading) int { return ranks[a.Metric] - ranks[b.Metric] })
	return out, err
}

// read reads part by part: one that makes no sense is left out.
func (d *device) read(ctx context.Context, s session) (out []Reading, err error) {
	w := &walk{ctx: ctx, s: s, d: d, last: map[string]uint64{}, speeds: map[string]float64{}}
	defer w.adapt()
	defer w.remember()
	begun, err := w.get(sysUpTime())
	if err != nil {
		return nil, err
	}
	d.anew = d.time(begun) || d.anew
	var errs []error
	for _, part := range []func(*walk) ([]Reading, error){ports, sensors, host} {
		rr, err := part(w)
		if err == nil {
			out = append(out, rr...)
			continue
		}
		errs = append(errs, err)
		if ctx.Err() != nil || errors.Is(err, errTimeout) {
			return out, errors.Join(errs...)
		}
	}
	ended, err := w.get(sysUpTime())
	if err != nil {
		return nil, err // whether it is one life is not known
	}
	if d.anew = d.time(ended); d.anew {
		return nil, errRestarted
	}
	return out, errors.Join(errs...)
}

// uptimeSlack is how far a device's uptime and our clock may part from one reading to the next, besides a hundredth of the time: some
// count in steps of ten seconds.
const uptimeSlack = 20 * time.Second

// time takes a device's uptime and tells whether it restarted since the last: its uptime did not go on as our clock did. That it wraps
// after 497 days is no restart.
func (d *device) time(v value) bool {
	if v.kind != unsigned {
		return false // it tells none: counters that fall show a restart too
	}
	now := time.Now()
	passed := now.Sub(d.at)
	went := time.Duration(uint32(v.n)-d.uptime) * (10 * time.Millisecond)
	again := !d.at.IsZero() && (went-passed).Abs() > uptimeSlack+passed/100
	d.uptime, d.at = uint32(v.n), now
	return again
}

// maxRemembered bounds what is remembered of a device: its own counters, twice over.
const maxRemembered = 2 * 8 * maxPorts

// remember takes over what a reading found. What a device did not tell this time stays, as long as it does not invent new names each time.
func (w *walk) remember() {
	if len(w.d.last)+len(w.last) > maxRemembered {
		clear(w.d.last)
		clear(w.d.speeds)
	}
	maps.Copy(w.d.last, w.last)
	maps.Copy(w.d.speeds, w.speeds)
}

// counter makes the reading of a counter. A counter that fell began anew; one of 32 bits may have wrapped, if it stood in its upper half.
func (w *walk) counter(m Metric, labels map[string]string, v value, most float64) Reading {
	r := Reading{Metric: m, Labels: labels, Max: most}
	if v.kind != unsigned && v.kind != wide {
		return r
	}
	key := string(m) + "\x00" + labels["port"] + "\x00" + labels["direction"] + "\x00" + labels["mode"]
	last, had := w.d.last[key]
	w.last[key] = v.n
	fell := had && v.n < last
	wrapped := v.kind == unsigned && last >= 1<<31 && v.n < 1<<31
	r.Known, r.N, r.Reset = true, v.n, w.d.anew || fell && !wrapped
	return r
}

// gauge makes the reading of a number.
func gauge(m Metric, labels map[string]string, v float64, known bool) Reading {
	if !known {
		v = 0
	}
	return Reading{Metric: m, Labels: labels, Value: v, Known: known}
}
