package swarm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	// headerSize is type u8 | flags u8 | 0 u16 | len u32. DATA: req u32 | chunk u32 | enc u8 | 0[3] | rawlen u32 (mesh.md section 5).
	headerSize = 8
	dataHeader = 16
	typeData   = 6
	encRaw     = 0
	encZstd    = 1
	// HAVE, of 2026-11: manifest[32] | octets u64 | stripe u32 | patience_ms u32 | chunks u32 | form u8 | flags u8 | need u16 | today u64 | bitmap.
	haveHeader = 64
	typeHave   = 2
	formNone   = 0
	formAll    = 1
	formBits   = 2 // chunk 0 = highest bit of octet 0
	formSame   = 3 // the bits of the frame before
	flagAble   = 1
	flagOut    = 2
	flagTakes  = 4
)

// writeData writes the frame of chunk i; of a resumed one, raw is what the reader has not yet. A chunk that is asked from its middle is
// plain, not compressed: whatever comes of it can be kept, so that it gets done on a wire that breaks off all the time.
func writeData(w io.Writer, codec *chunk.Codec, i int, raw []byte, plain bool) error {
	body, enc := raw, byte(encRaw)
	if !plain {
		if z, smaller := codec.Encode(raw); smaller {
			body, enc = z, encZstd
		}
	}
	h := make([]byte, headerSize+dataHeader)
	h[0] = typeData
	binary.BigEndian.PutUint32(h[4:], uint32(dataHeader+len(body)))
	binary.BigEndian.PutUint32(h[12:], uint32(i))
	h[16] = enc
	binary.BigEndian.PutUint32(h[20:], uint32(len(raw)))
	if _, err := w.Write(h); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

// readData reads one DATA frame that must hold chunk i of m, or what follows had of it, and returns the chunk, not yet verified.
// Where the frame breaks off, what came of the chunk until then comes with the error: nil, nothing; empty, nothing that can be used.
// buf is used for it if it is large enough.
func readData(r io.Reader, codec *chunk.Codec, m *chunk.Manifest, i int, had, buf []byte) ([]byte, error) {
	var h [headerSize + dataHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return slices.Clone(had), err
	}
	size, got, rawLen := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[12:]), int64(binary.BigEndian.Uint32(h[20:]))
	_, want := m.ChunkRange(i)
	if rawLen == int64(want) {
		had = nil // it sends all
	}
	rest := want - len(had)
	if h[0] != typeData || got != uint32(i) || rawLen != int64(rest) || size < dataHeader || int64(size-dataHeader) > int64(rest) {
		return nil, fmt.Errorf("cannot use frame of chunk %d: %w", i, chunk.ErrBad)
	}
	body := int(size - dataHeader)
	switch {
	case h[16] == encRaw && body == rest:
		b := slices.Grow(buf[:0], want)[:want]
		n, err := io.ReadFull(r, b[copy(b, had):])
		return b[:len(had)+n], err
	case h[16] == encZstd && len(had) == 0:
		b := make([]byte, body)
		if n, err := io.ReadFull(r, b); err != nil {
			return codec.Prefix(b[:n], want), err
		}
		return codec.Decode(b, want)
	}
	return nil, fmt.Errorf("cannot use frame of chunk %d: %w", i, chunk.ErrBad)
}

// noStripe: nothing is being fetched from the coordinator.
const noStripe = 1<<32 - 1

// maxNeed is how many stripes can be told of as needed: those of 1 TiB.
const maxNeed = 1<<16 - 1

