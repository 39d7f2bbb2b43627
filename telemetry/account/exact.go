package account

import (
	"time"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/account/point"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

type (
	Point  = point.Point  // where an agent counts by itself
	Except = point.Except // an access port that does not count then
)

// Count is what a point counted in one stretch of time.
type Count struct {
	Point
	Start         time.Time // a whole minute, UTC
	Minutes       uint32    // at least 1; more where nobody read the counts for a while
	Rows          []Row
	Flags         Flags
	Samples, Lost uint64       // frames that were looked at, and that should have been, where not all are
	Also          []state.Pair // on disk together with the rows, or neither is
}

// Counted takes what a point counted, one stretch after the other; Flush writes all of it together.
func (e *Engine) Counted(stretches ...Count) {
	var vs []*Interval
	for _, c := range stretches {
		vs = append(vs, &Interval{
			Key: c.Key(), Switch: "probe/" + c.Agent, Bucket: uint32(c.Start.Unix() / 60), Start: c.Start.UTC(), Minutes: max(c.Minutes, 1),
			Datagrams: 1, Samples: c.Samples, SamplesLost: c.Lost, Flags: c.Flags, machine: c.Machine, ways: c.Ways(), also: c.Also, before: vs,
		})
		vs[len(vs)-1].setRows(addRows(nil, c.Rows))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.enqueue(vs[len(vs)-1])
}

// Points says what of the access ports does not count, as hosts counted there by themselves. Of hours it takes those that a host counted at
// least half of; it removes the others from take. What would overlap in part is given once, by the host: never twice.
func Points(q Query, shares []Share, take map[string]map[ID]bool) []Except {
	infos := map[sflow.Key]StreamInfo{}
	for _, s := range shares {
		for _, i := range s.Streams {
			infos[i.Key] = i
		}
	}
	var out []Except
	for _, s := range shares {
		for i := range s.Headers {
			h := &s.Headers[i]
			info := infos[h.Key]
			if info.Machine == "" || !take[s.Agent][h.ID] {
				continue
			}
			if q.Tier == Hours && h.Minutes < 30 {
				delete(take[s.Agent], h.ID)
				continue
			}
			for _, w := range info.Ways {
				out = append(out, Except{Machine: info.Machine, Direction: w, From: h.Start, To: h.Start.Add(max(time.Duration(h.Minutes)*time.Minute, q.Tier.step()))})
			}
		}
	}
	return point.Join(out)
}
