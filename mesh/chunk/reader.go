package chunk

import (
	"errors"
	"fmt"
	"io"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// ErrForged: bytes are not the manifest that was signed for an asset.
var ErrForged = errors.New("not the signed manifest")

// ReadManifest reads the manifest of asset content whose digest is signed: at most MaxManifestSize octets of r. Errors: ErrForged,
// ErrManifest, r's.
func ReadManifest(r io.Reader, content, signed intent.Digest) (*Manifest, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxManifestSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	if intent.DigestOf(b) != signed {
		return nil, fmt.Errorf("cannot use manifest: %w", ErrForged)
	}
	m, err := ParseManifest(b)
	if err != nil {
		return nil, err
	}
	if m.Content != content {
		return nil, fmt.Errorf("cannot use manifest: %w: it is of another asset", ErrForged)
	}
	return m, nil
}

// Reader reads an asset through its chunks, of which it holds one. It is not safe for concurrent use.
type Reader struct {
	m    *Manifest
	load func(i int, buf []byte) ([]byte, error)
	pos  int64
	at   int // chunk in cur, -1 none
	buf  []byte
	cur  []byte
}

// NewReader returns a reader at the beginning of m's asset. load returns chunk i, verified; it may use buf, of ChunkSize octets. Its
// errors are Read's.
func NewReader(m *Manifest, load func(i int, buf []byte) ([]byte, error)) *Reader {
	return &Reader{m: m, load: load, at: -1}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if r.pos >= int64(r.m.Size) {
		return 0, io.EOF
	}
	i := int(r.pos / int64(r.m.ChunkSize))
	if i != r.at {
		if r.buf == nil {
			r.buf = make([]byte, r.m.ChunkSize)
		}
		r.at = -1 // buf is load's
		b, err := r.load(i, r.buf)
		if err != nil {
			return 0, err
		}
		r.cur, r.at = b, i
	}
	n := copy(p, r.cur[r.pos-int64(i)*int64(r.m.ChunkSize):])
	r.pos += int64(n)
	return n, nil
}

// Seek implements io.Seeker.
func (r *Reader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.pos
	case io.SeekEnd:
		off += int64(r.m.Size)
	}
	if off < 0 {
		return 0, fmt.Errorf("cannot seek to %d", off)
	}
	r.pos = off
	return off, nil
}

// Close implements io.Closer.
func (r *Reader) Close() error { return nil }
