package state

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Bounds of one record.
const (
	MaxBucket = 64
	MaxKey    = 1024
	MaxValue  = 1<<20 - 4096 // Badger keeps values under 1 MiB in the tree; above, its value log would need collecting
	macSize   = 16           // trust.md section 11: 16 octets of HMAC-SHA256
	slots     = 256
)

// Key spaces inside Badger: a letter, the bucket's length and name, then the key.
const (
	spaceData   = 'd'
	spaceSlot   = 's'
	spaceHeader = 'h'
)

func rawKey(space byte, bucket string, key []byte) []byte {
	b := make([]byte, 0, 2+len(bucket)+len(key))
	b = append(b, space, byte(len(bucket)))
	b = append(b, bucket...)
	return append(b, key...)
}

// splitKey undoes rawKey.
func splitKey(raw []byte) (space byte, bucket string, key []byte, ok bool) {
	if len(raw) < 2 || len(raw) < 2+int(raw[1]) {
		return 0, "", nil, false
	}
	n := 2 + int(raw[1])
	return raw[0], string(raw[2:n]), raw[n:], true
}

func slotOf(key []byte) byte {
	h := sha256.Sum256(key)
	return h[0]
}

// mac covers everything that names the record: a record moved to another key, bucket or version does not verify.
func (d *DB) mac(space byte, bucket string, key []byte, version uint64, value []byte) [macSize]byte {
	h := hmac.New(sha256.New, d.cfg.Key)
	var b [11]byte
	b[0], b[1] = space, byte(len(bucket))
	h.Write(b[:2])
	h.Write([]byte(bucket))
	binary.BigEndian.PutUint16(b[:], uint16(len(key)))
	h.Write(b[:2])
	h.Write(key)
	binary.BigEndian.PutUint64(b[:], version)
	h.Write(b[:8])
	h.Write(value)
	var out [macSize]byte
	copy(out[:], h.Sum(nil))
	return out
}

// seal returns version | value | MAC.
func (d *DB) seal(space byte, bucket string, key []byte, version uint64, value []byte) []byte {
	m := d.mac(space, bucket, key, version, value)
	b := make([]byte, 8, 8+len(value)+macSize)
	binary.BigEndian.PutUint64(b, version)
	b = append(b, value...)
	return append(b, m[:]...)
}

// open undoes seal; value points into b. Errors: ErrDamaged.
func (d *DB) open(space byte, bucket string, key, b []byte) (version uint64, value []byte, m [macSize]byte, err error) {
	if len(b) < 8+macSize {
		return 0, nil, m, fmt.Errorf("cannot read %s/%q: %w: %d octets", bucket, key, ErrDamaged, len(b))
	}
	version = binary.BigEndian.Uint64(b)
	value = b[8 : len(b)-macSize]
	m = d.mac(space, bucket, key, version, value)
	if !hmac.Equal(m[:], b[len(b)-macSize:]) {
		return 0, nil, m, fmt.Errorf("cannot read %s/%q: %w: MAC does not fit", bucket, key, ErrDamaged)
	}
	return version, value, m, nil
}

// sum is a count and the sum of record MACs modulo 2^128: independent of order, so it is kept incrementally.
type sum struct {
	count  uint64
	hi, lo uint64
}

func (s *sum) add(m [macSize]byte) {
	var c uint64
	s.lo, c = bits.Add64(s.lo, binary.BigEndian.Uint64(m[8:]), 0)
	s.hi, _ = bits.Add64(s.hi, binary.BigEndian.Uint64(m[:]), c)
	s.count++
}

func (s *sum) sub(m [macSize]byte) {
	var c uint64
	s.lo, c = bits.Sub64(s.lo, binary.BigEndian.Uint64(m[8:]), 0)
	s.hi, _ = bits.Sub64(s.hi, binary.BigEndian.Uint64(m[:]), c)
	s.count--
}

// root returns the sum alone, 32 hexadecimal digits.
func (s sum) root() string { return fmt.Sprintf("%016x%016x", s.hi, s.lo) }

func (s sum) encode() []byte {
	b := make([]byte, 24)
	binary.BigEndian.PutUint64(b, s.count)
	binary.BigEndian.PutUint64(b[8:], s.hi)
	binary.BigEndian.PutUint64(b[16:], s.lo)
	return b
}

func decodeSum(b []byte) (sum, bool) {
	if len(b) != 24 {
		return sum{}, false
	}
	be := binary.BigEndian
	return sum{be.Uint64(b), be.Uint64(b[8:]), be.Uint64(b[16:])}, true
}
