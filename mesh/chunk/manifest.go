package chunk

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Manifest lists the chunk hashes of one asset. It is a pure function of (bytes, layout), so it needs no signature of its
// own: the signed Asset document names its digest (mesh.md section 4). Only the fixed layout is built; cdc is refused.
type Manifest struct {
	ChunkSize uint32          // octets of every chunk but the last, 4 KiB to 4 MiB, a power of two
	Size      uint64          // octets of the asset, 0 to 1 TiB
	Content   intent.Digest   // SHA-256 of the whole asset: its identity
	Chunks    []intent.Digest // ceil(Size/ChunkSize) hashes, in order
}

// The bounds of a manifest, checked before anything is allocated.
const (
	Size            = 1 << 20 // layout fixed-1MiB
	MinSize         = 4 << 10
	MaxSize         = 4 << 20
	MaxChunks       = 1 << 20
	manifestHeader  = 72
	MaxManifestSize = manifestHeader + MaxChunks*sha256.Size
)

// ErrManifest says that bytes are not a manifest that we accept.
var ErrManifest = errors.New("bad manifest")

const manifestMagic = "SKRMAN01"

// ScanManifest reads r to its end and returns the manifest of what it read, in the fixed 1 MiB layout.
func ScanManifest(r io.Reader) (*Manifest, error) {
	m := &Manifest{ChunkSize: Size}
	whole := sha256.New()
	buf := make([]byte, Size)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if len(m.Chunks) == MaxChunks {
				return nil, fmt.Errorf("cannot scan asset: %w: more than %d chunks", ErrManifest, MaxChunks)
			}
			whole.Write(buf[:n])
			m.Chunks = append(m.Chunks, intent.DigestOf(buf[:n]))
			m.Size += uint64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			whole.Sum(m.Content[:0])
			return m, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot scan asset: %w", err)
		}
	}
}

// ChunkRange returns offset and length in octets of chunk i, 0 <= i < len(m.Chunks).
func (m *Manifest) ChunkRange(i int) (off int64, n int) {
	off = int64(i) * int64(m.ChunkSize)
	return off, int(min(int64(m.ChunkSize), int64(m.Size)-off))
}

// VerifyChunk tells whether b is chunk i: right index, right length, right hash.
func (m *Manifest) VerifyChunk(i int, b []byte) bool {
	if i < 0 || i >= len(m.Chunks) {
		return false
	}
	_, n := m.ChunkRange(i)
	return len(b) == n && intent.DigestOf(b) == m.Chunks[i]
}

// Encode returns the wire form of mesh.md section 4, big-endian.
func (m *Manifest) Encode() []byte {
	b := make([]byte, manifestHeader, manifestHeader+len(m.Chunks)*sha256.Size)
	copy(b, manifestMagic)
	b[8], b[9] = 1, 1 // layout fixed, hash sha256
	be := binary.BigEndian
	be.PutUint32(b[12:], m.ChunkSize)
	be.PutUint64(b[16:], m.Size)
	be.PutUint32(b[24:], uint32(len(m.Chunks)))
	be.PutUint32(b[28:], m.ChunkSize)
	be.PutUint32(b[32:], m.ChunkSize)
	copy(b[40:], m.Content[:])
	for i := range m.Chunks {
		b = append(b, m.Chunks[i][:]...)
	}
	return b
}

// Digest returns the SHA-256 of Encode: what an Asset document names as its manifest.
func (m *Manifest) Digest() intent.Digest { return intent.DigestOf(m.Encode()) }

// ParseManifest reads what Encode wrote. Everything is checked before the table is allocated; b is not kept.
// Errors: ErrManifest.
func ParseManifest(b []byte) (*Manifest, error) {
	bad := func(what string) (*Manifest, error) {
		return nil, fmt.Errorf("cannot parse manifest: %w: %s", ErrManifest, what)
	}
	if len(b) < manifestHeader || string(b[:8]) != manifestMagic {
		return bad("magic or length")
	}
	be := binary.BigEndian
	chunk, size, count := be.Uint32(b[12:]), be.Uint64(b[16:]), be.Uint32(b[24:])
	switch {
	case b[8] != 1 || b[9] != 1 || b[10] != 0 || b[11] != 0:
		return bad("layout or hash not known")
	case chunk < MinSize || chunk > MaxSize || chunk&(chunk-1) != 0:
		return bad("chunk size")
	case be.Uint32(b[28:]) != chunk || be.Uint32(b[32:]) != chunk || be.Uint32(b[36:]) != 0:
		return bad("chunk bounds")
	case size > intent.MaxAssetSize || count > MaxChunks:
		return bad("too large")
	case uint64(count) != (size+uint64(chunk)-1)/uint64(chunk):
		return bad("chunk count does not fit the size")
	case len(b) != manifestHeader+int(count)*sha256.Size:
		return bad("table length")
	}
	m := &Manifest{ChunkSize: chunk, Size: size, Content: intent.Digest(b[40:72]), Chunks: make([]intent.Digest, count)}
	for i := range m.Chunks {
		m.Chunks[i] = intent.Digest(b[manifestHeader+i*sha256.Size:])
	}
	return m, nil
}
