package account

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/telemetry/sflow"
)

const (
	// grace is how long after its end an interval waits for what comes late.
	grace = 10 * time.Second
	// maxOpen bounds the open intervals of one stream; the oldest closes first.
	maxOpen = 3
	// maxCells bounds the distinct counters of one interval: 48 ports with some subnets each are a few hundred.
	maxCells = 16384
	// allCells bounds those of all open intervals together, about 250 octets each.
	allCells = 1 << 18
	// maxFrame is longer than any frame: Linux hands on up to 512 KiB at once (BIG TCP).
	maxFrame = 1 << 20
	// maxPending bounds what waits for a disk that takes nothing; the oldest drops, and is counted.
	maxPending = 1024
	bucketMS   = uint32(sflow.Bucket / time.Millisecond)
)

// Engine counts samples. It is a sflow.Sink.
type Engine struct {
	plan   atomic.Pointer[Plan]
	ledger *Ledger

	mu       sync.Mutex // guards what follows
	streams  []*streamState
	at       reading
	pending  []*Interval
	dropped  uint64
	cells    int // of all open intervals
	ports    int // of all streams
	mismatch func(Mismatch)
	told     []Mismatch
}

// reading is where the samples of the datagram that is being read belong.
type reading struct {
	*open
	st   *streamState
	plan *Plan
}

type streamState struct {
	key    sflow.Key
	name   string // of the switch, as known last
	open   []*open
	egress map[uint32]uint32 // port -> interval of its first egress sample
	ports  map[uint32]*portState
	stat   Stream
}

// Stream is what one exporter sent, in totals since the start.
type Stream struct {
	sflow.Key
	Switch        string
	Datagrams     uint64
	DatagramsLost uint64
	Samples       uint64
	SamplesLost   uint64
	AgentDrops    uint64
	Invalid       uint64 // samples without a rate, or of a length that no frame has: they stand for nothing
	Discards      uint64 // notifications of discarded packets
	Last          time.Time
}

// NewEngine returns an engine over a ledger, nil where nothing can be kept. mismatch is called from Tick, and may be nil.
func NewEngine(l *Ledger, mismatch func(Mismatch)) *Engine {
	e := &Engine{ledger: l, mismatch: mismatch}
	e.plan.Store(NewPlan(nil, nil))
	return e
}

// SetPlan makes p count from the next datagram on.
func (e *Engine) SetPlan(p *Plan) { e.plan.Store(p) }

// Known tells whether a switch sends with this agent address from this address.
func (e *Engine) Known(agent, from netip.Addr) bool { return e.plan.Load().Known(agent, from) }

// Datagram implements sflow.Sink.
func (e *Engine) Datagram(a *sflow.Arrival, r *sflow.Reader) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.begin(a)
	for r.Next() {
		switch s := &r.Sample; s.Kind {
		case sflow.Counters:
			e.counters(s, a.Uptime)
		case sflow.Discard:
			e.at.st.stat.Discards++
		case sflow.Flow:
			e.sample(a, s, r.Step)
		}
	}
}

// begin finds the interval that a datagram belongs to.
func (e *Engine) begin(a *sflow.Arrival) {
	for a.Stream >= len(e.streams) {
		e.streams = append(e.streams, nil)
	}
	st := e.streams[a.Stream]
	if st == nil {
		st = &streamState{key: a.Key, egress: map[uint32]uint32{}, ports: map[uint32]*portState{}}
		e.streams[a.Stream] = st
	}
	plan := e.plan.Load()
	sw := plan.switches[a.Agent]
	if sw != nil {
		st.name = sw.Name
	}
	if a.Flags&sflow.Reset != 0 {
		for len(st.open) > 0 {
			e.closeOldest(st)
		}
		clear(st.egress)
		e.ports -= len(st.ports)
		clear(st.ports)
	}
	o := st.find(a)
	for len(st.open) > maxOpen {
		e.closeOldest(st)
	}
	o.sw, o.name = sw, st.name
	if int32(a.Seq-o.to) > 0 {
		o.to = a.Seq
	}
	if int32(o.from-a.Seq) > 0 {
		o.from = a.Seq
	}
	o.grams++
	o.lost += a.Lost
	if a.Flags&sflow.Clock != 0 {
		o.flags |= FlagClock
	}
	if a.Flags&sflow.Reset != 0 {
		o.flags |= FlagReset
	}
	st.stat.Datagrams++
	st.stat.DatagramsLost = shift(st.stat.DatagramsLost, a.Lost)
	st.stat.Last = a.At
	e.at = reading{o, st, plan}
}

func shift(n uint64, d int) uint64 {
	if d < 0 {
		return n - min(n, uint64(-d))
	}
	return n + uint64(d)
}

