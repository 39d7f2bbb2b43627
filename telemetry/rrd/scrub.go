package rrd

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/skerry-metal/skerry/storage/state"
)

const (
	// scrubRate is how many keys a second a scrub reads or deletes: it leaves the disk to those who serve.
	scrubRate = 1000
	scrubPage = 500 // keys of one scan: a long one would keep Badger from dropping old versions
)

// Remove hides all series that leave, at once and for good; their keys are deleted by the next scrub. It is for a tombstone of what the
// series are of, never for its absence (promise 4). It returns how many left. Errors: state.ErrFull: none left.
func (s *Store) Remove(leaves func(Def) bool) (int, error) {
	s.ticking.Lock()
	defer s.ticking.Unlock()
	s.mu.Lock()
	var units []unit
	n := 0
	for _, sr := range s.byKey {
		if !leaves(sr.def) {
			continue
		}
		n++
		gone := *sr
		gone.gone = true
		units = append(units, unit{[]state.Pair{s.recordPair(&gone)}, func() {
			sr.gone = true
			delete(s.byKey, sr.key)
			s.count(sr, -1)
			s.fresh = slices.DeleteFunc(s.fresh, func(f *series) bool { return f == sr })
		}})
	}
	s.mu.Unlock()
	if err := s.write(units); err != nil {
		return 0, fmt.Errorf("cannot remove series: %w", err)
	}
	return n, nil
}

// Scrub reads every value, counts what is damaged or out of place, and deletes what belongs to series that left. It takes its time:
// scrubRate keys a second. It repairs nothing: a ring comes round.
func (s *Store) Scrub(ctx context.Context) error {
	lim := rate.NewLimiter(scrubRate, scrubPage)
	if err := s.purge(ctx, lim); err != nil {
		return fmt.Errorf("cannot delete series that left: %w", err)
	}
	var seen Scrubbed
	for _, table := range []byte{tableBlock, tableMark, tableOpen, tableProfile, tableRow, tableSeries} {
		err := s.pages(ctx, lim, []byte{table}, func(k, v []byte) { seen.Keys++; s.scrubOne(k, v, &seen) })
		if err != nil {
			return fmt.Errorf("cannot scrub series: %w", err)
		}
	}
	seen.At = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Scrub = seen
	return nil
}

// pages calls fn for each key with prefix, a page at a time, not faster than lim.
func (s *Store) pages(ctx context.Context, lim *rate.Limiter, prefix []byte, fn func(k, v []byte)) error {
	from := prefix
	for {
		n := 0
		err := s.cfg.Raw.Scan(prefix, from, func(k, v []byte) error {
			if n == scrubPage {
				return state.ErrStop
			}
			n++
			fn(k, v)
			from = append(slices.Clone(k), 0)
			return nil
		})
		if err != nil || n == 0 {
			return err
		}
		if err := lim.WaitN(ctx, n); err != nil {
			return err
		}
	}
}

func (s *Store) scrubOne(k, v []byte, seen *Scrubbed) {
	if k[0] != tableBlock {
		if _, err := unseal(v); err != nil {
			seen.Damaged++
		}
		return
	}
	if len(k) != 8 {
		seen.Orphans++
		return
	}
	s.mu.RLock()
	id := ID(binary.BigEndian.Uint32(k[2:]))
	g, i := int(id/groupSeries), int(id%groupSeries)
	var p *profile
	if g < len(s.groups) && s.groups[g] != nil && i < len(s.groups[g].series) && s.groups[g].series[i] != nil {
		p = s.groups[g].p
	}
	s.mu.RUnlock()
	if p == nil || int(k[1]) >= len(p.Archives) {
		seen.Orphans++
		return
	}
	a := p.Archives[k[1]]
	var b block
	if err := b.decode(a, v); err != nil || b.start%blockRows != 0 || b.start/blockRows%a.blockSlots() != int64(binary.BigEndian.Uint16(k[6:])) {
		seen.Damaged++
	}
}

// purge deletes the keys of series that left, the record last: a crash in between goes on at the next scrub. Then the place is free.
func (s *Store) purge(ctx context.Context, lim *rate.Limiter) error {
	s.mu.RLock()
	var gone []*series
	for _, g := range s.groups {
		if g != nil {
			for _, sr := range g.series {
				if sr != nil && sr.gone && !sr.lost {
					gone = append(gone, sr)
				}
			}
		}
	}
	s.mu.RUnlock()
	for _, sr := range gone {
		for a := range maxArchives {
			var keys []state.Pair
			err := s.pages(ctx, lim, keyBlock(a, uint32(sr.id), 0)[:6], func(k, _ []byte) {
				keys = append(keys, state.Pair{Key: slices.Clone(k)})
			})
			if err != nil {
				return err
			}
			for page := range slices.Chunk(keys, scrubPage) {
				if err := s.purgeWrite(page, nil); err != nil {
					return err
				}
			}
		}
		g := s.groups[sr.id/groupSeries]
		err := s.purgeWrite([]state.Pair{{Key: keySeries(uint32(sr.id))}}, func() { g.series[sr.id%groupSeries] = nil })
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) purgeWrite(pairs []state.Pair, done func()) error {
	s.ticking.Lock() // a close under way may still write a block of a series that leaves
	defer s.ticking.Unlock()
	return s.write([]unit{{pairs, done}})
}
