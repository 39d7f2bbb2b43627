package swarm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Wire history: 1 (2026-11): DATA and END as in mesh.md section 5, as the body of a GET.
const (
	frameData  = 6
	frameEnd   = 7
	flagSkip   = 1 // an unknown frame with it is skipped
	frameHead  = 8
	dataHead   = 16
	endLen     = 9
	maxFrame   = intent.MaxChunkSize + 64
	encRaw     = 0
	encZstd    = 1
	statusOK   = 0
	statusGone = 1
	statusBusy = 2
)

// The errors of a stream.
var (
	// ErrGone: the source does not have (all of) what was asked.
	ErrGone = errors.New("source does not have the chunks")
	// ErrBusy: the source asks to come back later.
	ErrBusy = errors.New("source is busy")
	// ErrFrame: the stream breaks the protocol.
	ErrFrame = errors.New("bad frame")
)

// writeData writes one DATA frame: the chunk compressed where that makes it smaller.
func writeData(w io.Writer, c *chunk.Codec, i int, raw []byte, zstd bool) error {
	enc, body := byte(encRaw), raw
	if zstd {
		if f, ok := c.Encode(raw); ok {
			enc, body = encZstd, f
		}
	}
	h := make([]byte, frameHead+dataHead)
	be := binary.BigEndian
	h[0] = frameData
	be.PutUint32(h[4:], uint32(dataHead+len(body)))
	be.PutUint32(h[12:], uint32(i))
	h[16] = enc
	be.PutUint32(h[20:], uint32(len(raw)))
	if _, err := w.Write(h); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

func writeEnd(w io.Writer, status byte) error {
	b := make([]byte, frameHead+endLen)
	b[0] = frameEnd
	binary.BigEndian.PutUint32(b[4:], endLen)
	b[frameHead+4] = status
	_, err := w.Write(b)
	return err
}

// readFrames calls fn for each chunk of a stream that was asked for chunks first to first+n-1 of m, until END. Chunks come in
// ascending order; their raw length must be the manifest's. fn owns b. What is not a chunk of m is chunk.ErrBad.
func readFrames(r io.Reader, c *chunk.Codec, m *intent.Manifest, first, n int, fn func(i int, b []byte) error) error {
	h := make([]byte, frameHead)
	for next := first; ; {
		if _, err := io.ReadFull(r, h); err != nil {
			return fmt.Errorf("cannot read frame: %w", err)
		}
		l := binary.BigEndian.Uint32(h[4:])
		if l > maxFrame {
			return fmt.Errorf("cannot read frame: %w: %d octets", ErrFrame, l)
		}
		switch {
		case h[0] == frameData && l >= dataHead:
			i, raw, err := readData(r, c, m, int(l))
			if err != nil {
				return err
			}
			if i < next || i >= first+n {
				return fmt.Errorf("cannot read frame: %w: chunk %d was not asked for", ErrFrame, i)
			}
			next = i + 1
			if err := fn(i, raw); err != nil {
				return err
			}
		case h[0] == frameEnd && l == endLen:
			return readEnd(r)
		case h[1]&flagSkip != 0:
			if _, err := io.CopyN(io.Discard, r, int64(l)); err != nil {
				return fmt.Errorf("cannot read frame: %w", err)
			}
		default:
			return fmt.Errorf("cannot read frame: %w: type %d, %d octets", ErrFrame, h[0], l)
		}
	}
}

func readEnd(r io.Reader) error {
	b := make([]byte, endLen)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("cannot read frame: %w", err)
	}
	switch b[4] {
	case statusOK:
		return nil
	case statusBusy:
		return ErrBusy
	}
	return ErrGone
}

func readData(r io.Reader, c *chunk.Codec, m *intent.Manifest, l int) (int, []byte, error) {
	var h [dataHead]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, fmt.Errorf("cannot read frame: %w", err)
	}
	i, enc, raw := int(binary.BigEndian.Uint32(h[4:])), h[8], int(binary.BigEndian.Uint32(h[12:]))
	if i >= len(m.Chunks) {
		return 0, nil, fmt.Errorf("cannot read frame: %w: chunk %d of %d", ErrFrame, i, len(m.Chunks))
	}
	_, want := m.ChunkRange(i)
	body := l - dataHead
	if raw != want || enc > encZstd || enc == encRaw && body != raw || body > raw {
		return 0, nil, fmt.Errorf("cannot read chunk %d: %w: %d octets as %d, want %d", i, chunk.ErrBad, body, raw, want)
	}
	b := make([]byte, body)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, fmt.Errorf("cannot read chunk %d: %w", i, err)
	}
	if enc == encRaw {
		return i, b, nil
	}
	b, err := c.Decode(b, raw)
	return i, b, err
}
