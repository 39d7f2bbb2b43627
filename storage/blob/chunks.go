package blob

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// bitmap has one bit per chunk, chunk 0 = the highest bit of octet 0 (mesh.md section 5).
type bitmap []byte

func newBitmap(n int) bitmap    { return make(bitmap, (n+7)/8) }
func (b bitmap) get(i int) bool { return b[i/8]&(0x80>>(i%8)) != 0 }
func (b bitmap) set(i int)      { b[i/8] |= 0x80 >> (i % 8) }
func (b bitmap) clear(i int)    { b[i/8] &^= 0x80 >> (i % 8) }
func (b bitmap) minus(o bitmap) bitmap {
	out := slices.Clone(b)
	for i := range out {
		out[i] &^= o[i]
	}
	return out
}

func (b bitmap) count() int {
	n := 0
	for _, v := range b {
		n += bits.OnesCount8(v)
	}
	return n
}

// isZero tells whether chunk i holds nothing but zeros: it is a hole and need not be fetched.
func isZero(m *chunk.Manifest, i int) bool {
	_, n := m.ChunkRange(i)
	if n == int(m.ChunkSize) && n == chunk.Size {
		return m.Chunks[i] == zeroChunk()
	}
	return m.Chunks[i] == sha256.Sum256(make([]byte, n))
}

// zeroChunk is the SHA-256 of chunk.Size zero octets: a constant of the layout, checked in a test.
func zeroChunk() intent.Digest {
	return intent.Digest{
		0x30, 0xe1, 0x49, 0x55, 0xeb, 0xf1, 0x35, 0x22, 0x66, 0xdc, 0x2f, 0xf8, 0x06, 0x7e, 0x68, 0x10,
		0x46, 0x07, 0xe7, 0x50, 0xab, 0xb9, 0xd3, 0xb3, 0x65, 0x82, 0xb8, 0xaf, 0x90, 0x9f, 0xcb, 0x58,
	}
}

func (e *entry) isComplete() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.complete
}

// Manifest returns the manifest of an asset, complete or not. Errors: ErrAbsent.
func (s *Store) Manifest(d intent.Digest) (*chunk.Manifest, error) {
	e, err := s.entry(d)
	if err != nil {
		return nil, err
	}
	return e.m, nil
}

// Have returns a copy of the bitmap (chunk 0 = highest bit of octet 0) and whether the asset is complete. Errors: ErrAbsent.
func (s *Store) Have(d intent.Digest) (have []byte, complete bool, err error) {
	e, err := s.entry(d)
	if err != nil {
		return nil, false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.have), e.complete, nil
}

