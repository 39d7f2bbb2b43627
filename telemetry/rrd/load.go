package rrd

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"

	"github.com/skerry-metal/skerry/storage/state"
)

// load reads profiles, series, and what was open of each group.
func (s *Store) load() error {
	if err := s.checkSchema(); err != nil {
		return err
	}
	byID, err := s.loadProfiles()
	if err != nil {
		return err
	}
	if err := s.loadSeries(byID); err != nil {
		return err
	}
	for _, g := range s.groups {
		if g != nil {
			if err := s.loadGroup(g); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) checkSchema() error {
	b, err := s.cfg.Raw.Get(keySchema())
	if errors.Is(err, state.ErrAbsent) {
		return s.cfg.Raw.Write([]state.Pair{{Key: keySchema(), Value: sealTick(schema)}})
	}
	if err != nil {
		return err
	}
	v, err := unsealTick(b)
	if err != nil {
		s.damaged.Add(1)
		return s.cfg.Raw.Write([]state.Pair{{Key: keySchema(), Value: sealTick(schema)}})
	}
	if v > schema {
		return fmt.Errorf("%w: it has schema %d, this release reads up to %d", ErrSchema, v, schema)
	}
	return nil
}

// loadProfiles finds each profile of the configuration among the stored ones, or gives it the next number: a profile that a release
// changes is another one, and the series of before keep theirs.
func (s *Store) loadProfiles() (map[uint16]*profile, error) {
	byID, next := map[uint16]*profile{}, uint16(0)
	err := s.cfg.Raw.Scan([]byte{tableProfile}, nil, func(k, v []byte) error {
		if len(k) != 3 {
			return nil
		}
		p := &profile{id: binary.BigEndian.Uint16(k[1:]), stored: true}
		next = max(next, p.id+1)
		b, err := unseal(v)
		if err != nil || json.Unmarshal(b, &p.Profile) != nil || p.check() != nil {
			s.damaged.Add(1)
			return nil
		}
		byID[p.id] = p
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range s.cfg.Profiles {
		if err := p.check(); err != nil {
			return nil, err
		}
		for _, have := range byID {
			if reflect.DeepEqual(have.Profile, p) {
				s.profiles[p.Name] = have
			}
		}
		if s.profiles[p.Name] == nil {
			n := &profile{id: next, Profile: p}
			byID[next], s.profiles[p.Name] = n, n
			next++
		}
	}
	return byID, nil
}

// loadSeries reads the series of each group; a group's profile is the one that its series name.
func (s *Store) loadSeries(byID map[uint16]*profile) error {
	return s.cfg.Raw.Scan([]byte{tableSeries}, nil, func(k, v []byte) error {
		if len(k) != 5 {
			return nil
		}
		id := ID(binary.BigEndian.Uint32(k[1:]))
		if id >= hardSeries*2 {
			s.damaged.Add(1)
			return nil
		}
		var r struct {
			record
			Profile uint16 `json:"profile"`
		}
		b, err := unseal(v)
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		p := byID[r.Profile]
		sr := &series{id: id, def: r.Def, born: r.Born, gone: r.Gone, lost: err != nil || p == nil || r.Def.check() != nil}
		gi := int(id / groupSeries)
		for len(s.groups) <= gi {
			s.groups = append(s.groups, nil)
		}
		if g := s.groups[gi]; g == nil && p != nil {
			s.groups[gi] = newGroup(uint16(gi), p)
		} else if g == nil || p != nil && g.p != p {
			sr.lost = true
		}
		if g := s.groups[gi]; g != nil {
			g.grow(int(id%groupSeries) + 1)
			g.series[id%groupSeries] = sr
		}
		if sr.lost {
			s.damaged.Add(1)
			return nil
		}
		sr.beat = heartbeat(sr.def, p)
		if !sr.gone {
			s.add(sr)
		}
		return nil
	})
}

func (s *Store) mark(m byte, g *group) (int64, bool) {
	b, err := s.cfg.Raw.Get(keyMark(m, g.id))
	if err != nil {
		return 0, false
	}
	t, err := unsealTick(b)
	if err != nil {
		s.damaged.Add(1)
	}
	return t, err == nil
}

// loadGroup reads a group's rows and open points. Samples go on from its last tick.
func (s *Store) loadGroup(g *group) error {
	newest := int64(0)
	err := s.cfg.Raw.Scan(keyRow(g.id, 0)[:3], nil, func(k, v []byte) error {
		tick, values, err := decodeRow(v)
		if err != nil || len(k) != 4 || int64(k[3]) != tick%slots {
			s.damaged.Add(1)
			return nil
		}
		newest = max(newest, tick)
		g.rows[tick%slots] = row{tick: tick, values: values}
		return nil
	})
	if err != nil {
		return err
	}
	tick, ok := s.mark('t', g)
	if !ok {
		tick = newest
	}
	closed, ok := s.mark('c', g)
	if !ok || closed > tick || tick-closed > slots {
		closed = boundary(tick - 2) // a damaged mark: what was open is lost
	}
	g.marked = ok
	g.tick, g.acked, g.closed = tick, tick, closed
	for a := range g.open {
		for part := 0; part*partSeries < len(g.series); part++ {
			s.loadOpen(g, a, part)
		}
	}
	step := int64(g.p.Step)
	for i, sr := range g.series {
		if sr == nil {
			continue
		}
		for r := range g.rows {
			if w := &g.rows[r]; i < len(w.values) && (w.tick < sr.born || sr.gone || sr.lost) {
				w.values[i] = math.NaN()
			}
		}
		for a := range g.open {
			if sr.born > g.closed {
				g.open[a][i] = cdp{}
			}
		}
		sr.pdp.begin(max(tick, sr.born-1)*step*micro, step)
	}
	if t := stamp(g, g.acked); t.After(s.counts.LastTick) {
		s.counts.LastTick = t
	}
	return nil
}

func (s *Store) loadOpen(g *group, a, part int) {
	b, err := s.cfg.Raw.Get(keyOpen(g.id, a+1, part))
	if errors.Is(err, state.ErrAbsent) {
		return
	}
	var tick int64
	var open []cdp
	if err == nil {
		tick, open, err = decodeOpen(b)
	}
	if err != nil || tick != g.closed {
		s.damaged.Add(1)
		return
	}
	copy(g.open[a][part*partSeries:], open)
}
