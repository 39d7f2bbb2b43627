package chunk

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// ErrBad: the bytes are not the chunk: wrong length, wrong hash, or a frame that does not decode to that length. Whoever sent
// them gets a strike.
var ErrBad = errors.New("bad chunk")

// Codec holds reusable zstd state.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// New returns a Codec. The level is the library's default: at 1 MiB chunks a higher one costs three times the CPU for 3 %.
func New() (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(Size))
	if err != nil {
		return nil, fmt.Errorf("cannot make zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(2), // how many Decodes run at once; the rest wait
		zstd.WithDecoderMaxMemory(MaxSize),
		zstd.WithDecoderMaxWindow(MaxSize), // no frame of ours needs more than one chunk
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("cannot make zstd decoder: %w", err)
	}
	return &Codec{enc, dec}, nil
}

// Close frees the decoder's workers.
func (c *Codec) Close() { c.dec.Close() }

// Encode returns the zstd frame of raw, or ok = false when it would not be smaller: send it raw then.
func (c *Codec) Encode(raw []byte) (frame []byte, ok bool) {
	frame = c.enc.EncodeAll(raw, make([]byte, 0, len(raw)))
	return frame, len(frame) < len(raw)
}

// Decode returns exactly rawLen octets, 0 to MaxSize, in a new slice. Errors: ErrBad.
func (c *Codec) Decode(frame []byte, rawLen int) ([]byte, error) {
	if rawLen < 0 || rawLen > MaxSize {
		return nil, fmt.Errorf("cannot decode chunk: %w: length %d", ErrBad, rawLen)
	}
	b, err := c.dec.DecodeAll(frame, make([]byte, 0, rawLen))
	if err != nil {
		return nil, fmt.Errorf("cannot decode chunk: %w: %w", ErrBad, err)
	}
	if len(b) != rawLen {
		return nil, fmt.Errorf("cannot decode chunk: %w: %d octets, want %d", ErrBad, len(b), rawLen)
	}
	return b, nil
}

// Prefix returns what a frame of rawLen octets that broke off decodes to, in whole blocks: a frame has one for each 128 KiB. It is never
// nil, at most rawLen-1 octets long, and not verified; what cannot be decoded ends it. rawLen is 1 to MaxSize, else nothing is decoded.
func (c *Codec) Prefix(frame []byte, rawLen int) []byte {
	if rawLen < 1 || rawLen > MaxSize {
		return []byte{}
	}
	b, _ := c.dec.DecodeAll(frame, make([]byte, 0, rawLen)) // it ends in the middle, of course
	if b == nil {
		return []byte{}
	}
	return b[:min(len(b), rawLen-1)]
}
