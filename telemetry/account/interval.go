package account

import (
	"cmp"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// Directions and scopes of a row.
const (
	In, Out         = "in", "out"         // to the machine, from the machine
	Inside, Outside = "inside", "outside" // the peer is of the same project, or not
)

// Label is what a row is of. Empty fields: unknown, or nobody's.
type Label struct {
	Project   string `json:"project,omitempty"`
	Network   string `json:"network,omitempty"`
	Subnet    string `json:"subnet,omitempty"`
	Machine   string `json:"machine,omitempty"`
	Direction string `json:"direction,omitempty"`
	Scope     string `json:"scope,omitempty"`
}

// Row is one figure of an interval.
type Row struct {
	Label
	Sums
}

// Interval is what one agent heard of one stream in one interval of the exporter's own uptime.
type Interval struct {
	sflow.Key
	Switch      string
	Bucket      uint32    // minute or hour of the exporter's uptime; of the wall with FlagClock
	Start       time.Time // by this agent's clock
	SeqFrom     uint32    // datagrams, both inclusive, modulo 2^32
	SeqTo       uint32
	Minutes     uint32 // intervals of a minute that are in it
	Datagrams   uint64
	Lost        uint64 // datagrams
	Samples     uint64 // flow samples received, of every port
	SamplesLost uint64
	AgentDrops  uint64 // samples that the exporter lost itself
	Flags       Flags
	Rows        []Row // sorted by label

	// Of a Point, until it is written: what its stream stands in for, and what is written with it: pairs, and intervals before it.
	machine string
	ways    []string
	also    []state.Pair
	before  []*Interval
}

// add adds what a later interval of the same stream and epoch holds.
func (v *Interval) add(o *Interval) {
	if int32(o.SeqTo-v.SeqTo) > 0 {
		v.SeqTo = o.SeqTo
	}
	if int32(v.SeqFrom-o.SeqFrom) > 0 {
		v.SeqFrom = o.SeqFrom
	}
	v.Minutes += o.Minutes
	v.Datagrams += o.Datagrams
	v.Lost += o.Lost
	v.Samples += o.Samples
	v.SamplesLost += o.SamplesLost
	v.AgentDrops += o.AgentDrops
	v.Flags |= o.Flags
	v.setRows(addRows(v.Rows, o.Rows))
}

func (v *Interval) setRows(rows []Row) {
	if len(rows) > maxRows {
		rows = rows[:maxRows]
		v.Flags |= FlagTruncated
	}
	v.Rows = rows
}

// maxRows bounds the rows of one interval, so that a minute and its hour fit into one transaction.
const maxRows = 4096

// addRows adds rows that are sorted by label, into a new slice.
func addRows(a, b []Row) []Row {
	out := append(slices.Clone(a), b...)
	slices.SortStableFunc(out, func(x, y Row) int { return compareLabels(x.Label, y.Label) })
	n := 0
	for i := range out {
		if n > 0 && out[n-1].Label == out[i].Label {
			out[n-1].Sums.Add(out[i].Sums)
			continue
		}
		out[n] = out[i]
		n++
	}
	return out[:n]
}

func compareLabels(a, b Label) int {
	return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.Network, b.Network), cmp.Compare(a.Subnet, b.Subnet),
		cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Scope, b.Scope))
}

// open is an interval that samples are still added to.
type open struct {
	sw      *switchPlan
	name    string // of the switch
	bucket  uint32
	start   time.Time
	since   time.Time // start, or later: when an exporter was heard first, or again
	from    uint32
	to      uint32
	grams   uint64
	lost    int
	flags   Flags
	samples uint64
	sources []sourceStat
	cells   map[cellKey]*cell
	ports   map[uint32]*portSum
}

// sourceStat is what one source of samples said of itself within an interval.
type sourceStat struct {
	received, lost int
	stepped        int // samples whose step of the pool is known
	pool, drops    uint64
}

