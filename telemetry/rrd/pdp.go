package rrd

import "math"

// Sample is one reading. Gauges have a Value; the other types count, in N (a DERIVE as the bits of an int64). Unknown is a reading
// that says that nothing is known: a sensor without a value, or a counter that its collector knows to be reset.
type Sample struct {
	Value   float64
	N       uint64
	Unknown bool
}

// pdp prepares primary data points of one series: what rrdtool calls the PDP scratch area.
type pdp struct {
	last    int64  // time of the last reading, microseconds since 1970
	n       uint64 // last reading of a counter
	known   bool   // n is one
	val     float64
	unknown float64 // seconds of the open step that are unknown
}

const micro = 1_000_000

// begin starts at a time of which nothing is known before.
func (p *pdp) begin(at, step int64) {
	*p = pdp{last: at, val: math.NaN(), unknown: float64(at%(step*micro)) / micro}
}

// update takes a reading at time at > p.last and returns the points of the steps that end since: the first of them has the value open,
// those after it, up to the tick end, have rest; first > end: none ends. What is unknown of a step between its last reading and its end
// does not count against its half, as in rrdtool: {5 at 3 s, unknown at 10 s} is 5.
// Source: rrdtool 1.7.2, by experiment (TestPeer), at whole seconds; of what is unknown it counts whole seconds only, so that with parts of
// a second the average of equal readings is another number there.
func (p *pdp) update(d *Def, heartbeat float64, step, at int64, s Sample) (open, rest float64, first, end int64) {
	interval := float64(at-p.last) / micro
	if interval > heartbeat {
		p.known = false
	}
	rate, lost := math.NaN(), 0.0
	if !s.Unknown && interval <= heartbeat {
		rate = p.amount(d.Type, s, interval) / interval
		if (d.Max != nil && rate > *d.Max) || (d.Min != nil && rate < *d.Min) {
			rate = math.NaN()
		}
	}
	p.n, p.known = s.N, !s.Unknown

	begun, now := p.last/micro/step, at/micro/step
	before := min(interval, float64((begun+1)*step*micro-p.last)/micro) // of the interval, in the step that was open
	p.last = at
	if math.IsNaN(rate) {
		lost = before
	} else if math.IsNaN(p.val) {
		p.val = rate * before
	} else {
		p.val += rate * before
	}
	if begun == now {
		p.unknown += lost
		return 0, 0, 1, 0
	}
	open = math.NaN()
	if interval <= heartbeat || now > begun+1 {
		open = p.point(step, lost)
	}
	after := float64(at-now*step*micro) / micro
	p.unknown, p.val = 0, rate*after
	if math.IsNaN(rate) {
		p.unknown = after
	}
	return open, rate, begun + 1, now
}

// point is the value of the open step, of whose end lost seconds are unknown.
func (p *pdp) point(step int64, lost float64) float64 {
	if p.unknown > float64(step)/2 {
		return math.NaN()
	}
	return p.val / (float64(step) - p.unknown - lost)
}

// expire ends an open step after which no reading came in time, and returns its point.
func (p *pdp) expire(step int64) float64 {
	v := p.point(step, float64((p.last/micro/step+1)*step*micro-p.last)/micro)
	p.val = math.NaN()
	return v
}

// amount is the reading times the interval for a gauge, and what was counted in it for the others.
func (p *pdp) amount(t Type, s Sample, interval float64) float64 {
	switch t {
	case Gauge:
		return s.Value * interval
	case Absolute:
		return float64(s.N)
	}
	if !p.known {
		return math.NaN()
	}
	if t == Derive {
		a, b := int64(s.N), int64(p.n)
		if d := a - b; (a >= b) == (d >= 0) {
			return float64(d)
		}
		return float64(a) - float64(b) // further apart than an int64 tells
	}
	if drop := p.n - s.N; s.N < p.n && drop <= 1<<32 { // it wrapped at 2^32; with a higher drop at 2^64, as the subtraction does
		return float64(1<<32 - drop)
	}
	return float64(s.N - p.n)
}
