package probe

import "slices"

// Totals are counts since their maps were made.
type Totals struct {
	Bytes  uint64 `json:"b"` // frames with FCS
	Frames uint64 `json:"f"`
	L3     uint64 `json:"l3"` // IP packets
}

// Ways index the four counts of a label: away from the machine or to it, the other end outside its group or inside.
const (
	wayInside = 1
	wayTo     = 2
	ways      = 4
)

// Saved is what a slot is of, and how much of it was read.
type Saved struct {
	Slot   uint32       `json:"slot"`
	Label  string       `json:"label"`
	Totals [ways]Totals `json:"totals"`
}

// Memory is what the life of an agent leaves to the next.
type Memory struct {
	Life  uint64 // of the kernel's maps; 0: none
	Slots []Saved
}

// slots gives labels their slots. Slot 0 is of the empty label, and of those that found no other.
type slots struct {
	list    []slot
	byLabel map[string]uint32
	free    []uint32
	refused int // labels of the present plan without a slot
}

type slot struct {
	label string // of a free one: that it had last, as whoever keeps what was read still has it
	base  [ways]Totals
	used  bool
	gone  uint8 // reads since its label left the plan, plus 1
}

func newSlots(saved []Saved) *slots {
	s := &slots{list: make([]slot, maxSlots), byLabel: map[string]uint32{}}
	s.list[0].used = true
	for _, v := range saved {
		if v.Slot >= maxSlots {
			continue
		}
		if _, twice := s.byLabel[v.Label]; twice || v.Label == "" {
			if v.Slot == 0 {
				s.list[0].base = v.Totals
			}
			continue
		}
		if s.list[v.Slot].used {
			delete(s.byLabel, s.list[v.Slot].label)
		}
		s.list[v.Slot] = slot{label: v.Label, base: v.Totals, used: true}
		s.byLabel[v.Label] = v.Slot
	}
	for i := maxSlots - 1; i > 0; i-- {
		if !s.list[i].used {
			s.free = append(s.free, uint32(i))
		}
	}
	return s
}

// of returns the slot of a label.
func (s *slots) of(label string) uint32 { return s.byLabel[label] }

// set gives each label a slot, and lets those rest that are in no plan any more. fresh are the slots that got a label; now reads the
// totals of one as they are.
func (s *slots) set(labels []string, now func(uint32) [ways]Totals) (fresh []uint32) {
	s.refused = 0
	keep := map[uint32]bool{0: true}
	for _, l := range labels {
		n, ok := s.byLabel[l]
		if !ok {
			if len(s.free) == 0 {
				s.refused++
				continue
			}
			n = s.take(l)
			s.list[n] = slot{label: l, base: now(n), used: true}
			s.byLabel[l] = n
			fresh = append(fresh, n)
		}
		s.list[n].gone = 0
		keep[n] = true
	}
	for i := range s.list {
		if s.list[i].used && !keep[uint32(i)] && s.list[i].gone == 0 {
			s.list[i].gone = 1
		}
	}
	return fresh
}

// take takes a free slot for a label: the one that it had before, if nobody had that since, so that what is kept on disk names it once.
func (s *slots) take(label string) uint32 {
	i := slices.IndexFunc(s.free, func(n uint32) bool { return s.list[n].label == label })
	if i < 0 {
		i = len(s.free) - 1
	}
	n := s.free[i]
	s.free = slices.Delete(s.free, i, i+1)
	return n
}

// rest is told after a read of everything: a slot whose label is gone is read once more, and is free after that.
func (s *slots) rest() {
	for i := range s.list {
		switch x := &s.list[i]; x.gone {
		case 0:
		case 1:
			x.gone = 2
		default:
			delete(s.byLabel, x.label)
			*x = slot{label: x.label}
			s.free = append(s.free, uint32(i))
		}
	}
}

// since returns what came to the totals of a slot since they were asked for last; ok is false where nothing did.
func (s *slots) since(n uint32, now [ways]Totals) (d [ways]Totals, ok bool) {
	base := &s.list[n].base
	for w := range now {
		a, b := &base[w], &now[w]
		if b.Frames < a.Frames || b.Bytes < a.Bytes || b.L3 < a.L3 { // not what was read before: begin here
			continue
		}
		d[w] = Totals{b.Bytes - a.Bytes, b.Frames - a.Frames, b.L3 - a.L3}
		ok = ok || d[w].Frames > 0
	}
	*base = now
	return d, ok
}

func (s *slots) saved(n uint32) Saved { return Saved{n, s.list[n].label, s.list[n].base} }