// cellKey names a counter: who, which way, and by which source, as each source has its own rate.
type cellKey struct {
	port   *Port   // nil: by address
	index  uint32  // of the port
	prefix *Prefix // nil: no prefix has the address
	source int
	way    uint8 // bit 0: in, bit 1: inside
}

const (
	wayIn     = 1
	wayInside = 2
)

type cell struct {
	rate  uint32 // of run
	run   fold
	done  Sums // of earlier rates
	flags Flags
}

func (c *cell) add(rate, size, l3 uint32) {
	if rate != c.rate {
		c.done.Add(c.run.exact(c.rate))
		c.run, c.rate = fold{}, rate
	}
	c.run.add(size, l3)
}

// portSum is what the samples of one port stand for, in both directions, within an interval: whether it can be.
type portSum struct{ in, out uint64 }

// rate returns what one sample of a source stood for in this interval, and why it is not the rate that it named (0: it is).
//
// With samples lost, or where pool and rate differ by more than 10 % and by more than four standard deviations of so many samples,
// it is the pool divided by the samples: the exporter counts the packets, and the rate is only its word.
func (s *sourceStat) rate(named uint32) (float64, Flags) {
	n := float64(max(named, 1))
	missing := s.lost > 0 || s.drops > 0
	if s.stepped == 0 || s.pool == 0 {
		if s.lost > 0 {
			return n * float64(s.received+s.lost) / float64(s.received), FlagLoss
		}
		return n, 0
	}
	eff := max(float64(s.pool)/float64(s.stepped), 1)
	if missing {
		return eff, FlagLoss
	}
	off := eff/n - 1
	if off*off > max(0.01, 16/float64(s.stepped)) {
		return eff, FlagRate
	}
	return n, 0
}

// close makes the interval's rows. limit is the speed of a port in octets per interval, 0: unknown.
func (o *open) close(k sflow.Key, limit func(port uint32) float64) *Interval {
	v := &Interval{
		Key: k, Switch: o.name, Bucket: o.bucket, Start: o.start, SeqFrom: o.from, SeqTo: o.to, Minutes: 1,
		Datagrams: o.grams, Lost: uint64(max(o.lost, 0)), Samples: o.samples, Flags: o.flags,
	}
	for i := range o.sources {
		v.SamplesLost += uint64(max(o.sources[i].lost, 0))
		v.AgentDrops += o.sources[i].drops
	}
	if v.SamplesLost+v.AgentDrops > 0 {
		v.Flags |= FlagLoss
	}
	rows := make([]Row, 0, len(o.cells))
	for key, c := range o.cells {
		s := o.estimate(key, c)
		s.Flags |= v.Flags & (FlagClock | FlagReset | FlagTruncated)
		r := Row{Sums: s, Label: key.label()}
		if key.port != nil {
			if p := o.ports[key.index]; p != nil {
				if max := limit(key.index); max > 0 && (float64(p.in) > 1.1*max || float64(p.out) > 1.1*max) {
					r.Flags |= FlagImplausible
				}
			}
		}
		rows = append(rows, r)
	}
	v.setRows(addRows(nil, rows))
	return v
}

// estimate is what the samples of one cell stand for, by what their source says of itself.
func (o *open) estimate(key cellKey, c *cell) Sums {
	s := c.done
	if n, why := o.sources[key.source].rate(c.rate); why != 0 && c.done.Samples == 0 {
		s.Add(c.run.scaled(n))
		s.Flags |= why
	} else {
		s.Add(c.run.exact(c.rate))
	}
	s.Flags |= c.flags
	return s
}

func (k *cellKey) label() Label {
	l := Label{Direction: Out, Scope: Outside}
	if k.way&wayIn != 0 {
		l.Direction = In
	}
	if k.way&wayInside != 0 {
		l.Scope = Inside
	}
	if k.prefix != nil {
		l.Project, l.Network, l.Subnet, l.Machine = k.prefix.Project, k.prefix.Network, k.prefix.Subnet, k.prefix.Machine
	}
	if k.port != nil {
		l.Project, l.Machine = k.port.Project, k.port.Machine
	}
	return l
}
