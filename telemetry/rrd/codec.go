package rrd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
)

// The tables: the first octet of a key. l and k are telemetry/account's.
const (
	tableSeries  = 's' // series u32: JSON of record
	tableProfile = 'p' // profile u16: JSON of Profile
	tableRow     = 'w' // group u16, slot u8: one tick of a group
	tableBlock   = 'b' // archive u8, series u32, slot u16: blockRows rows of one archive
	tableOpen    = 'h' // group u16, archive u8, part u8: open points of partSeries series
	tableMark    = 'm' // v: schema; t, group u16: last committed tick; c, group u16: last closed tick
)

const (
	groupSeries = 4096 // series of one profile in a group
	blockRows   = 60   // rows of a block, and ticks between two closes of a group
	slots       = 2 * blockRows
	partSeries  = 512
	version     = 1 // of every value
	schema      = 1
)

func keySeries(id uint32) []byte  { return binary.BigEndian.AppendUint32([]byte{tableSeries}, id) }
func keyProfile(id uint16) []byte { return binary.BigEndian.AppendUint16([]byte{tableProfile}, id) }
func keyMark(m byte, g uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{tableMark, m}, g)
}
func keySchema() []byte { return []byte{tableMark, 'v'} }

func keyRow(group uint16, tick int64) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{tableRow}, group), byte(tick%slots))
}

func keyBlock(archive int, id uint32, slot int64) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32([]byte{tableBlock, byte(archive)}, id), uint16(slot))
}

func keyOpen(group uint16, archive, part int) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{tableOpen}, group), byte(archive), byte(part))
}

// blockSlots is how many blocks the ring of an archive has: one more than its rows need, so that the oldest rows stay while the
// newest block fills.
func (a Archive) blockSlots() int64 { return int64((a.Rows+blockRows-1)/blockRows) + 1 }

// errValue is a value that was not written like this.
var errValue = errors.New("value is damaged")

// seal puts the version before a value and its CRC-32C behind it.
func seal(body []byte) []byte {
	return sum(append(append(make([]byte, 0, len(body)+5), version), body...))
}

// sum puts the CRC-32C behind a value that begins with its version.
func sum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func unseal(b []byte) ([]byte, error) {
	if len(b) < 5 || b[0] != version {
		return nil, errValue
	}
	n := len(b) - 4
	if crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(b[n:]) {
		return nil, errValue
	}
	return b[1:n], nil
}

func sealTick(tick int64) []byte { return seal(binary.BigEndian.AppendUint64(nil, uint64(tick))) }