// word is what an agent tells of an asset.
type word struct {
	manifest intent.Digest // of the manifest that it has; zero: none
	octets   uint64        // that it took from the coordinator, in this life: it grows while it moves
	today    uint64        // octets that it took from the coordinator since midnight, of all assets
	stripe   uint32        // that it fetches from the coordinator now, or noStripe
	patience time.Duration // how long this word holds when nothing more is heard, leastPatience to mostPatience
	able     bool          // it wants the asset, and can fetch from the coordinator
	out      bool          // it takes no chunk of the asset from who hears this: bad ones came
	need     uint32        // stripe that readers there wait for, and nobody has as far as it knows, plus 1; 0: none
	takes    bool          // something comes to it from the coordinator, of whatever asset
	chunks   int           // of the manifest, 0 to chunk.MaxChunks
	have     []byte        // verified chunks, one bit each; nil: none
}

// has tells whether chunk i is there.
func (w *word) has(i int) bool { return i < w.chunks && bit(w.have, i) }

func bit(b []byte, i int) bool { return i/8 < len(b) && b[i/8]&(0x80>>(i%8)) != 0 }

// full returns n bits that are set.
func full(n int) []byte {
	b := make([]byte, (n+7)/8)
	for i := range n {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

// encode returns the frame of w. same: the bits are those of the frame before.
func (w *word) encode(same bool) []byte {
	form, bits := byte(formBits), w.have
	switch {
	case same:
		form, bits = formSame, nil
	case w.have == nil:
		form = formNone
	case string(w.have) == string(full(w.chunks)):
		form, bits = formAll, nil
	}
	b := make([]byte, headerSize+haveHeader, headerSize+haveHeader+len(bits))
	b[0] = typeHave
	be := binary.BigEndian
	be.PutUint32(b[4:], uint32(haveHeader+len(bits)))
	copy(b[8:], w.manifest[:])
	be.PutUint64(b[40:], w.octets)
	be.PutUint32(b[48:], w.stripe)
	be.PutUint32(b[52:], uint32(w.patience/time.Millisecond))
	be.PutUint32(b[56:], uint32(w.chunks))
	b[60] = form
	if w.need <= maxNeed { // of larger ones no notice is given
		be.PutUint16(b[62:], uint16(w.need))
	}
	be.PutUint64(b[64:], w.today)
	if w.able {
		b[61] |= flagAble
	}
	if w.out {
		b[61] |= flagOut
	}
	if w.takes {
		b[61] |= flagTakes
	}
	return append(b, bits...)
}

// errWord: a frame that is no HAVE.
var errWord = errors.New("bad word")

// readWord reads one HAVE frame. before is the one that came before it on the same stream, nil for the first. Nothing is allocated
// before the lengths are known to fit: at most an eighth of chunk.MaxChunks.
func readWord(r io.Reader, before *word) (*word, error) {
	var h [headerSize + haveHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	chunks, bits := be.Uint32(h[56:]), uint32(0)
	if h[60] == formBits {
		bits = (min(chunks, chunk.MaxChunks) + 7) / 8
	}
	if h[0] != typeHave || chunks > chunk.MaxChunks || h[60] > formSame || be.Uint32(h[4:]) != haveHeader+bits {
		return nil, fmt.Errorf("cannot read what it has: %w", errWord)
	}
	w := &word{manifest: intent.Digest(h[8:40]), octets: be.Uint64(h[40:]), today: be.Uint64(h[64:]), stripe: be.Uint32(h[48:]), able: h[61]&flagAble != 0, out: h[61]&flagOut != 0, takes: h[61]&flagTakes != 0, chunks: int(chunks)}
	w.need = uint32(be.Uint16(h[62:]))
	w.patience = min(max(time.Duration(be.Uint32(h[52:]))*time.Millisecond, leastPatience), mostPatience)
	switch h[60] {
	case formAll:
		w.have = full(w.chunks)
	case formBits:
		w.have = make([]byte, bits)
		if _, err := io.ReadFull(r, w.have); err != nil {
			return nil, err
		}
	case formSame:
		if before == nil || before.chunks != w.chunks || before.manifest != w.manifest {
			return nil, fmt.Errorf("cannot read what it has: %w: nothing came before", errWord)
		}
		w.have = before.have
	}
	return w, nil
}
