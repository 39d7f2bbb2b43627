package rrd

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Query asks for rows of series.
type Query struct {
	Match    Match
	From, To time.Time // rows whose time lies in (From, To]
	CF       CF        // empty: AVERAGE
	// MaxPoints is how many rows are wanted at most; zero takes 500. Rows are made coarser by CF, points are never picked.
	MaxPoints int
	// See leaves out series that the asker may not see; nil: none.
	See func(Def) bool
}

// The bounds of a query.
const (
	DefaultPoints = 500
	MostPoints    = 5_000
	MostSeries    = 1_000
	MostValues    = 200_000
)

// Series is one series of an answer; NaN is unknown.
type Series struct {
	Def    Def
	Values []float64
}

// Rows is the answer: row i of each series covers (Start + (i-1)·Step, Start + i·Step].
type Rows struct {
	CF     CF
	Start  time.Time
	Step   time.Duration
	Count  int
	Series []Series
}

// Info is what is known of a series without its history.
type Info struct {
	Def  Def
	Last float64   // the newest point, NaN when unknown
	At   time.Time // its time
	key  string
}

// List returns the series that match, in order of their keys.
func (s *Store) List(m Match) []Info {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Info
	matches := m.each()
	for _, sr := range s.byKey {
		if !matches(sr.def) {
			continue
		}
		g := s.groups[sr.id/groupSeries]
		i := Info{key: sr.key, Def: sr.def, Last: math.NaN(), At: stamp(g, g.tick)}
		for k := g.tick; k > g.tick-3; k-- { // a gauge that is polled once a step completes its row in the step after
			if v := g.value(k, int(sr.id%groupSeries)); !math.IsNaN(v) {
				i.Last, i.At = v, stamp(g, k)
				break
			}
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.key, b.key) })
	return out
}

// snapshot is what a query reads of one series while nobody changes it.
type snapshot struct {
	id     ID
	key    string
	def    Def
	p      *profile
	closed int64
	tick   int64
	open   []cdp     // by archive above the first
	points []float64 // of the ticks after closed
}

// Query answers q: all series with rows of one length. It reads from the coarsest archive not coarser than wanted that reaches back far
// enough. Errors: ErrQuery says what to narrow.
func (s *Store) Query(q Query) (Rows, error) {
	if q.CF == "" {
		q.CF = Average
	}
	if q.MaxPoints == 0 {
		q.MaxPoints = DefaultPoints
	}
	bad := func(format string, a ...any) (Rows, error) {
		return Rows{}, fmt.Errorf("cannot answer: %w: %s", ErrQuery, fmt.Sprintf(format, a...))
	}
	from, to := q.From.Unix(), q.To.Unix()
	switch {
	case !slices.Contains([]CF{Average, Min, Max, Last}, q.CF):
		return bad("cf is AVERAGE, MIN, MAX or LAST")
	case q.MaxPoints < 1 || q.MaxPoints > MostPoints:
		return bad("max_points is 1 to %d", MostPoints)
	case from < 0 || to <= from:
		return bad("from is before to")
	}
	snaps := s.snapshots(q)
	if len(snaps) > MostSeries {
		return bad("%d series match, at most %d: narrow match", len(snaps), MostSeries)
	}
	out := Rows{CF: q.CF}
	if len(snaps) == 0 {
		return out, nil
	}
	wanted := (to - from + int64(q.MaxPoints) - 1) / int64(q.MaxPoints)
	step := int64(1)
	for _, sn := range snaps {
		n := sn.choose(from, wanted)
		if fine, a := sn.finest(n, q.CF); !a.keeps(q.CF) || fine != n && !sn.reaches(fine, from) {
			return bad("%s is not kept so far back: ask for AVERAGE or MAX, or for a shorter time", q.CF)
		}
		step = lcm(step, sn.resolution(n))
	}
	step *= max(1, (wanted+step-1)/step)
	first, last := from/step+1, (to+step-1)/step
	out.Start, out.Step, out.Count = time.Unix(first*step, 0), time.Duration(step)*time.Second, int(last-first+1)
	if n := out.Count * len(snaps); n > MostValues {
		return bad("%d values, at most %d: narrow match or lower max_points", n, MostValues)
	}
	for _, sn := range snaps {
		out.Series = append(out.Series, Series{sn.def, s.rows(sn, q.CF, step, first, last)})
	}
	return out, nil
}

