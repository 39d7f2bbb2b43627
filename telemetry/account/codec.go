package account

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"net/netip"
	"time"
)

// errDamaged is a value that is not as it was written.
var errDamaged = errors.New("account: damaged value")

const (
	codecVersion = 1
	maxText      = 255 // octets of one label: names are DNS labels, prefixes shorter
	// maxValue bounds one part of an interval on disk.
	maxValue = 32 << 10
)

// parts encodes v into values of at most maxValue octets: version, header, table of texts, rows, CRC32C. The parts after the first carry
// rows only: their counts are 0.
func (v *Interval) parts() [][]byte {
	var out [][]byte
	head, rows := *v, v.Rows
	for {
		w := writer{index: map[string]uint64{}}
		n := 0
		for n < len(rows) && w.size() < maxValue-1024 {
			w.row(&rows[n])
			n++
		}
		out = append(out, w.value(&head))
		if rows = rows[n:]; len(rows) == 0 {
			return out
		}
		head.Datagrams, head.Lost, head.Samples, head.SamplesLost, head.AgentDrops, head.Minutes = 0, 0, 0, 0, 0, 0
	}
}

type writer struct {
	texts []byte
	count uint64
	index map[string]uint64
	rows  []byte
	n     uint64
}

func (w *writer) size() int { return len(w.texts) + len(w.rows) }

func (w *writer) text(s string) {
	if len(s) > maxText {
		s = s[:maxText]
	}
	i, ok := w.index[s]
	if !ok {
		i = w.count
		w.index[s] = i
		w.count++
		w.texts = append(binary.AppendUvarint(w.texts, uint64(len(s))), s...)
	}
	w.rows = binary.AppendUvarint(w.rows, i)
}

func (w *writer) row(r *Row) {
	w.n++
	for _, s := range [...]string{r.Project, r.Network, r.Subnet, r.Machine, r.Direction, r.Scope} {
		w.text(s)
	}
	for _, n := range [...]uint64{r.Samples, r.Bytes, r.L3, r.Packets, uint64(r.Flags)} {
		w.rows = binary.AppendUvarint(w.rows, n)
	}
	w.rows = binary.BigEndian.AppendUint64(w.rows, math.Float64bits(r.Var))
	w.rows = binary.BigEndian.AppendUint64(w.rows, math.Float64bits(r.PacketVar))
}

func (w *writer) value(v *Interval) []byte {
	b := []byte{codecVersion}
	agent := v.Agent.AsSlice()
	b = append(append(b, byte(len(agent))), agent...)
	b = append(append(b, byte(min(len(v.Switch), maxText))), v.Switch[:min(len(v.Switch), maxText)]...)
	b = binary.AppendVarint(b, v.Start.UnixMilli())
	for _, n := range [...]uint64{
		uint64(v.SubAgent), uint64(v.Bucket), uint64(v.SeqFrom), uint64(v.SeqTo), uint64(v.Minutes), v.Datagrams, v.Lost, v.Samples, v.SamplesLost,
		v.AgentDrops, uint64(v.Flags), w.count, w.n,
	} {
		b = binary.AppendUvarint(b, n)
	}
	b = append(append(b, w.texts...), w.rows...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// decode reads one part. rows false leaves the rows out, and their texts unread. Errors: errDamaged.
func decode(b []byte, rows bool) (*Interval, error) {
	if len(b) < 6 || b[0] != codecVersion || crc32.Checksum(b[:len(b)-4], castagnoli()) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return nil, errDamaged
	}
	r := reader{b: b[1 : len(b)-4]}
	v := &Interval{}
	if agent := r.take(int(r.octet())); len(agent) > 0 {
		a, ok := netip.AddrFromSlice(agent)
		if !ok {
			return nil, errDamaged
		}
		v.Agent = a
	}
	v.Switch = string(r.take(int(r.octet())))
	v.Start = time.UnixMilli(r.varint()).UTC()
	v.SubAgent, v.Bucket, v.SeqFrom, v.SeqTo, v.Minutes = r.u32(), r.u32(), r.u32(), r.u32(), r.u32()
	v.Datagrams, v.Lost, v.Samples, v.SamplesLost, v.AgentDrops = r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint()
	v.Flags = Flags(r.u32())
	texts, n := r.uvarint(), r.uvarint()
	if r.bad {
		return nil, errDamaged
	}
	if !rows {
		return v, nil
	}
	if texts > uint64(len(r.b)) || n > uint64(len(r.b)) { // each takes at least an octet
		return nil, errDamaged
	}
	table := make([]string, texts)
	for i := range table {
		table[i] = string(r.take(int(min(r.uvarint(), maxText+1))))
	}
	v.Rows = make([]Row, n)
	for i := range v.Rows {
		r.row(&v.Rows[i], table)
	}
	if r.bad || len(r.b) != 0 {
		return nil, errDamaged
	}
	return v, nil
}

type reader struct {
	b   []byte
	bad bool
}

func (r *reader) row(x *Row, table []string) {
	for _, s := range [...]*string{&x.Project, &x.Network, &x.Subnet, &x.Machine, &x.Direction, &x.Scope} {
		i := r.uvarint()
		if i >= uint64(len(table)) {
			r.bad = true
			return
		}
		*s = table[i]
	}
	x.Samples, x.Bytes, x.L3, x.Packets, x.Flags = r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint(), Flags(r.u32())
	if f := r.take(16); len(f) == 16 {
		x.Var, x.PacketVar = math.Float64frombits(binary.BigEndian.Uint64(f)), math.Float64frombits(binary.BigEndian.Uint64(f[8:]))
	}
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) octet() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) varint() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) u32() uint32 {
	n := r.uvarint()
	if n > math.MaxUint32 {
		r.bad = true
	}
	return uint32(n)
}
