package rrd

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
)

const (
	// batchOctets is where a transaction ends: Badger takes 1.2 MB with this profile, and the largest unit is below 0.5.
	batchOctets = 700 << 10
	// closeTicks is over how many ticks a close is spread; blockRows less what its rows wait for late samples.
	closeTicks = 50
)

// unit is pairs that belong into one transaction; done is called when they are on disk.
type unit struct {
	pairs []state.Pair
	done  func()
}

func (u unit) octets() int {
	n := 0
	for _, p := range u.pairs {
		n += len(p.Key) + len(p.Value) + 64
	}
	return n
}

// stamp is the time of a tick.
func stamp(g *group, tick int64) time.Time { return time.Unix(tick*int64(g.p.Step), 0) }

// Tick writes the points up to the last step of each profile that ended a whole step ago, with one fsync, and is to be called at least
// once a step. What is due of closing groups goes along; where it does not fit, more transactions follow. When Tick returns nil all
// points before are on stable storage. Errors: ErrClock, state.ErrFull: this tick is not written, and nothing before it is lost.
func (s *Store) Tick(now time.Time) error {
	s.ticking.Lock()
	defer s.ticking.Unlock()
	begun := time.Now()
	s.mu.Lock()
	fresh := s.fresh
	units, ticks, clock := s.due(now)
	s.fresh = nil
	s.mu.Unlock()
	err := s.write(units)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || ticks == 0 {
		s.fresh = append(fresh, s.fresh...)
	}
	switch {
	case err != nil && isFull(err):
		s.counts.Dropped["full"] += ticks
	case err != nil:
		s.counts.Dropped["error"] += ticks
	case clock:
		s.counts.Dropped["clock"]++
		err = ErrClock
	case ticks > 0:
		s.counts.CommitSeconds = time.Since(begun).Seconds()
	}
	if err != nil {
		return fmt.Errorf("cannot write tick of %s: %w", now.UTC().Format(time.RFC3339), err)
	}
	return nil
}

// due collects what is to be written at now. It tells how many groups have a tick, and whether the clock is behind one.
func (s *Store) due(now time.Time) (units []unit, ticks int, clock bool) {
	var rows unit
	ended := map[*group]bool{}
	for _, g := range s.groups {
		if g == nil {
			continue
		}
		k := now.Unix()/int64(g.p.Step) - 1
		if k < g.tick {
			clock = true
		}
		if k <= g.tick {
			continue
		}
		ticks++
		g.expire(k - 2)
		if k-g.closed > slots-3 { // a gap: what was open ends first, for its rows are in the way
			g.tick = max(g.tick, k-1)
			units = append(units, s.closeUnits(g, len(g.series))...)
			ended[g] = true
		}
		g.tick = k
		rows.pairs = append(rows.pairs, g.rowPairs(k)...)
		done := g.written(k)
		before := rows.done
		rows.done = func() {
			if before != nil {
				before()
			}
			done()
			if t := stamp(g, k); t.After(s.counts.LastTick) {
				s.counts.LastTick = t
			}
		}
	}
	if ticks == 0 {
		return nil, 0, clock
	}
	units = append(append(s.freshUnits(), units...), rows)
	for _, g := range s.groups {
		if g != nil && !ended[g] {
			units = append(units, s.closeUnits(g, (len(g.series)+closeTicks-1)/closeTicks)...)
		}
	}
	return units, ticks, clock
}

// expire ends what was open of rows up to tick k, which are written for the last time: a later reading is beyond any heartbeat.
func (g *group) expire(k int64) {
	step := int64(g.p.Step)
	for i, sr := range g.series {
		if sr == nil || sr.gone || sr.lost || math.IsNaN(sr.pdp.val) {
			continue
		}
		if open := sr.pdp.last/micro/step + 1; open <= k {
			if v := sr.pdp.expire(step); !math.IsNaN(v) && !math.IsInf(v, 0) && open >= sr.born {
				g.set(open, i, v)
			}
		}
	}
}

// rowPairs are the rows up to tick k that are not on disk as they are, and the mark.
func (g *group) rowPairs(k int64) (pairs []state.Pair) {
	for i := range g.rows {
		if r := &g.rows[i]; r.tick <= k && r.tick > g.closed && r.gen != r.clean {
			pairs = append(pairs, state.Pair{Key: keyRow(g.id, r.tick), Value: encodeRow(r.tick, r.values)})
		}
	}
	if !g.marked {
		pairs = append(pairs, state.Pair{Key: keyMark('c', g.id), Value: sealTick(g.closed)})
	}
	return append(pairs, state.Pair{Key: keyMark('t', g.id), Value: sealTick(k)})
}

// written returns what is to be done when rowPairs are on disk; a row that was changed meanwhile stays to be written.
func (g *group) written(k int64) func() {
	var gens [slots]uint64
	for i := range g.rows {
		if g.rows[i].tick <= k {
			gens[i] = g.rows[i].gen
		}
	}
	return func() {
		g.acked, g.marked = k, true
		for i, gen := range gens {
			g.rows[i].clean = max(g.rows[i].clean, gen)
		}
	}
}

// freshUnits are profiles and series that are not on disk yet.
func (s *Store) freshUnits() (units []unit) {
	for _, p := range s.profiles {
		if b, err := marshal(p.Profile); err == nil && !p.stored {
			units = append(units, unit{[]state.Pair{{Key: keyProfile(p.id), Value: b}}, func() { p.stored = true }})
		}
	}
	for some := range slices.Chunk(s.fresh, 256) {
		var u unit
		for _, sr := range some {
			u.pairs = append(u.pairs, s.recordPair(sr))
		}
		units = append(units, u)
	}
	return units
}

