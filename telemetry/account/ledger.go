package account

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// Store is where the ledger is kept: storage/state.Raw, which it shares with series. Its keys begin with l and k.
type Store interface {
	// Write writes all pairs in one transaction with one fsync, or none of them. A nil value deletes.
	// Errors: state.ErrTooLarge above about 1.2 MB.
	Write([]state.Pair) error
	// Scan calls fn for each key of the prefix that is not below from, in order. state.ErrStop of fn ends it.
	Scan(prefix, from []byte, fn func(key, value []byte) error) error
}

// Tier is how fine the rows of the ledger are.
type Tier uint8

// The tiers. A ring never grows: a slot is written over when its turn comes again.
const (
	Minutes Tier = iota
	Hours
)

// step returns how long one interval of the tier is, and ring how many slots it has.
func (t Tier) step() time.Duration {
	if t == Hours {
		return time.Hour
	}
	return sflow.Bucket
}

func (t Tier) ring() int64 {
	if t == Hours {
		return 400 * 24
	}
	return 72 * 60
}

const (
	tableLedger  = 'l'
	tableStreams = 'k'
	maxParts     = 256 // of one slot and stream
	maxStreamIDs = 1 << 16
	// batchOctets is less than one transaction takes.
	batchOctets = 900 << 10
)

// ID names one part of an interval in one agent's ledger.
type ID uint64

func id(t Tier, slot uint32, stream uint16, part uint8) ID {
	return ID(uint64(t)<<56 | uint64(slot)<<24 | uint64(stream)<<8 | uint64(part))
}

func (i ID) key() []byte {
	return append([]byte{tableLedger}, binary.BigEndian.AppendUint64(nil, uint64(i))...)
}

func parseID(key []byte) (ID, bool) {
	if len(key) != 9 {
		return 0, false
	}
	return ID(binary.BigEndian.Uint64(key[1:])), true
}

func (t Tier) slot(at time.Time) uint32 {
	s := at.Unix() / int64(t.step()/time.Second) % t.ring()
	return uint32((s + t.ring()) % t.ring())
}

// prefix of a slot, and of a stream in it.
func slotKey(t Tier, slot uint32) []byte { return id(t, slot, 0, 0).key()[:6] }

func streamKey(t Tier, slot uint32, stream uint16) []byte { return id(t, slot, stream, 0).key()[:8] }

// StreamInfo is what is known of an exporter for good: since when its intervals are wanted.
type StreamInfo struct {
	sflow.Key
	Switch string    `json:"switch"`
	First  time.Time `json:"first"`
	// Machine and Ways (directions) are of a Point that stands in for access ports.
	Machine string   `json:"machine,omitempty"`
	Ways    []string `json:"ways,omitempty"`
}

// Ledger is the intervals on disk. Safe for concurrent use.
type Ledger struct {
	store Store

	mu      sync.Mutex // guards what follows; held over a write, so that two never take one part
	streams map[sflow.Key]uint16
	infos   map[uint16]StreamInfo
	damaged uint64
}

