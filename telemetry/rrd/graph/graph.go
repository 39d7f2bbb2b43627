package graph

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Graph is rows of one step: value i of a line is of the time Start + i·Step. NaN is unknown.
type Graph struct {
	Title, Unit string
	Start       time.Time
	Step        time.Duration
	Lines       []Line
}

// Line is one series.
type Line struct {
	Name   string
	Values []float64
}

// Stats are of the known values; NaN where there is none.
type Stats struct{ Min, Avg, Max, Last float64 }

// Stats of a line. Last is the newest known value.
func (l Line) Stats() Stats {
	s := Stats{math.NaN(), math.NaN(), math.NaN(), math.NaN()}
	sum, n := 0.0, 0
	for _, v := range l.Values {
		if math.IsNaN(v) {
			continue
		}
		if n == 0 {
			s.Min, s.Max = v, v
		}
		s.Min, s.Max, s.Last = min(s.Min, v), max(s.Max, v), v
		sum += v
		n++
	}
	if n > 0 {
		s.Avg = sum / float64(n)
	}
	return s
}

// String is the line below a graph.
func (s Stats) String() string {
	return fmt.Sprintf("min %s  avg %s  max %s  last %s", Number(s.Min), Number(s.Avg), Number(s.Max), Number(s.Last))
}

// Number writes a value for people: four digits, or "unknown".
func Number(v float64) string {
	if math.IsNaN(v) {
		return "unknown"
	}
	if a := math.Abs(v); a >= 1e4 || a > 0 && a < 1e-3 {
		return fmt.Sprintf("%.4g", v)
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.3f", v), "0"), ".")
}

// span is the lowest and highest known value of some lines, apart from each other; ok is false where nothing is known.
func span(lines []Line) (low, high float64, ok bool) {
	for _, l := range lines {
		s := l.Stats()
		if math.IsNaN(s.Min) {
			continue
		}
		if !ok {
			low, high, ok = s.Min, s.Max, true
		}
		low, high = min(low, s.Min), max(high, s.Max)
	}
	if ok && high-low < 1e-9*max(1, math.Abs(high)) {
		low, high = low-1, high+1
	}
	return low, high, ok
}

// grid returns round values in [low, high], at most n+1 of them.
func grid(low, high float64, n int) (out []float64) {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/float64(n))))
	for _, m := range []float64{1, 2, 5, 10} {
		if (high-low)/(step*m) <= float64(n) {
			step *= m
			break
		}
	}
	for i := math.Ceil(low / step); i*step <= high; i++ {
		out = append(out, i*step)
	}
	return out
}

// end is the time of the last row.
func (g Graph) end() time.Time {
	n := 0
	for _, l := range g.Lines {
		n = max(n, len(l.Values))
	}
	return g.Start.Add(time.Duration(max(n-1, 0)) * g.Step)
}

// clock writes a time as finely as the span of the graph asks for, in UTC.
func (g Graph) clock(t time.Time) string {
	switch d := g.end().Sub(g.Start); {
	case d > 60*24*time.Hour:
		return t.UTC().Format("2006-01-02")
	case d > 24*time.Hour:
		return t.UTC().Format("01-02 15:04")
	}
	return t.UTC().Format("15:04:05")
}

// segments calls fn for each pair of known values beside each other, and once for a known value with neither, as a pair with itself.
// x is from 0 to 1, y from 0 at low to 1 at high.
func segments(values []float64, low, high float64, fn func(x0, y0, x1, y1 float64)) {
	at := func(i int) (x, y float64) {
		if len(values) > 1 {
			x = float64(i) / float64(len(values)-1)
		}
		return x, (values[i] - low) / (high - low)
	}
	for i, v := range values {
		if math.IsNaN(v) {
			continue
		}
		x, y := at(i)
		next := i+1 < len(values) && !math.IsNaN(values[i+1])
		if next {
			x1, y1 := at(i + 1)
			fn(x, y, x1, y1)
		} else if i == 0 || math.IsNaN(values[i-1]) {
			fn(x, y, x, y)
		}
	}
}