// WriteChunk verifies b as chunk i of d and writes it. A chunk already there is dropped. With the last one the asset becomes
// complete: file, directory and record are then on stable storage. b is not kept.
// Errors: ErrAbsent (Put first), chunk.ErrBad (nothing written, the sender gets a strike), ErrFull (stop the fetch).
func (s *Store) WriteChunk(d intent.Digest, i int, b []byte) error {
	e, err := s.entry(d)
	if err != nil {
		return err
	}
	if !e.m.VerifyChunk(i, b) {
		return fmt.Errorf("cannot write chunk %d of %s: %w", i, d.Short(), chunk.ErrBad)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.have.get(i) {
		return nil
	}
	if err := s.room(int64(len(b))); err != nil {
		return err
	}
	off, _ := e.m.ChunkRange(i)
	// Allocating first makes a full disk an error here, not a hole after fdatasync.
	if err := unix.Fallocate(int(e.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, int64(len(b))); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("cannot write chunk %d of %s: %w", i, d.Short(), full(err))
	}
	if _, err := e.file.WriteAt(b, off); err != nil {
		return fmt.Errorf("cannot write chunk %d of %s: %w", i, d.Short(), full(err))
	}
	e.have.set(i)
	e.verified.set(i)
	e.dirty += int64(len(b))
	if e.have.count() == len(e.m.Chunks) || e.dirty >= checkpointBytes || time.Since(e.last) >= checkpointEvery {
		return s.checkpoint(d, e)
	}
	return nil
}

// checkpoint makes the chunks durable, then says so in the record. e.mu is held. Errors: ErrAbsent when the asset was deleted.
func (s *Store) checkpoint(d intent.Digest, e *entry) error {
	if e.gone {
		return fmt.Errorf("cannot record blob %s: %w", d.Short(), ErrAbsent)
	}
	if err := unix.Fdatasync(int(e.file.Fd())); err != nil {
		return fmt.Errorf("cannot sync blob %s: %w", d.Short(), full(err))
	}
	complete := e.have.count() == len(e.m.Chunks)
	if complete && !e.complete {
		if err := s.syncDir(); err != nil {
			return fmt.Errorf("cannot sync asset directory: %w", err)
		}
	}
	r := record{Manifest: e.sum, Have: e.have, Complete: complete, LastUsed: e.lastUsed, Left: e.left, Next: e.next, Scrubbed: e.scrubbed, Damaged: e.damaged}
	if !complete {
		r.Fresh = e.have.minus(e.saved)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot encode blob record: %w", err)
	}
	if err := s.cfg.State.UpdateVital(func(tx *state.Tx) error { return tx.Put(bucket, d.Hex(), b) }); err != nil {
		return fmt.Errorf("cannot record blob %s: %w", d.Short(), err)
	}
	e.saved, e.dirty, e.last, e.complete = slices.Clone(e.have), 0, time.Now(), complete
	e.usedDay = r.LastUsed
	return nil
}

// ReadChunk reads chunk i of d into buf, which must hold the manifest's chunk size, and returns its octets. The first read in
// a process life hashes it. Errors: ErrAbsent, ErrPending (this chunk is not here), ErrCorrupt (also where
// the disk cannot read it).
func (s *Store) ReadChunk(d intent.Digest, i int, buf []byte) ([]byte, error) {
	e, err := s.entry(d)
	if err != nil {
		return nil, err
	}
	if i < 0 || i >= len(e.m.Chunks) {
		return nil, fmt.Errorf("cannot read chunk %d of %s: %w", i, d.Short(), ErrAbsent)
	}
	e.mu.Lock()
	have, verified := e.have.get(i), e.verified.get(i)
	e.mu.Unlock()
	if !have {
		return nil, fmt.Errorf("cannot read chunk %d of %s: %w", i, d.Short(), ErrPending)
	}
	off, n := e.m.ChunkRange(i)
	_, err = e.file.ReadAt(buf[:n], off)
	switch {
	case err == nil && verified:
		return buf[:n], nil
	case errors.Is(err, os.ErrClosed): // deleted meanwhile, or the store was closed
		return nil, fmt.Errorf("cannot read chunk %d of %s: %w: %w", i, d.Short(), ErrAbsent, err)
	case err != nil || !e.m.VerifyChunk(i, buf[:n]):
		return nil, s.lose(d, e, i, err)
	}
	e.mu.Lock()
	e.verified.set(i)
	e.mu.Unlock()
	return buf[:n], nil
}

// lose takes away the bit of a damaged chunk, so that it is fetched again. cause is nil where it was read and has another hash.
func (s *Store) lose(d intent.Digest, e *entry, i int, cause error) error {
	return errors.Join(fmt.Errorf("cannot read chunk %d of %s: %w", i, d.Short(), ErrCorrupt), cause, s.drop(d, e, i))
}

func (s *Store) drop(d intent.Digest, e *entry, i int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.have.clear(i)
	e.verified.clear(i)
	e.complete = false
	e.damaged = append([]time.Time{time.Now()}, e.damaged[:min(len(e.damaged), maxDamaged-1)]...) // a new slice: List gave the old one away
	s.cfg.Logger.Error("stored chunk damaged; it will be fetched again", "asset", d.Short(), "chunk", i)
	return s.checkpoint(d, e)
}

// Verify hashes every chunk that was not hashed in this process life; after it Open gives a plain file. Errors: ErrAbsent,
// ErrPending, ErrCorrupt.
func (s *Store) Verify(d intent.Digest) error {
	e, err := s.entry(d)
	if err != nil {
		return err
	}
	buf := make([]byte, e.m.ChunkSize)
	for i := range e.m.Chunks {
		e.mu.Lock()
		done := e.verified.get(i)
		e.mu.Unlock()
		if done {
			continue
		}
		if _, err := s.ReadChunk(d, i, buf); err != nil {
			return err
		}
	}
	return nil
}

// Open returns the content of a complete asset. Where every chunk was hashed in this process life it is an *os.File (so that
// net/http uses sendfile), else a reader that hashes each chunk before it hands out its first octet.
// The caller closes it. Errors: ErrAbsent, ErrPending.
func (s *Store) Open(d intent.Digest) (io.ReadSeekCloser, error) {
	e, err := s.entry(d)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	complete, verified := e.complete, e.verified.count() == len(e.m.Chunks)
	e.lastUsed = time.Now()
	e.mu.Unlock()
	if !complete {
		return nil, fmt.Errorf("cannot open asset %s: %w", d.Short(), ErrPending)
	}
	if !verified {
		return chunk.NewReader(e.m, func(i int, buf []byte) ([]byte, error) { return s.ReadChunk(d, i, buf) }), nil
	}
	f, err := os.Open(s.path(d, ".blob")) // its own file offset
	if err != nil {
		return nil, fmt.Errorf("cannot open asset %s: %w", d.Short(), err)
	}
	return f, nil
}
