package ipmi

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// fields are what a FRU device says about the machine.
type fields struct{ maker, model, serial string }

const (
	machineFRU = 0 // the device that every controller has (section 34)
	fruChunk   = 32
	fruSmall   = 16 // what controllers that refuse more give
	maxArea    = 512
)

// errFRU: the device holds nothing that can be read.
var errFRU = errors.New("broken FRU")

// fru reads the product, chassis and board areas. Source: Platform Management FRU Information Storage Definition 1.3.
func (c *Controller) fru(ctx context.Context) (fields, error) {
	info, err := c.read(ctx, cmdFRUInfo, machineFRU)
	if err != nil {
		return fields{}, err
	}
	if len(info) < 3 {
		return fields{}, errFRU
	}
	r := fruReader{c: c, size: int(binary.LittleEndian.Uint16(info)), words: int(info[2] & 1), chunk: fruChunk}
	header, err := r.read(ctx, 0, 8)
	if err != nil {
		return fields{}, err
	}
	if header[0] != 1 || checksum(header) != 0 {
		return fields{}, errFRU
	}
	var areas [3][]byte // chassis, board, product
	for i := range areas {
		if areas[i], err = r.area(ctx, int(header[i+2])*8); err != nil && !errors.Is(err, errFRU) {
			return fields{}, err
		}
	}
	return parseFRU(areas[0], areas[1], areas[2]), nil
}

// parseFRU reads the areas; nil and broken ones say nothing. The product's serial is the machine's; where it has none, the chassis's
// is, then the board's.
func parseFRU(chassis, board, product []byte) fields {
	p, b, c := texts(product, 3), texts(board, 6), texts(chassis, 3)
	return fields{
		maker:  cmp.Or(at(p, 0), at(b, 0)),
		model:  cmp.Or(at(p, 1), at(b, 1)),
		serial: cmp.Or(at(p, 4), at(c, 1), at(b, 2)),
	}
}

func at(s []string, i int) string {
	if i < len(s) {
		return s[i]
	}
	return ""
}

// fruReader reads a FRU device in pieces that the controller gives.
type fruReader struct {
	c                  *Controller
	size, words, chunk int
}

func (r *fruReader) area(ctx context.Context, offset int) ([]byte, error) {
	if offset == 0 {
		return nil, nil
	}
	head, err := r.read(ctx, offset, 2)
	if err != nil {
		return nil, err
	}
	return r.read(ctx, offset, min(int(head[1])*8, maxArea))
}

func (r *fruReader) read(ctx context.Context, offset, n int) ([]byte, error) {
	if offset+n > r.size {
		return nil, errFRU
	}
	out := make([]byte, 0, n)
	for len(out) < n {
		want := min(r.chunk, n-len(out))
		from := offset + len(out)
		if r.words == 1 {
			if from%2 != 0 {
				return nil, errFRU
			}
			from /= 2
			want = (want + 1) / 2
		}
		b, err := r.c.read(ctx, cmdReadFRU, machineFRU, byte(from), byte(from>>8), byte(want))
		if k := code(err); (k == 0xc7 || k == 0xc8 || k == 0xca) && r.chunk > fruSmall {
			r.chunk = fruSmall
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(b) < 2 || b[0] == 0 {
			return nil, fmt.Errorf("%w: it gives nothing at %d", errFRU, from)
		}
		out = append(out, b[1:]...)
	}
	return out[:n], nil
}

// texts reads the fields of an area from an offset on, at most 16.
func texts(area []byte, from int) (out []string) {
	if len(area) < 8 || area[0]&0x0f != 1 || checksum(area) != 0 {
		return nil
	}
	english := area[2] == 0 || area[2] == 25
	for b := area[min(from, len(area)):]; len(b) > 0 && b[0] != 0xc1 && len(out) < 16; {
		n := int(b[0] & 0x3f)
		if n > len(b)-1 {
			return out
		}
		out = append(out, text(b[0]>>6, b[1:1+n], english))
		b = b[1+n:]
	}
	return out
}

// text decodes a string of one of the four kinds; binary is none. Source: section 13 of the FRU definition.
func text(kind byte, b []byte, english bool) string {
	var s []rune
	switch kind {
	case 1: // BCD plus
		for _, v := range b {
			for _, d := range []byte{v >> 4, v & 0x0f} {
				s = append(s, rune("0123456789 -.???"[d]))
			}
		}
	case 2: // six bits
		for i := 0; i+1 <= len(b)*8/6; i++ {
			bit := i * 6
			v := uint16(b[bit/8]) >> (bit % 8)
			if bit%8 > 2 {
				v |= uint16(b[bit/8+1]) << (8 - bit%8)
			}
			s = append(s, rune(v&0x3f)+' ')
		}
	case 3:
		if !english {
			return "" // UCS-2 of a language that nobody ships
		}
		for _, v := range b {
			s = append(s, rune(v)) // Latin-1
		}
	}
	clean := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, string(s))
	return strings.TrimSpace(clean)
}