func unsealTick(b []byte) (int64, error) {
	b, err := unseal(b)
	if err != nil || len(b) != 8 {
		return 0, errValue
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// encodeRow is tick i64, n u16, presence bits of n series, and a float64 of each series that is present: not NaN.
func encodeRow(tick int64, values []float64) []byte {
	n := len(values)
	b := make([]byte, 11+(n+7)/8, 15+(n+7)/8+8*n)
	b[0] = version
	binary.BigEndian.PutUint64(b[1:], uint64(tick))
	binary.BigEndian.PutUint16(b[9:], uint16(n))
	for i, v := range values {
		if !math.IsNaN(v) {
			b[11+i/8] |= 1 << (i % 8)
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(v))
		}
	}
	return sum(b)
}

// decodeRow returns the tick and values of at most groupSeries series, NaN where one is not present.
func decodeRow(b []byte) (int64, []float64, error) {
	b, err := unseal(b)
	if err != nil || len(b) < 10 {
		return 0, nil, errValue
	}
	tick, n := int64(binary.BigEndian.Uint64(b)), int(binary.BigEndian.Uint16(b[8:]))
	b = b[10:]
	have := (n + 7) / 8
	if n > groupSeries || len(b) < have || tick < 0 {
		return 0, nil, errValue
	}
	present, b := b[:have], b[have:]
	ones := 0
	for _, p := range present {
		ones += bits.OnesCount8(p)
	}
	if len(b) != 8*ones || n%8 != 0 && present[have-1]>>(n%8) != 0 {
		return 0, nil, errValue
	}
	values := make([]float64, n)
	for i := range values {
		values[i] = math.NaN()
		if present[i/8]&(1<<(i%8)) != 0 {
			values[i] = math.Float64frombits(binary.BigEndian.Uint64(b))
			b = b[8:]
		}
	}
	return tick, values, nil
}

// block is blockRows rows of one archive, from row number start on. Rows without a known point are zero.
type block struct {
	start int64
	rows  [blockRows]cdp
}

// columns are what an archive keeps of each row, in the order of the value: the known points' sum and number (for one step to a row the
// value alone, NaN when unknown), then what its functions ask for.
func (a Archive) columns() []func(*cdp) *float64 {
	cols := []func(*cdp) *float64{func(c *cdp) *float64 { return &c.sum }}
	if a.Steps > 1 {
		for _, cf := range a.CFs {
			switch cf {
			case Min:
				cols = append(cols, func(c *cdp) *float64 { return &c.min })
			case Max:
				cols = append(cols, func(c *cdp) *float64 { return &c.max })
			case Last:
				cols = append(cols, func(c *cdp) *float64 { return &c.last })
			}
		}
	}
	return cols
}

// encode is start i64, n u8 (rows up to the last known one), then by column: the count of each row (u16, not where one step makes a
// row), and each float64 column; a column whose rows are all equal is stored once. Octets of a column are ordered by significance:
// zstd, below, then finds what is alike.
func (k *block) encode(a Archive) []byte {
	n := blockRows
	for n > 0 && k.rows[n-1].count == 0 {
		n--
	}
	b := append(make([]byte, 0, 20+n*(2+8*len(a.CFs)+8)), version)
	b = append(binary.BigEndian.AppendUint64(b, uint64(k.start)), byte(n))
	if a.Steps > 1 {
		b = appendColumn(b, n, 2, func(r int) uint64 { return uint64(k.rows[r].count) })
	}
	for _, col := range a.columns() {
		b = appendColumn(b, n, 8, func(r int) uint64 {
			if k.rows[r].count == 0 {
				return math.Float64bits(math.NaN())
			}
			return math.Float64bits(*col(&k.rows[r]))
		})
	}
	return sum(b)
}

func appendColumn(b []byte, n, size int, at func(r int) uint64) []byte {
	same := n > 1
	for r := 1; r < n && same; r++ {
		same = at(r) == at(0)
	}
	if same {
		b, n = append(b, 1), 1
	} else {
		b = append(b, 0)
	}
	from := len(b)
	b = append(b, make([]byte, n*size)...)
	for r := range n {
		v := at(r)
		for p := range size {
			b[from+p*n+r] = byte(v >> (8 * (size - 1 - p)))
		}
	}
	return b
}

func cutColumn(b []byte, n, size int, set func(r int, v uint64)) ([]byte, error) {
	if len(b) < 1 || b[0] > 1 {
		return nil, errValue
	}
	have := n
	if b[0] == 1 {
		have = min(n, 1)
	}
	b = b[1:]
	if len(b) < have*size {
		return nil, errValue
	}
	var values [blockRows]uint64
	for p := range size {
		for r, v := range b[p*have : (p+1)*have] {
			values[r] = values[r]<<8 | uint64(v)
		}
	}
	for r := range n {
		set(r, values[r%have])
	}
	return b[have*size:], nil
}

// decode fills k, whatever was in it.
func (k *block) decode(a Archive, b []byte) error {
	b, err := unseal(b)
	if err != nil || len(b) < 9 || b[8] > blockRows {
		return errValue
	}
	*k = block{start: int64(binary.BigEndian.Uint64(b))}
	n := int(b[8])
	if b = b[9:]; a.Steps > 1 {
		if b, err = cutColumn(b, n, 2, func(r int, v uint64) { k.rows[r].count = uint32(v) }); err != nil {
			return err
		}
	}
	for _, col := range a.columns() {
		if b, err = cutColumn(b, n, 8, func(r int, v uint64) { *col(&k.rows[r]) = math.Float64frombits(v) }); err != nil {
			return err
		}
	}
	if len(b) != 0 {
		return errValue
	}
	for r := range k.rows[:n] {
		c := &k.rows[r]
		if a.Steps == 1 && !math.IsNaN(c.sum) {
			*c = cdp{sum: c.sum, min: c.sum, max: c.sum, last: c.sum, count: 1}
		}
		if c.count == 0 {
			*c = cdp{}
		}
		if int(c.count) > a.Steps {
			return errValue
		}
	}
	return nil
}

const openSize = 4*8 + 2

// encodeOpen is the tick up to which the points go, and sum, min, max, last, count of each.
func encodeOpen(tick int64, open []cdp) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(open)*openSize), uint64(tick))
	for _, c := range open {
		for _, f := range []float64{c.sum, c.min, c.max, c.last} {
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(f))
		}
		b = binary.BigEndian.AppendUint16(b, uint16(c.count))
	}
	return seal(b)
}

func decodeOpen(b []byte) (int64, []cdp, error) {
	b, err := unseal(b)
	if err != nil || len(b) < 8 || (len(b)-8)%openSize != 0 || (len(b)-8)/openSize > partSeries {
		return 0, nil, errValue
	}
	tick := int64(binary.BigEndian.Uint64(b))
	var open []cdp
	for b = b[8:]; len(b) > 0; b = b[openSize:] {
		f := func(i int) float64 { return math.Float64frombits(binary.BigEndian.Uint64(b[8*i:])) }
		open = append(open, cdp{sum: f(0), min: f(1), max: f(2), last: f(3), count: uint32(binary.BigEndian.Uint16(b[32:]))})
	}
	return tick, open, nil
}

func damaged(key []byte, err error) error { return fmt.Errorf("cannot read %q: %w", key, err) }
