package probe

import (
	"encoding/binary"
	"slices"
	"sync"
)

// soft counts what this process sees by itself: the same rules as the kernel's, for the rungs where the kernel does not count.
type soft struct {
	mu    sync.Mutex // guards what follows
	rules *rules
	bits  []uint32 // lengths of prefixes that there are, the longest first
	rows  map[softKey]*Row
}

type softKey struct {
	at    uint32 // index of counts
	index int    // of the interface
	rate  uint32
	total bool
}

func newSoft() *soft { return &soft{rules: compile(&Plan{}, nil, nil), rows: map[softKey]*Row{}} }

func (s *soft) set(r *rules) {
	var bits []uint32
	for k := range r.subnets {
		if !slices.Contains(bits, k.Bits) {
			bits = append(bits, k.Bits)
		}
	}
	slices.Sort(bits)
	slices.Reverse(bits)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules, s.bits = r, bits
}

// drain returns the rows since it was called last. Where samples were lost, each of the others stands for as many more, by interface.
func (s *soft) drain(label func(uint32) string, stand map[int]float64) (out []Row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range s.rows {
		r.Label, r.To, r.Inside, r.Total, r.Rate = label(k.at/ways), k.at&wayTo != 0, k.at&wayInside != 0, k.total, float64(k.rate)
		if more := stand[k.index]; k.rate > 1 && more > 1 {
			r.Rate, r.Lost = r.Rate*more, true
		}
		out = append(out, *r)
	}
	s.rows = map[softKey]*Row{}
	return out
}

// lookup finds the longest prefix of addr in a table.
func (s *soft) lookup(table uint32, addr [16]byte) *countSubnet {
	for _, bits := range s.bits {
		k := countSubnetKey{Bits: bits, Table: table, Addr: addr}
		n := int(bits) - 32
		for i := range k.Addr {
			switch left := n - 8*i; {
			case left <= 0:
				k.Addr[i] = 0
			case left < 8:
				k.Addr[i] &= 0xff << (8 - left)
			}
		}
		if v, ok := s.rules.subnets[k]; ok {
			return &v
		}
	}
	return nil
}

// frame is one that was seen whole or in its beginning, b from its Ethernet header on.
type frame struct {
	index  int
	out    bool
	len    int // octets, without a tag that was taken out
	mss    int // of a super-packet, else 0
	tagged bool
	vlan   uint16
	b      []byte
}

// headers is what count.c reads of a frame too.
type headers struct {
	vlan     uint16
	ip       bool
	src, dst [16]byte
	frames   int
	bytes    int // of all frames, with FCS
	l3       int // of all of them
}

// parse reads the headers of f. ok is false where there is not even an Ethernet header.
func (f *frame) parse() (h headers, ok bool) {
	b := f.b
	if len(b) < 14 {
		return h, false
	}
	h.vlan = f.vlan
	kind, off := binary.BigEndian.Uint16(b[12:]), 14
	if (kind == 0x8100 || kind == 0x88a8) && len(b) >= 18 {
		if !f.tagged {
			h.vlan = binary.BigEndian.Uint16(b[14:]) & 0xfff
		}
		kind, off = binary.BigEndian.Uint16(b[16:]), 18
	}
	ip, proto := 0, byte(0)
	switch l3 := b[off:]; {
	case kind == 0x0800 && len(l3) >= 20:
		h.ip, ip, proto, h.l3 = true, int(l3[0]&0xf)*4, l3[9], int(binary.BigEndian.Uint16(l3[2:]))
		h.src, h.dst = [16]byte{10: 0xff, 11: 0xff}, [16]byte{10: 0xff, 11: 0xff}
		copy(h.src[12:], l3[12:16])
		copy(h.dst[12:], l3[16:20])
	case kind == 0x86dd && len(l3) >= 40:
		h.ip, ip, proto = true, 40, l3[6]
		if h.l3 = int(binary.BigEndian.Uint16(l3[4:])); h.l3 > 0 {
			h.l3 += 40
		}
		copy(h.src[:], l3[8:24])
		copy(h.dst[:], l3[24:40])
	}
	l4, size := 0, f.len
	// Longer than an IPv6 header can say: an option says it, which no frame on the wire has.
	if at := off + ip; f.mss > 0 && kind == 0x86dd && h.ip && proto == 0 && h.l3 == 0 && len(b) >= at+8 && b[at+1] == 0 && b[at+2] == 0xc2 && size >= 8 {
		proto, size = b[at], size-8
		b = b[8:] // what follows is where it would be without
	}
	switch {
	case proto == 17:
		l4 = 8
	case proto == 6 && off+ip+12 < len(b):
		l4 = int(b[off+ip+12]>>4) * 4
	}
	head := off + ip + l4
	h.frames = 1
	if f.mss > 0 && size > head {
		h.frames = (size - head + f.mss - 1) / f.mss
	}
	if h.frames > 1 && h.ip {
		h.l3 = size - off + (h.frames-1)*(ip+l4)
	}
	if h.ip && (h.l3 == 0 || h.frames == 1 && h.l3 > size-off) {
		h.l3 = size - off
	}
	tag := 0
	if f.tagged {
		tag = 4
	}
	h.bytes = size + tag + (h.frames-1)*(head+tag) + 4*h.frames
	return h, true
}

// count adds a frame that stands for rate.
func (s *soft) count(f *frame, rate uint32) {
	h, ok := f.parse()
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.rules.ifaces[countInterfaceKey{Ifindex: uint32(f.index), Vlan: uint32(h.vlan)}]
	if !ok {
		i, ok = s.rules.ifaces[countInterfaceKey{Ifindex: uint32(f.index)}]
	}
	near := i.Flags&flagNear != 0
	if !ok || (!near && f.b[0]&1 != 0) {
		return
	}
	to := near != f.out
	var own, peer *countSubnet
	if h.ip {
		own, peer = s.lookup(i.Table, h.src), s.lookup(i.Table, h.dst)
		if to {
			own, peer = peer, own
		}
	}
	slot, group := i.Slot, i.Group
	switch {
	case own != nil && own.Slot != slotPeer:
		slot = own.Slot
		if group == 0 {
			group = own.Group
		}
	case i.Flags&flagWhole == 0:
		return
	}
	at := ways * slot
	if to {
		at |= wayTo
	}
	if group != 0 && peer != nil && peer.Group == group {
		at |= wayInside
	}
	r := s.row(softKey{at, f.index, rate, false})
	r.Samples++
	r.Bytes += uint64(h.bytes)
	r.L3 += uint64(h.l3)
	r.Frames += uint64(h.frames)
	r.Squares += float64(h.bytes) * float64(h.bytes)
}

// total adds frames of an interface of which nobody knows whose they are.
func (s *soft) total(index int, out bool, frames, bytes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.rules.ifaces[countInterfaceKey{Ifindex: uint32(index)}]
	if !ok || i.Flags&flagWhole == 0 || frames == 0 {
		return
	}
	at := ways * i.Slot
	if (i.Flags&flagNear != 0) != out {
		at |= wayTo
	}
	r := s.row(softKey{at, index, 1, true})
	r.Samples += frames
	r.Frames += frames
	r.Bytes += bytes
}

// row returns the row of k; s.mu is held.
func (s *soft) row(k softKey) *Row {
	r := s.rows[k]
	if r == nil {
		r = &Row{}
		s.rows[k] = r
	}
	return r
}
