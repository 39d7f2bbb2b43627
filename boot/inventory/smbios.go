package inventory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// The bounds of the tables: real ones have 20 to 400 structures in up to 30 KiB.
const (
	maxTable      = 1 << 20
	maxStructures = 4096
	maxSockets    = 1024
)

// ErrSMBIOS says that the tables could not be walked to their end. What was read before stands.
var ErrSMBIOS = errors.New("bad SMBIOS tables")

// structure is one SMBIOS structure: the formatted area and its strings.
type structure struct {
	kind    byte
	data    []byte // whole formatted area, header included, so offsets are those of the specification
	strings []string
}

// str returns the string whose number stands at off; "" when there is none.
func (s *structure) str(off int) string {
	if off >= len(s.data) || s.data[off] == 0 || int(s.data[off]) > len(s.strings) {
		return ""
	}
	v := clean(s.strings[s.data[off]-1])
	switch strings.ToLower(v) { // what vendors leave in; as good as nothing
	case "not specified", "to be filled by o.e.m.", "default string", "none", "unknown", "system serial number", "0":
		return ""
	}
	return v
}

func (s *structure) u8(off int) int {
	if off >= len(s.data) {
		return 0
	}
	return int(s.data[off])
}

func (s *structure) u16(off int) int {
	if off+2 > len(s.data) {
		return 0
	}
	return int(binary.LittleEndian.Uint16(s.data[off:]))
}

func (s *structure) u32(off int) uint32 {
	if off+4 > len(s.data) {
		return 0
	}
	return binary.LittleEndian.Uint32(s.data[off:])
}

// walk calls fn for each structure of b, in order, to the end-of-table structure. Errors: ErrSMBIOS.
// Source: DMTF DSP0134 3.7, section 6.1.
func walk(b []byte, fn func(*structure)) error {
	if len(b) > maxTable {
		return fmt.Errorf("cannot read tables of %d octets: %w", len(b), ErrSMBIOS)
	}
	for range maxStructures {
		if len(b) == 0 {
			return nil
		}
		if len(b) < 4 || int(b[1]) < 4 || int(b[1]) > len(b) {
			return fmt.Errorf("cannot read structure header, %d octets left: %w", len(b), ErrSMBIOS)
		}
		s := &structure{kind: b[0], data: b[:b[1]]}
		rest := b[b[1]:]
		end := bytes.Index(rest, []byte{0, 0})
		if end < 0 {
			return fmt.Errorf("cannot read strings of a type %d structure: %w", s.kind, ErrSMBIOS)
		}
		if end > 0 {
			for _, v := range bytes.Split(rest[:end], []byte{0}) {
				s.strings = append(s.strings, string(v))
			}
		}
		if s.kind == 127 {
			return nil
		}
		fn(s)
		b = rest[end+2:]
	}
	return fmt.Errorf("cannot read more than %d structures: %w", maxStructures, ErrSMBIOS)
}

// smbios fills the report from the raw tables. Errors: ErrSMBIOS; what was read before stays.
func (r *Report) smbios(b []byte) error {
	return walk(b, func(s *structure) {
		switch s.kind {
		case 0:
			r.BIOS = BIOS{Vendor: s.str(4), Version: s.str(5), Date: s.str(8)}
		case 1:
			r.Vendor, r.Product, r.Serial, r.SKU = s.str(4), s.str(5), s.str(7), s.str(0x19)
			r.UUID = uuid(s)
		case 2:
			if r.Board == (Board{}) {
				r.Board = Board{Vendor: s.str(4), Product: s.str(5), Serial: s.str(7), AssetTag: s.str(8)}
			}
		case 3:
			if r.Chassis == (Board{}) {
				r.Chassis = Board{Vendor: s.str(4), Product: s.str(5), Serial: s.str(7), AssetTag: s.str(8)}
			}
		case 4:
			if c, ok := cpu(s); ok && len(r.CPUs) < maxSockets {
				r.CPUs = append(r.CPUs, c)
			}
		case 17:
			if d, ok := dimm(s); ok && len(r.DIMMs) < maxSockets {
				r.DIMMs = append(r.DIMMs, d)
			}
		}
	})
}

// uuid reads the little-endian form that SMBIOS 2.6 fixed. All zeros or all ones mean "not set".
func uuid(s *structure) string {
	if len(s.data) < 0x18 {
		return ""
	}
	u := s.data[8:0x18]
	if bytes.Count(u, []byte{0}) == 16 || bytes.Count(u, []byte{0xFF}) == 16 {
		return ""
	}
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(u), le.Uint16(u[4:]), le.Uint16(u[6:]), u[8:10], u[10:])
}

func cpu(s *structure) (CPU, bool) {
	if s.u8(0x18)&0x40 == 0 || s.u8(5) != 3 { // socket empty, or no central processor
		return CPU{}, false
	}
	c := CPU{Socket: s.str(4), Model: s.str(0x10), MHz: s.u16(0x16), Cores: s.u8(0x23), Threads: s.u8(0x25)}
	if c.Cores == 0xFF && s.u16(0x2A) > 0 {
		c.Cores = s.u16(0x2A)
	}
	if c.Threads == 0xFF && s.u16(0x2E) > 0 {
		c.Threads = s.u16(0x2E)
	}
	return c, true
}

// dimm reads the size: 0 = empty, 7FFFh = extended, bit 15 = KiB instead of MiB.
func dimm(s *structure) (DIMM, bool) {
	var size uint64
	switch n := s.u16(0x0C); {
	case n == 0 || n == 0xFFFF:
		return DIMM{}, false
	case n == 0x7FFF:
		size = uint64(s.u32(0x1C)&0x7FFFFFFF) << 20
	case n&0x8000 != 0:
		size = uint64(n&0x7FFF) << 10
	default:
		size = uint64(n) << 20
	}
	d := DIMM{Slot: s.str(0x10), SizeBytes: size, Vendor: s.str(0x17), Serial: s.str(0x18), Part: s.str(0x1A), MTs: s.u16(0x20)}
	if d.MTs == 0 {
		d.MTs = s.u16(0x15)
	}
	return d, true
}
