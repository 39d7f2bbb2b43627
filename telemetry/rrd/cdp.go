package rrd

import (
	"math"
	"slices"
)

// cdp is one consolidated data point, open or whole. Its zero value has no points yet.
type cdp struct {
	sum, min, max, last float64 // of the known points; last is the last point, NaN when that is unknown
	count               uint32  // known points
}

// add takes the next point; NaN is unknown.
func (c *cdp) add(v float64) {
	c.last = v
	if math.IsNaN(v) {
		return
	}
	if c.count == 0 {
		c.min, c.max = v, v
	}
	c.sum += v
	c.min, c.max = min(c.min, v), max(c.max, v)
	c.count++
}

// join takes the next consolidated point: further aggregation.
func (c *cdp) join(o cdp) {
	if c.last = o.last; o.count == 0 {
		c.last = math.NaN()
		return
	}
	if c.count == 0 {
		c.min, c.max = o.min, o.max
	}
	c.sum += o.sum
	c.min, c.max = min(c.min, o.min), max(c.max, o.max)
	c.count += o.count
}

// value is the point by a function, of steps primary points in all; NaN when more than xff of them are unknown.
func (c *cdp) value(cf CF, steps int, xff float64) float64 {
	if c.count == 0 || float64(steps-int(c.count)) > float64(steps)*xff {
		return math.NaN()
	}
	switch cf {
	case Min:
		return c.min
	case Max:
		return c.max
	case Last:
		return c.last
	}
	return c.sum / float64(c.count)
}

// keeps tells whether the archive can answer by cf.
func (a Archive) keeps(cf CF) bool {
	return cf == Average || a.Steps == 1 || slices.Contains(a.CFs, cf)
}

// advance feeds the points of the ticks from+1 to upTo into the open point c of an archive and calls emit for each row that has a known
// point, in order. value gives the point of a tick; none is known after the tick known. It returns the open point after upTo.
func advance(c cdp, steps, from, upTo, known int64, value func(tick int64) float64, emit func(row int64, c cdp)) cdp {
	end := min(upTo, known)
	for k := from + 1; k <= end; k++ {
		c.add(value(k))
		if k%steps == 0 {
			if c.count > 0 {
				emit(k/steps, c)
			}
			c = cdp{}
		}
	}
	at := max(from, end) // all of (at, upTo] is unknown: no loop over years
	if at == upTo {
		return c
	}
	c.last = math.NaN()
	if row := at/steps + 1; row*steps <= upTo {
		if c.count > 0 {
			emit(row, c)
		}
		c = cdp{}
	}
	return c
}
