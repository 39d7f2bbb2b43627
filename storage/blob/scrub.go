package blob

import (
	"context"
	"errors"
	"maps"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	// maxDamaged bounds what is remembered of bad chunks: two in a day say that a disk is suspect.
	maxDamaged = 8
	// scrubSave is how many chunks are hashed between two notes of how far Scrub is: so many are hashed again after a crash.
	scrubSave = 256
)

// Scrubbed is what one call of Scrub did.
type Scrubbed struct {
	Chunks int    // hashed
	Octets uint64 // of those
	Bad    int    // of those: their bits are gone
}

// Scrub hashes chunks until it has read at least octets, going on where the last call ended, also one before a restart: the asset
// that was scrubbed longest ago comes first. A bad chunk loses its bit and is noted in Info.Damaged. What the kernel has cached of
// a chunk is dropped first, so that the disk is read. Errors: ctx's, the state's.
func (s *Store) Scrub(ctx context.Context, octets uint64) (r Scrubbed, err error) {
	seen := map[intent.Digest]bool{}
	for r.Octets < octets && ctx.Err() == nil {
		d, e := s.oldest(seen)
		if e == nil {
			return r, nil
		}
		seen[d] = true
		if err := s.scrub(ctx, d, e, octets, &r); err != nil {
			return r, err
		}
	}
	return r, ctx.Err()
}

// Check hashes every chunk of one asset, as Scrub does. Errors: ErrAbsent, ctx's, the state's.
func (s *Store) Check(ctx context.Context, d intent.Digest) (r Scrubbed, err error) {
	e, err := s.entry(d)
	if err != nil {
		return r, err
	}
	buf := make([]byte, e.m.ChunkSize)
	for i := range e.m.Chunks {
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		if err := s.scrubChunk(d, e, i, buf, &r); err != nil {
			return r, err
		}
	}
	return r, s.scrubAt(d, e, len(e.m.Chunks), true)
}

// oldest returns the asset that was scrubbed longest ago, one that is half done before others; nil when there is none but seen ones.
func (s *Store) oldest(seen map[intent.Digest]bool) (best intent.Digest, be *entry) {
	s.mu.Lock()
	blobs := maps.Clone(s.blobs)
	s.mu.Unlock()
	var at time.Time
	var half bool
	for d, e := range blobs {
		if seen[d] {
			continue
		}
		e.mu.Lock()
		t, h := e.scrubbed, e.next > 0
		e.mu.Unlock()
		if be == nil || h && !half || h == half && t.Before(at) {
			best, be, at, half = d, e, t, h
		}
	}
	return best, be
}

// scrub goes on with one asset.
func (s *Store) scrub(ctx context.Context, d intent.Digest, e *entry, octets uint64, r *Scrubbed) error {
	buf := make([]byte, e.m.ChunkSize)
	e.mu.Lock()
	i := e.next
	e.mu.Unlock()
	for from := i; i < len(e.m.Chunks) && r.Octets < octets && ctx.Err() == nil; i++ {
		if err := s.scrubChunk(d, e, i, buf, r); err != nil {
			return err
		}
		if i-from >= scrubSave {
			from = i
			if err := s.scrubAt(d, e, i+1, true); err != nil {
				return err
			}
		}
	}
	return s.scrubAt(d, e, i, i >= len(e.m.Chunks))
}

func (s *Store) scrubChunk(d intent.Digest, e *entry, i int, buf []byte, r *Scrubbed) error {
	e.mu.Lock()
	have := e.have.get(i)
	e.mu.Unlock()
	if !have || isZero(e.m, i) && e.hole(i) {
		return nil
	}
	off, n := e.m.ChunkRange(i)
	_ = unix.Fadvise(int(e.file.Fd()), off, int64(n), unix.FADV_DONTNEED) // a hint: some file systems know none
	_, err := e.file.ReadAt(buf[:n], off)
	r.Chunks, r.Octets = r.Chunks+1, r.Octets+uint64(n)
	if err == nil && e.m.VerifyChunk(i, buf[:n]) {
		return nil
	}
	if errors.Is(err, os.ErrClosed) || e.isGone() {
		return nil // deleted meanwhile, or the store was closed
	}
	r.Bad++
	return s.drop(d, e, i)
}

// hole tells whether nothing is allocated for chunk i: there is nothing to read.
func (e *entry) hole(i int) bool {
	off, n := e.m.ChunkRange(i)
	data, err := unix.Seek(int(e.file.Fd()), off, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO) || err == nil && data >= off+int64(n)
}

func (e *entry) isGone() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gone
}

// scrubAt notes how far Scrub is; at the end of an asset it begins anew.
func (s *Store) scrubAt(d intent.Digest, e *entry, next int, durable bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.next = next; next >= len(e.m.Chunks) {
		e.next, e.scrubbed = 0, time.Now()
	}
	if e.gone || !durable {
		return nil
	}
	return s.checkpoint(d, e)
}