// find returns the open interval of a, a new one if need be.
func (st *streamState) find(a *sflow.Arrival) *open {
	for _, o := range st.open {
		if o.bucket == a.Bucket && (o.flags&FlagClock != 0) == (a.Flags&sflow.Clock != 0) {
			return o
		}
	}
	o := &open{bucket: a.Bucket, start: a.Start, since: a.Start, from: a.Seq, to: a.Seq, cells: map[cellKey]*cell{}, ports: map[uint32]*portSum{}}
	if len(st.open) == 0 && a.At.After(a.Start) && a.At.Sub(st.stat.Last) > liveLeast {
		o.since = a.At
	}
	st.open = append(st.open, o)
	return o
}

// sample counts one flow sample.
func (e *Engine) sample(a *sflow.Arrival, s *sflow.Sample, t sflow.Step) {
	for t.Source >= len(e.at.sources) {
		e.at.sources = append(e.at.sources, sourceStat{})
	}
	e.step(a, t)
	e.at.samples++
	st := &e.at.st.stat
	st.Samples++
	st.SamplesLost = shift(st.SamplesLost, t.Lost)
	st.AgentDrops += uint64(t.Drops)
	if s.Rate == 0 || s.Packet.Len == 0 || s.Packet.Len > maxFrame {
		st.Invalid++
		return
	}
	e.flow(a, s, t.Source)
}

// step adds what a sample says of its source. What was lost belongs to the time in which it was lost, and so do its packets: were all of
// it added to the interval that ends the gap, an agent that heard the gap would give the same packets again.
func (e *Engine) step(a *sflow.Arrival, t sflow.Step) {
	src := &e.at.sources[t.Source]
	src.received++
	src.drops += uint64(t.Drops)
	into := a.Uptime % bucketMS // ms of this interval so far
	switch {
	case t.Fresh:
	case t.Lost < 0:
		src.lost--
		if src.stepped > 0 {
			src.stepped++ // its packets were in the step over it
		}
	case t.Lost == 0 || t.Since <= into:
		src.lost += t.Lost
		src.pool += uint64(t.Pool)
		src.stepped++
	default:
		here := float64(into) / float64(t.Since)
		src.lost += int(here * float64(t.Lost))
		src.pool += uint64(here * float64(t.Pool))
		src.stepped++
		last := (a.Uptime - t.Since) / bucketMS
		for _, o := range e.at.st.open {
			if o.bucket == last && t.Source < len(o.sources) && o.flags&FlagClock == 0 {
				there := float64(bucketMS-(a.Uptime-t.Since)%bucketMS) / float64(t.Since)
				o.sources[t.Source].lost += int(there * float64(t.Lost))
				o.sources[t.Source].pool += uint64(there * float64(t.Pool))
			}
		}
	}
}

// flow counts one sampled packet where it belongs: from a machine by the port that it came in by, to a machine by the port that it went
// out by, each once.
func (e *Engine) flow(a *sflow.Arrival, s *sflow.Sample, source int) {
	sw := e.at.sw
	if sw == nil {
		return
	}
	in, out, from := s.Input, s.Output, s.Source
	if len(sw.links) > 0 {
		in.Value, out.Value, from = sw.link(in.Value), sw.link(out.Value), sw.link(from)
	}
	if sw.Mode == Host || (in.Value == sflow.SelfPort && out.Value == sflow.SelfPort && in.Format == 0 && out.Format == 0) {
		e.byAddress(s, source, true)
		e.byAddress(s, source, false)
		return
	}
	// A source that is no interface samples what comes in, as Open vSwitch's bridge does.
	ingress := s.SourceType != 0 || (in.Format == 0 && from == in.Value)
	egress := !ingress && out.Format == 0 && from == out.Value
	if ingress && in.Format == 0 {
		e.count(s, source, in.Value, false)
	}
	switch {
	case out.Format == 0 && out.Value != 0:
		if egress {
			if _, seen := e.at.st.egress[out.Value]; !seen && len(e.at.st.egress) < maxPorts {
				e.at.st.egress[out.Value] = a.Bucket
			}
		}
		if e.both(sw, out.Value, a.Bucket) {
			if egress {
				e.count(s, source, out.Value, true)
			}
		} else if ingress {
			e.count(s, source, out.Value, true)
		}
	case ingress && out.Format != 1 && sw.Mode != Both && len(e.at.st.egress) == 0:
		// It went out by a port that the exporter does not name, and does not sample on the way out; format 1 is discarded.
		e.byAddress(s, source, true)
	}
}

// both tells whether what goes to a machine is counted by what its port sampled on the way out.
func (e *Engine) both(sw *switchPlan, port, bucket uint32) bool {
	switch sw.Mode {
	case Both:
		return true
	case Ingress:
		return false
	}
	first, seen := e.at.st.egress[port]
	return seen && first != bucket
}