func (s *Store) recordPair(sr *series) state.Pair {
	b, err := marshal(struct {
		record
		Profile uint16 `json:"profile"`
	}{record{sr.def, sr.born, sr.gone}, s.groups[sr.id/groupSeries].p.id})
	if err != nil {
		panic(err) // a checked definition has nothing that JSON cannot hold
	}
	return state.Pair{Key: keySeries(uint32(sr.id)), Value: b}
}

// write writes units in order, as many to a transaction as fit.
func (s *Store) write(units []unit) error {
	for len(units) > 0 {
		var batch []state.Pair
		n, size := 0, 0
		for n < len(units) && (n == 0 || size+units[n].octets() <= batchOctets) {
			size += units[n].octets()
			batch = append(batch, units[n].pairs...)
			n++
		}
		if err := s.cfg.Raw.Write(batch); err != nil {
			return err
		}
		s.mu.Lock()
		for _, u := range units[:n] {
			if u.done != nil {
				u.done()
			}
		}
		s.mu.Unlock()
		units = units[n:]
	}
	return nil
}

// closing is a close under way: the open points after tick to, of the places before next.
type closing struct {
	to   int64
	next int
	open [][]cdp
}

// closeUnits goes on with closing a group by n places: it moves their points up to a boundary into blocks, which may be written again
// after a crash, and last the open points and the mark in one transaction.
func (s *Store) closeUnits(g *group, n int) (units []unit) {
	if g.closing == nil {
		to := boundary(g.tick - 2) // later rows may still be patched
		if to <= g.closed {
			return nil
		}
		g.closing = &closing{to: to, open: make([][]cdp, len(g.open))}
	}
	c := g.closing
	if n == len(g.series) && c.to < boundary(g.tick-2) { // a gap came in the middle of a close: all of it again, further
		*c = closing{to: boundary(g.tick - 2), open: make([][]cdp, len(g.open))}
	}
	for a := range c.open {
		for len(c.open[a]) < len(g.series) {
			c.open[a] = append(c.open[a], cdp{})
		}
	}
	end := min(c.next+n, len(g.series))
	const few = 64 // places of a unit: 64 series times 3 archives times 1.5 kB
	for from := c.next; from < end; from += few {
		upTo := min(from+few, end)
		u := unit{done: func() { c.next = upTo }}
		for i := from; i < upTo; i++ {
			u.pairs = append(u.pairs, s.closeSeries(g, c, i)...)
		}
		units = append(units, u)
	}
	if end == len(g.series) {
		units = append(units, g.closeMark(c))
	}
	return units
}

// closeMark is the end of a close.
func (g *group) closeMark(c *closing) unit {
	u := unit{done: func() {
		g.open, g.closed, g.closing = c.open, c.to, nil
		g.grow(len(g.series))
	}}
	for a, open := range c.open {
		for part := 0; part*partSeries < len(open); part++ {
			u.pairs = append(u.pairs, state.Pair{
				Key: keyOpen(g.id, a+1, part), Value: encodeOpen(c.to, open[part*partSeries:min((part+1)*partSeries, len(open))]),
			})
		}
	}
	u.pairs = append(u.pairs, state.Pair{Key: keyMark('c', g.id), Value: sealTick(c.to)})
	return u
}

// closeSeries returns the blocks of the series in place i that a close changes.
func (s *Store) closeSeries(g *group, c *closing, i int) (pairs []state.Pair) {
	sr := g.series[i]
	if sr == nil || sr.gone || sr.lost {
		return nil
	}
	value := func(tick int64) float64 { return g.value(tick, i) }
	k := &s.scratch
	for n, a := range g.p.Archives {
		begun := false
		flush := func() {
			if begun {
				pairs = append(pairs, state.Pair{Key: keyBlock(n, uint32(sr.id), k.start/blockRows%a.blockSlots()), Value: k.encode(a)})
			}
		}
		emit := func(row int64, p cdp) {
			if start := row / blockRows * blockRows; !begun || k.start != start {
				flush()
				begun = true
				if start*int64(a.Steps) > g.closed || !s.block(k, a, n, sr.id, start) { // all its rows are of this close, or there is none
					*k = block{start: start}
				}
			}
			k.rows[row%blockRows] = p
		}
		var open cdp
		if n > 0 {
			open = g.open[n-1][i]
		}
		open = advance(open, int64(a.Steps), g.closed, c.to, g.closed+slots, value, emit)
		if n > 0 {
			c.open[n-1][i] = open
		}
		flush()
	}
	return pairs
}

// block reads the block of rows that begin with start into k; false: there is none, or it is damaged.
func (s *Store) block(k *block, a Archive, n int, id ID, start int64) bool {
	key := keyBlock(n, uint32(id), start/blockRows%a.blockSlots())
	b, err := s.cfg.Raw.Get(key)
	if errors.Is(err, state.ErrAbsent) {
		return false
	}
	if err == nil {
		err = k.decode(a, b)
	}
	if err != nil {
		s.damaged.Add(1)
		s.cfg.Log.Warn("series: a block is damaged, its rows are unknown", "err", damaged(key, err))
		return false
	}
	return k.start == start // else it is of the turn before
}