// OpenLedger reads which streams there are.
func OpenLedger(s Store) (*Ledger, error) {
	l := &Ledger{store: s, streams: map[sflow.Key]uint16{}, infos: map[uint16]StreamInfo{}}
	err := s.Scan([]byte{tableStreams}, nil, func(key, value []byte) error {
		var info StreamInfo
		if len(key) != 3 || json.Unmarshal(value, &info) != nil {
			l.damaged++
			return nil
		}
		n := binary.BigEndian.Uint16(key[1:])
		l.streams[info.Key], l.infos[n] = n, info
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the streams of the ledger: %w", err)
	}
	return l, nil
}

// Damaged counts the values that were not as they were written, and intervals that fit into no transaction; their rows are missing, and coverage says so.
func (l *Ledger) Damaged() uint64 {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.damaged
}

// Write writes intervals of a minute each, in as few transactions as they fit in, and adds them to their hours in the same. It returns
// those that are not on disk.
func (l *Ledger) Write(vs []*Interval) (left []*Interval, err error) {
	if l == nil {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(vs) > 0 {
		n, err := l.some(vs)
		if errors.Is(err, state.ErrTooLarge) && len(vs) > 1 {
			n, err = l.some(vs[:1])
		}
		if errors.Is(err, state.ErrTooLarge) { // it never fits: an exporter that restarts again and again fills one minute
			l.damaged++
			n, err = 1, nil
		}
		if err != nil {
			return vs, fmt.Errorf("cannot write the traffic ledger: %w", err)
		}
		vs = vs[n:]
	}
	return nil, nil
}

// some writes the first of vs, and as many more as one transaction takes.
func (l *Ledger) some(vs []*Interval) (n int, err error) {
	b := batch{slots: map[string]*slot{}}
	var fresh []uint16
	size := 0
	for _, v := range vs {
		if n > 0 && size > batchOctets {
			break
		}
		no, info, err := l.stream(v)
		if err != nil {
			return 0, err
		}
		if info != nil {
			if _, known := l.infos[no]; !known {
				fresh = append(fresh, no)
			}
			l.streams[info.Key], l.infos[no] = no, *info
			raw, err := json.Marshal(info)
			if err != nil {
				return 0, err
			}
			b.pairs = append(b.pairs, state.Pair{Key: binary.BigEndian.AppendUint16([]byte{tableStreams}, no), Value: raw})
		}
		b.pairs = append(b.pairs, v.also...)
		for _, v := range append(v.before, v) {
			if err := l.put(&b, Minutes, no, v); err != nil {
				return 0, err
			}
			hour := *v
			hour.Bucket = v.Bucket / 60
			hour.Start = v.Start.Add(-time.Duration(v.Bucket%60) * time.Minute)
			if err := l.put(&b, Hours, no, &hour); err != nil {
				return 0, err
			}
		}
		size = b.size()
		n++
	}
	err = l.store.Write(b.all())
	if err != nil {
		for _, no := range fresh {
			delete(l.streams, l.infos[no].Key)
			delete(l.infos, no)
		}
		return 0, err
	}
	return n, nil
}

// stream returns the number of v's stream; info is not nil when it is new or its switch has another name.
func (l *Ledger) stream(v *Interval) (uint16, *StreamInfo, error) {
	if no, ok := l.streams[v.Key]; ok {
		if info := l.infos[no]; info.Switch != v.Switch && v.Switch != "" {
			info.Switch = v.Switch
			return no, &info, nil
		}
		return no, nil, nil
	}
	for no := range maxStreamIDs {
		if _, taken := l.infos[uint16(no)]; !taken {
			return uint16(no), &StreamInfo{Key: v.Key, Switch: v.Switch, First: v.Start, Machine: v.machine, Ways: v.ways}, nil
		}
	}
	return 0, nil, errors.New("all 65,536 streams are taken")
}

// batch collects the slots that one transaction rewrites.
type batch struct {
	pairs []state.Pair
	slots map[string]*slot
}

// slot is all parts of one stream in one slot of a ring.
type slot struct {
	tier   Tier
	slot   uint32
	stream uint16
	had    int // highest part on disk + 1
	keep   [][]byte
	vs     []*Interval // of Hours: they are added to
	octets int
}

func (b *batch) size() int {
	n := 0
	for _, s := range b.slots {
		n += s.octets
	}
	return n
}

// all returns the pairs of every slot, in order.
func (b *batch) all() []state.Pair {
	out := b.pairs
	for _, k := range slices.Sorted(maps.Keys(b.slots)) {
		s := b.slots[k]
		parts := s.keep
		for _, v := range s.vs {
			parts = append(parts, v.parts()...)
		}
		parts = parts[:min(len(parts), maxParts)]
		for i := range parts {
			out = append(out, state.Pair{Key: id(s.tier, s.slot, s.stream, uint8(i)).key(), Value: parts[i]})
		}
		for i := len(parts); i < s.had; i++ {
			out = append(out, state.Pair{Key: id(s.tier, s.slot, s.stream, uint8(i)).key()})
		}
	}
	return out
}

// put adds v to its slot. Minutes stand beside each other; an hour takes in what belongs to it.
func (l *Ledger) put(b *batch, t Tier, stream uint16, v *Interval) error {
	no := t.slot(v.Start)
	k := streamKey(t, no, stream)
	s := b.slots[string(k)]
	if s == nil {
		s = &slot{tier: t, slot: no, stream: stream}
		if err := l.load(s, k, v.Start); err != nil {
			return err
		}
		b.slots[string(k)] = s
	}
	if t == Hours {
		for _, h := range s.vs {
			if h.Bucket == v.Bucket && (h.Flags^v.Flags)&FlagClock == 0 && h.Start.Sub(v.Start).Abs() < 5*time.Minute {
				h.add(v)
				return nil
			}
		}
	}
	c := *v
	s.vs = append(s.vs, &c)
	s.octets += 64 + 96*len(v.Rows)
	return nil
}

// load reads what a slot holds of this turn of its ring; what is of an earlier one goes.
func (l *Ledger) load(s *slot, key []byte, start time.Time) error {
	turn := time.Duration(s.tier.ring()) * s.tier.step() / 2
	return l.store.Scan(key, nil, func(k, value []byte) error {
		if i, ok := parseID(k); ok {
			s.had = max(s.had, int(uint8(i))+1)
		}
		v, err := decode(value, s.tier == Hours)
		if err != nil {
			l.damaged++
			return nil
		}
		if v.Start.Sub(start).Abs() > turn {
			return nil
		}
		if s.tier == Minutes {
			s.keep = append(s.keep, slices.Clone(value))
			s.octets += len(value)
			return nil
		}
		s.octets += len(value)
		for _, h := range s.vs { // a later part of the same
			if h.Bucket == v.Bucket && h.Start.Equal(v.Start) && (h.Flags^v.Flags)&FlagClock == 0 {
				h.add(v)
				return nil
			}
		}
		s.vs = append(s.vs, v)
		return nil
	})
}

// scan calls fn for each part whose interval began in [from, to), in no order. rows false leaves rows out.
func (l *Ledger) scan(t Tier, from, to time.Time, rows bool, fn func(ID, *Interval) error) error {
	if l == nil || !from.Before(to) {
		return nil
	}
	var damaged uint64
	first := from.Truncate(t.step())
	n := min(int64(to.Sub(first)/t.step())+1, t.ring())
	lo := int64(t.slot(first))
	for n > 0 { // at most two runs: the ring closes once
		run := min(n, t.ring()-lo)
		end := slotKey(t, uint32(lo+run))
		err := l.store.Scan([]byte{tableLedger, byte(t)}, slotKey(t, uint32(lo)), func(key, value []byte) error {
			if slices.Compare(key[:6], end) >= 0 {
				return state.ErrStop
			}
			i, ok := parseID(key)
			v, err := decode(value, rows)
			if !ok || err != nil {
				damaged++
				return nil
			}
			if v.Start.Before(from) || !v.Start.Before(to) {
				return nil
			}
			return fn(i, v)
		})
		if err != nil {
			return err
		}
		n -= run
		lo = 0
	}
	if damaged > 0 {
		l.mu.Lock()
		l.damaged += damaged
		l.mu.Unlock()
	}
	return nil
}

// Infos returns every stream that was ever heard, ordered by switch, agent address, sub-agent.
func (l *Ledger) Infos() []StreamInfo {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.infos), func(a, b StreamInfo) int {
		return cmp.Or(cmp.Compare(a.Switch, b.Switch), a.Agent.Compare(b.Agent), cmp.Compare(a.SubAgent, b.SubAgent))
	})
}