// count adds a packet of an access port; of any other it only keeps what reconciliation needs.
func (e *Engine) count(s *sflow.Sample, source int, index uint32, in bool) {
	k := &s.Packet
	est := uint64(s.Rate) * uint64(k.Len)
	state := e.port(index)
	if state != nil {
		state.estimate(in, float64(est), float64(s.Rate), float64(k.Len))
	}
	port := e.at.sw.ports[index]
	if port == nil && state != nil && state.name != "" {
		port = e.at.sw.names[state.name]
	}
	if port == nil || port.Machine == "" {
		return
	}
	sum := e.at.ports[index]
	if sum == nil {
		sum = &portSum{}
		e.at.ports[index] = sum
	}
	own, peer := k.Src, k.Dst
	key := cellKey{port: port, index: index, source: source}
	if in {
		sum.in += est
		own, peer = peer, own
		key.way = wayIn
	} else {
		sum.out += est
	}
	t := e.at.plan.projects[port.Project]
	table := tableOf(k, port, !in)
	key.prefix = t.lookup(table, own)
	if p := t.lookup(table, peer); p != nil && !p.Shared {
		key.way |= wayInside
	}
	var flags Flags
	if state != nil && state.bad >= mismatches {
		flags = FlagMismatch
	}
	e.add(key, s, flags)
}

// byAddress counts a packet of an exporter that names no port: for whom its address is. Of a switch, only machines on its own ports
// count, so that the next switch on the way counts nothing again.
func (e *Engine) byAddress(s *sflow.Sample, source int, in bool) {
	k := &s.Packet
	own, peer := k.Src, k.Dst
	key := cellKey{source: source}
	if in {
		own, peer = peer, own
		key.way = wayIn
	}
	plan := e.at.plan
	table := tableOf(k, nil, !in)
	p := plan.all.lookup(table, own)
	if p == nil || (len(e.at.sw.machines) > 0 && !e.at.sw.machines[p.Machine]) {
		return
	}
	key.prefix = p
	if q := plan.projects[p.Project].lookup(table, peer); q != nil && !q.Shared {
		key.way |= wayInside
	}
	e.add(key, s, FlagByAddress)
}

func (e *Engine) add(key cellKey, s *sflow.Sample, flags Flags) {
	c := e.at.cells[key]
	if c == nil {
		if len(e.at.cells) >= maxCells || e.cells >= allCells {
			e.at.flags |= FlagTruncated
			return
		}
		e.cells++
		c = &cell{rate: s.Rate}
		e.at.cells[key] = c
	}
	c.flags |= flags
	c.add(s.Rate, s.Packet.Len, s.Packet.L3)
}

func (e *Engine) closeOldest(st *streamState) {
	o := st.open[0]
	st.open = slices.Delete(st.open, 0, 1)
	e.cells -= len(o.cells)
	v := o.close(st.key, func(port uint32) float64 {
		if p := st.ports[port]; p != nil {
			return float64(p.speed) / 8 * sflow.Bucket.Seconds()
		}
		return 0
	})
	e.enqueue(v)
}

// enqueue makes v wait for Flush; e.mu is held.
func (e *Engine) enqueue(v *Interval) {
	if len(e.pending) >= maxPending {
		e.pending = slices.Delete(e.pending, 0, 1)
		e.dropped++
	}
	e.pending = append(e.pending, v)
}

// Tick closes the intervals that ended by now; all: every one, as at the end.
func (e *Engine) Tick(now time.Time, all bool) {
	e.mu.Lock()
	for _, st := range e.streams {
		if st == nil {
			continue
		}
		slices.SortStableFunc(st.open, func(a, b *open) int { return cmp.Compare(a.start.UnixNano(), b.start.UnixNano()) })
		for len(st.open) > 0 && (all || now.Sub(st.open[0].start) > sflow.Bucket+grace) {
			e.closeOldest(st)
		}
	}
	told := e.told
	e.told = nil
	e.mu.Unlock()
	if e.mismatch != nil {
		for _, m := range told {
			e.mismatch(m)
		}
	}
}

// Flush writes the closed intervals: they are on disk when it returns nil. What could not be written waits for the next Flush.
func (e *Engine) Flush() error {
	e.mu.Lock()
	todo := e.pending
	e.pending = nil
	e.mu.Unlock()
	if len(todo) == 0 {
		return nil
	}
	left, err := e.ledger.Write(todo)
	if len(left) > 0 {
		e.mu.Lock()
		e.pending = append(left, e.pending...)
		if n := len(e.pending) - maxPending; n > 0 {
			e.pending = slices.Delete(e.pending, 0, n)
			e.dropped += uint64(n)
		}
		e.mu.Unlock()
	}
	return err
}

// Dropped counts the closed intervals that were given up because the disk took nothing for too long.
func (e *Engine) Dropped() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dropped
}

// Streams returns the totals of each exporter, ordered by switch, agent address, sub-agent.
func (e *Engine) Streams() []Stream {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Stream
	for _, st := range e.streams {
		if st != nil {
			s := st.stat
			s.Key, s.Switch = st.key, st.name
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Stream) int {
		return cmp.Or(cmp.Compare(a.Switch, b.Switch), a.Agent.Compare(b.Agent), cmp.Compare(a.SubAgent, b.SubAgent))
	})
	return out
}
