package sflow

import (
	"net/netip"
	"time"
)

const (
	// MaxStreams bounds exporters, by agent address and sub-agent. A site has tens of switches.
	MaxStreams = 256
	// MaxSources bounds the sources of one stream: a chassis has fewer ports.
	MaxSources = 4096
	// AllSources bounds the sources of all streams together: whoever sends in a switch's name may invent them, 100 octets each.
	AllSources = 1 << 16

	// Bucket is how long one interval of a stream is: it is cut by the exporter's own uptime, so that all agents cut alike.
	Bucket = time.Minute

	seqWindow    = 64              // datagrams that may come late
	lateUptime   = 5000            // ms by which a late datagram's uptime may lie behind; more is a restart
	clockAfter   = 2 * time.Minute // before an exporter's clock is judged: OVS tells whole seconds
	clockAgain   = 10 * time.Minute
	jumpFloor    = 50 // datagrams that may be lost at once, beside twice what is usual in that time
	resetPool    = 1 << 31
	lateSamples  = 1000    // samples by which a late one may lie behind
	resetSamples = 1 << 24 // samples that are not lost at once
)

// Key names a stream.
type Key struct {
	Agent    netip.Addr
	SubAgent uint32
}

// Flags say what is unusual about an interval.
type Flags uint8

// The flags of an arrival.
const (
	Reset Flags = 1 << iota // the exporter or its sequence began anew: what was lost before is unknown
	Clock                   // its uptime runs off by more than 10 %: intervals are cut by this agent's clock
)

// Arrival is what a datagram's stream says of it.
type Arrival struct {
	Stream int // index, dense from 0
	Key
	Seq    uint32
	Uptime uint32    // ms, of the exporter, modulo 2^32
	At     time.Time // when it came
	Bucket uint32    // interval: uptime / Bucket, or the wall's minute with Clock
	Epoch  time.Time // when the exporter started, by this agent's clock
	Start  time.Time // when Bucket began, by this agent's clock
	Lost   int       // datagrams that are missing since the one before; -1: one that was missing came late
	Flags  Flags
}

// Step is what one sample adds to its source.
type Step struct {
	Source int    // index within the stream, dense from 0
	Pool   uint32 // packets that could have been sampled since the sample before; 0 with Fresh
	Drops  uint32 // samples that the exporter lost since then
	Lost   int    // samples that are missing since then; -1: one that was missing came late
	Since  uint32 // ms of uptime since then
	Fresh  bool   // the first of its source, or after a restart: what lies before is unknown
}

// Streams keeps the state of every exporter. It belongs to one goroutine.
type Streams struct {
	byKey   map[Key]*stream
	list    []*stream
	sources int // of all streams
}

// NewStreams returns an empty state.
func NewStreams() *Streams { return &Streams{byKey: map[Key]*stream{}} }

type stream struct {
	index   int
	seq     uint32 // highest
	window  uint64 // bit i: seq-i was seen
	uptime  uint32 // of the highest
	epoch   time.Time
	first   time.Time // of this epoch, with the monotonic clock
	began   uint32    // uptime at first
	judged  time.Time
	local   bool    // its clock is off
	rate    float64 // datagrams per ms of uptime, smoothed
	sources map[uint64]*source
}

type source struct {
	index           int
	seq, pool, drop uint32
	uptime          uint32
}

// Datagram takes a datagram of a known exporter that came at now. ok is false for a duplicate, for one that comes too late to tell,
// and, with full, where MaxStreams are known already.
func (s *Streams) Datagram(d *Datagram, now time.Time) (a Arrival, ok, full bool) {
	k := Key{d.Agent, d.SubAgent}
	st := s.byKey[k]
	if st != nil {
		defer func(had int) { s.sources += len(st.sources) - had }(len(st.sources)) // a restart forgets them
	}
	if st == nil {
		if len(s.list) >= MaxStreams {
			return a, false, true
		}
		st = &stream{index: len(s.list), sources: map[uint64]*source{}}
		s.byKey[k] = st
		s.list = append(s.list, st)
		st.begin(d, now)
	} else {
		if a.Lost, a.Flags, ok = st.advance(d, now); !ok {
			return a, false, false
		}
	}
	st.judge(d, now)
	a.Stream, a.Key, a.Seq, a.Uptime, a.Epoch = st.index, k, d.Seq, d.Uptime, st.epoch
	a.At = now
	if st.local {
		a.Flags |= Clock
		a.Bucket = uint32(now.Unix() / int64(Bucket/time.Second))
		a.Start = now.Truncate(Bucket)
		return a, true, false
	}
	a.Bucket = d.Uptime / uint32(Bucket/time.Millisecond)
	a.Start = st.epoch.Add(time.Duration(a.Bucket) * Bucket)
	return a, true, false
}

