package account

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// liveLeast is the least time that a rate is of: the open interval serves from then on, and until then the one before it, which is still
// open (grace).
const liveLeast = 10 * time.Second

// Live is what one exporter's samples stand for just now.
type Live struct {
	sflow.Key
	Switch      string
	Seconds     float64 // that the rows are of: 10 to 60
	Datagrams   uint64
	Lost        uint64 // datagrams
	Samples     uint64 // flow samples received, of every port
	SamplesLost uint64 // on the way, and by the exporter itself
	Flags       Flags
	Rows        []LiveRow
}

// LiveRow is one figure of it. Scope is empty.
type LiveRow struct {
	Label
	Port string // as intent has it, or its ifIndex; empty: counted by address
	Sums
}

// Live returns what is counted just now, by exporter. An exporter that was not heard for a minute is not in it.
func (e *Engine) Live(now time.Time) (out []Live) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, st := range e.streams {
		if st == nil {
			continue
		}
		var o *open
		for _, c := range st.open {
			if c.seconds(now) >= liveLeast.Seconds() && (o == nil || c.start.After(o.start)) {
				o = c
			}
		}
		if o != nil {
			out = append(out, o.live(st, now))
		}
	}
	return out
}

// seconds is how long an interval was heard by now.
func (o *open) seconds(now time.Time) float64 {
	return min(now.Sub(o.since), o.start.Add(sflow.Bucket).Sub(o.since)).Seconds()
}

// live is what an open interval has by now.
func (o *open) live(st *streamState, now time.Time) Live {
	l := Live{
		Key: st.key, Switch: o.name, Seconds: o.seconds(now),
		Datagrams: o.grams, Lost: uint64(max(o.lost, 0)), Samples: o.samples, Flags: o.flags,
	}
	for i := range o.sources {
		l.SamplesLost += uint64(max(o.sources[i].lost, 0)) + o.sources[i].drops
	}
	type key struct {
		Label
		port string
	}
	rows := map[key]*Sums{}
	for c, n := range o.cells {
		k := key{Label: c.label()}
		k.Scope, k.Subnet = "", ""
		if c.port != nil {
			if k.port = c.port.Name; k.port == "" {
				k.port = fmt.Sprint(c.index)
			}
		}
		if rows[k] == nil {
			rows[k] = &Sums{}
		}
		rows[k].Add(o.estimate(c, n))
	}
	for k, s := range rows {
		l.Rows = append(l.Rows, LiveRow{k.Label, k.port, *s})
	}
	slices.SortFunc(l.Rows, func(a, b LiveRow) int { return cmp.Or(compareLabels(a.Label, b.Label), cmp.Compare(a.Port, b.Port)) })
	l.Rows = l.Rows[:min(len(l.Rows), maxRows)]
	return l
}

// MergeLive takes each exporter from the agent that heard the most of it: what several heard is not added up. An agent names itself by key.
func MergeLive(shares map[string][]Live) (out []Live) {
	best := map[sflow.Key]int{}
	for _, agent := range slices.Sorted(maps.Keys(shares)) {
		for _, l := range shares[agent] {
			i, have := best[l.Key]
			switch {
			case !have:
				best[l.Key] = len(out)
				out = append(out, l)
			case l.better(&out[i]):
				out[i] = l
			}
		}
	}
	return out
}

// better tells whether l tells more than o: a part of its datagrams that is larger by a thousandth, else more of them.
func (l *Live) better(o *Live) bool {
	whole := func(l *Live) float64 {
		return math.Round(1000 * float64(l.Datagrams) / float64(max(l.Datagrams+l.Lost, 1)))
	}
	return cmp.Or(cmp.Compare(whole(l), whole(o)), cmp.Compare(l.Datagrams, o.Datagrams)) > 0
}

// Rate is one line of what is most just now.
type Rate struct {
	Project, Network, Machine, Switch, Port, Direction string

	Bytes, Bytes95, Packets, Packets95 float64 // a second
	Samples                            uint64
	Low                                bool    // too few samples for more than a rough bound
	Seconds                            float64 // that it is of, the least of its exporters
	Coverage                           float64 // of the samples that the exporters took
	Flags                              Flags
}

// Top sums what is counted just now by machine, network or port, of some projects (nil: all, and what is nobody's), the most octets first.
func Top(lives []Live, by string, projects []string) []Rate {
	type sum struct {
		Rate
		of       Sums
		had, all float64 // samples
	}
	sums := map[Rate]*sum{}
	for i := range lives {
		l := &lives[i]
		for _, r := range l.Rows {
			if l.Seconds <= 0 || projects != nil && !slices.Contains(projects, r.Project) {
				continue
			}
			k := Rate{Project: r.Project, Direction: r.Direction}
			switch by {
			case "network":
				k.Network = r.Network
			case "port":
				k.Switch, k.Port, k.Machine = l.Switch, r.Port, r.Machine
			default:
				k.Machine = r.Machine
			}
			s := sums[k]
			if s == nil {
				s = &sum{Rate: k}
				s.Seconds = l.Seconds
				sums[k] = s
			}
			s.Seconds = min(s.Seconds, l.Seconds)
			s.Rate.Bytes += float64(r.Bytes) / l.Seconds
			s.Rate.Packets += float64(r.Packets) / l.Seconds
			s.of.Add(Sums{Samples: r.Samples, Var: r.Var / (l.Seconds * l.Seconds), PacketVar: r.PacketVar / (l.Seconds * l.Seconds), Flags: r.Flags})
			s.had += float64(l.Samples)
			s.all += float64(l.Samples + l.SamplesLost)
		}
	}
	out := make([]Rate, 0, len(sums))
	for _, s := range sums {
		s.of.Bytes, s.of.Packets = round(s.Rate.Bytes), round(s.Rate.Packets)
		s.Bytes95, s.Packets95, s.Low = s.of.Bound()
		s.Samples, s.Rate.Flags = s.of.Samples, s.of.Flags
		if s.all > 0 {
			s.Coverage = s.had / s.all
		}
		out = append(out, s.Rate)
	}
	slices.SortFunc(out, func(a, b Rate) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Project, b.Project), cmp.Compare(a.Network, b.Network), cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Switch, b.Switch),
			cmp.Compare(a.Port, b.Port), cmp.Compare(a.Direction, b.Direction))
	})
	return out
}