func (s *Store) snapshots(q Query) []snapshot {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []snapshot
	matches := q.Match.each()
	for _, sr := range s.byKey {
		if !matches(sr.def) || q.See != nil && !q.See(sr.def) {
			continue
		}
		g, i := s.groups[sr.id/groupSeries], int(sr.id%groupSeries)
		sn := snapshot{id: sr.id, key: sr.key, def: sr.def, p: g.p, closed: g.closed, tick: g.tick}
		for k := g.closed + 1; k <= min(g.tick, g.closed+slots); k++ {
			sn.points = append(sn.points, g.value(k, i))
		}
		for a := range g.open {
			sn.open = append(sn.open, g.open[a][i])
		}
		out = append(out, sn)
	}
	slices.SortFunc(out, func(a, b snapshot) int { return strings.Compare(a.key, b.key) })
	return out
}

// resolution of archive n in seconds.
func (sn *snapshot) resolution(n int) int64 { return int64(sn.p.Step * sn.p.Archives[n].Steps) }

// choose returns the coarsest archive not coarser than wanted seconds that reaches back to from, else the finest that does, else the
// one that reaches furthest.
func (sn *snapshot) choose(from, wanted int64) int {
	best, furthest := -1, 0
	for n, a := range sn.p.Archives {
		res := sn.resolution(n)
		if res*int64(a.Rows) > sn.resolution(furthest)*int64(sn.p.Archives[furthest].Rows) {
			furthest = n
		}
		if sn.reaches(n, from) && (best < 0 || res <= wanted) {
			best = n
		}
	}
	if best < 0 {
		return furthest
	}
	return best
}

// reaches tells whether archive n has rows of the time from.
func (sn *snapshot) reaches(n int, from int64) bool {
	return from >= sn.tick*int64(sn.p.Step)-sn.resolution(n)*int64(sn.p.Archives[n].Rows)
}

// lcm is the least common multiple: rows of all archives that are read fit into a row of it.
func lcm(a, b int64) int64 {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}

// rows returns the rows first to last of step seconds of one series.
func (s *Store) rows(sn snapshot, cf CF, step, first, last int64) []float64 {
	n := 0
	for i := range sn.p.Archives { // the coarsest whose rows make up step: series of several profiles may be in one answer
		if res := sn.resolution(i); step%res == 0 && i <= sn.choose((first-1)*step, step) {
			n = i
		}
	}
	a := sn.p.Archives[n]
	n, a = sn.finest(n, cf)
	res := sn.resolution(n)
	per := step / res
	points := make([]cdp, (last-first+1)*per) // row (first-1)*per+1 of the archive is the first
	base := (first-1)*per + 1
	newest := sn.tick / int64(a.Steps)
	oldest := newest - int64(a.Rows) + 1
	put := func(row int64, c cdp) {
		if i := row - base; i >= 0 && i < int64(len(points)) && row >= oldest {
			points[i] = c
		}
	}
	closed := sn.closed / int64(a.Steps)
	lastRow := min(closed, base+int64(len(points))-1)
	var k block
	for b := max(base, oldest, 0) / blockRows; b*blockRows <= lastRow; b++ {
		if s.block(&k, a, n, sn.id, b*blockRows) {
			for r := range k.rows {
				if row := b*blockRows + int64(r); row <= closed {
					put(row, k.rows[r])
				}
			}
		}
	}
	var open cdp
	if n > 0 {
		open = sn.open[n-1]
	}
	advance(open, int64(a.Steps), sn.closed, sn.tick, sn.closed+int64(len(sn.points)), func(tick int64) float64 {
		return sn.points[tick-sn.closed-1]
	}, put)
	return consolidate(points, a, cf, int(per))
}

// finest looks for an archive not coarser than n that keeps cf: the first one does, whatever it is.
func (sn *snapshot) finest(n int, cf CF) (int, Archive) {
	for ; n > 0; n-- {
		if a := sn.p.Archives[n]; a.keeps(cf) {
			return n, a
		}
	}
	return 0, sn.p.Archives[0]
}

func consolidate(points []cdp, a Archive, cf CF, per int) []float64 {
	out := make([]float64, 0, len(points)/per)
	for i := 0; i+per <= len(points); i += per {
		c := points[i]
		if c.count == 0 {
			c.last = math.NaN()
		}
		for _, p := range points[i+1 : i+per] {
			c.join(p)
		}
		out = append(out, c.value(cf, a.Steps*per, a.XFF))
	}
	return out
}