// begin starts a new epoch.
func (st *stream) begin(d *Datagram, now time.Time) {
	st.seq, st.window, st.uptime = d.Seq, 1, d.Uptime
	st.epoch = now.Add(-time.Duration(d.Uptime) * time.Millisecond)
	st.first, st.began, st.judged, st.rate = now, d.Uptime, now, 0
	clear(st.sources)
}

// advance moves the window. A duplicate, or what is older than the window, is not ok.
func (st *stream) advance(d *Datagram, now time.Time) (lost int, f Flags, ok bool) {
	diff := int32(d.Seq - st.seq)
	behind := int32(st.uptime - d.Uptime) // ms
	switch {
	case behind > lateUptime, diff > 0 && behind > 1000:
		st.begin(d, now) // its uptime fell: it restarted, or 49.7 days are over, which all agents see alike
		return 0, Reset, true
	case diff > 0:
		elapsed := float64(-min(behind, 0))
		if float64(diff) > jumpFloor+2*st.rate*elapsed {
			st.seq, st.window, st.uptime = d.Seq, 1, d.Uptime
			clear(st.sources)
			return 0, Reset, true
		}
		if elapsed > 0 {
			st.rate += (float64(diff)/elapsed - st.rate) / 8
		}
		st.window = st.window<<uint(diff) | 1
		st.seq, st.uptime = d.Seq, d.Uptime
		return int(diff) - 1, 0, true
	case diff > -seqWindow:
		bit := uint64(1) << uint(-diff)
		if st.window&bit != 0 {
			return 0, 0, false
		}
		st.window |= bit
		return -1, 0, true
	case diff < -jumpFloor*int32(seqWindow):
		st.seq, st.window, st.uptime = d.Seq, 1, d.Uptime
		clear(st.sources)
		return 0, Reset, true
	}
	return 0, 0, false
}

// judge compares the exporter's clock with the monotonic one of this host, which no setting of the time moves.
func (st *stream) judge(d *Datagram, now time.Time) {
	wall := now.Sub(st.first)
	if wall < clockAfter || now.Sub(st.judged) < clockAgain && !st.judged.Equal(st.first) {
		return
	}
	st.judged = now
	up := time.Duration(d.Uptime-st.began) * time.Millisecond
	off := up - wall
	st.local = off.Abs() > wall/10
}

// Source takes one flow sample of a datagram of that uptime, which Datagram took. ok is false where MaxSources are known already.
func (s *Streams) Source(stream int, uptime uint32, smp *Sample) (t Step, ok bool) {
	st := s.list[stream]
	id := uint64(smp.SourceType)<<32 | uint64(smp.Source)
	src := st.sources[id]
	if src == nil {
		if len(st.sources) >= MaxSources || s.sources >= AllSources {
			return t, false
		}
		s.sources++
		src = &source{index: len(st.sources), seq: smp.Seq, pool: smp.Pool, drop: smp.Drops, uptime: uptime}
		st.sources[id] = src
		return Step{Source: src.index, Fresh: true}, true
	}
	t.Source = src.index
	diff := int32(smp.Seq - src.seq)
	if diff <= 0 && diff > -lateSamples {
		t.Lost = -1 // duplicates went with their datagram: this one was missing
		return t, true
	}
	pool, drops := smp.Pool-src.pool, smp.Drops-src.drop
	t.Since = uptime - src.uptime
	src.seq, src.pool, src.drop, src.uptime = smp.Seq, smp.Pool, smp.Drops, uptime
	if diff < 0 || pool >= resetPool || diff > resetSamples || t.Since > 1<<31 {
		return Step{Source: src.index, Fresh: true}, true
	}
	t.Lost, t.Pool = int(diff)-1, pool
	if drops < resetPool {
		t.Drops = drops
	}
	return t, true
}
