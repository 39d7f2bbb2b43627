package account

import (
	"cmp"
	"hash/crc32"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// Point is where an agent counts by itself, at interfaces of its host. With a Machine it stands in for the access ports of that machine,
// for what comes to it, goes out from it, or both: there it sees all of it, and exactly.
type Point struct {
	Agent   string `json:"-"`
	Machine string `json:"m,omitempty"`
	In      bool   `json:"i,omitempty"`
	Out     bool   `json:"o,omitempty"`
}

// Key names the point's stream. Its agent address is the zero one, which no exporter may have.
func (p Point) Key() sflow.Key {
	return sflow.Key{SubAgent: crc32.Checksum([]byte(strings.Join([]string{p.Agent, p.Machine, strings.Join(p.ways(), "+")}, "/")), castagnoli())}
}

func (p Point) ways() (out []string) {
	if p.In {
		out = append(out, In)
	}
	if p.Out {
		out = append(out, Out)
	}
	return out
}

// Count is what a point counted in one stretch of time.
type Count struct {
	Point
	Start   time.Time // a whole minute, UTC
	Minutes uint32    // at least 1; more where nobody read the counts for a while
	Rows    []Row
	Flags   Flags
	// Also is on disk together with the rows, or neither is.
	Also []state.Pair
}

// Counted takes what a point counted; Flush writes it.
func (e *Engine) Counted(c Count) {
	v := &Interval{
		Key: c.Key(), Switch: "probe/" + c.Agent, Bucket: uint32(c.Start.Unix() / 60), Start: c.Start.UTC(), Minutes: max(c.Minutes, 1),
		Datagrams: 1, Flags: c.Flags, machine: c.Machine, ways: c.ways(), also: c.Also,
	}
	for i := range c.Rows {
		c.Rows[i].Flags |= c.Flags
	}
	v.setRows(addRows(nil, c.Rows))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.enqueue(v)
}

// Except says whose access ports do not count, and when: a host counted there by itself. From and To are as the host's clock had them.
type Except struct {
	Machine   string    `json:"m"`
	Direction string    `json:"d"`
	From      time.Time `json:"f"`
	To        time.Time `json:"t"`
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
				out = append(out, Except{info.Machine, w, h.Start, h.Start.Add(max(time.Duration(h.Minutes)*time.Minute, q.Tier.step()))})
			}
		}
	}
	slices.SortFunc(out, func(a, b Except) int {
		return cmp.Or(cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Direction, b.Direction), a.From.Compare(b.From), a.To.Compare(b.To))
	})
	n := 0
	for _, x := range out {
		if n > 0 && out[n-1].Machine == x.Machine && out[n-1].Direction == x.Direction && !x.From.After(out[n-1].To) {
			if x.To.After(out[n-1].To) {
				out[n-1].To = x.To
			}
			continue
		}
		out[n] = x
		n++
	}
	return out[:n]
}

// excepts are the exceptions of one machine and direction.
type excepts map[[2]string][]Except

func indexExcepts(xs []Except) excepts {
	out := excepts{}
	for _, x := range xs {
		k := [2]string{x.Machine, x.Direction}
		out[k] = append(out[k], x)
	}
	return out
}

// has tells whether a row of an access port does not count: its interval began at start and is step long.
func (x excepts) has(l *Label, start time.Time, step time.Duration) bool {
	return slices.ContainsFunc(x[[2]string{l.Machine, l.Direction}], func(x Except) bool { return start.Before(x.To) && start.Add(step).After(x.From) })
}
