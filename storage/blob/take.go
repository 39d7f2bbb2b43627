package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/skerry-metal/skerry/mesh/chunk"
)

// Room tells whether n more octets can be kept. Errors: ErrFull.
func (s *Store) Room(n int64) error { return s.room(n) }

// Take makes a file of the same filesystem an asset, without a copy: it reads it to its end, asks check about what it found, and
// gives it the asset's name. The asset is complete and the old name gone when Take returns nil; until then the file keeps its old name, so
// that nothing is lost by a crash, nor where check does not agree: the same Take again ends it.
func (s *Store) Take(ctx context.Context, path string, check func(*chunk.Manifest) error) (*chunk.Manifest, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot take asset: %w", err)
	}
	m, err := chunk.ScanManifest(&ctxReader{ctx, f})
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = check(m)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot take asset: %w", full(err)), f.Close())
	}
	return m, s.take(f, m)
}

// ctxReader ends with its context: a tebibyte is read for an hour.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// take makes f, whose bytes are m's and on stable storage, a complete asset, and removes its old name last. f is closed or kept.
// Another one may have been faster, with the same file too.
func (s *Store) take(f *os.File, m *chunk.Manifest) error {
	s.files.Lock()
	defer s.files.Unlock()
	if old, err := s.entry(m.Content); err == nil && old.isComplete() {
		return errors.Join(f.Close(), unlink(f))
	}
	err := s.remove(m.Content)
	if errors.Is(err, ErrAbsent) {
		err = os.Remove(s.path(m.Content, ".blob")) // of a crash: it has no record
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.Link(f.Name(), s.path(m.Content, ".blob"))
	}
	if err == nil {
		err = s.writeManifest(m)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot keep asset %s: %w", m.Content.Short(), full(err)), f.Close())
	}
	e := newEntry(m, f)
	for i := range m.Chunks {
		e.have.set(i)
		e.verified.set(i) // hashed a moment ago, in this process life
	}
	e.complete = true
	if err := s.adopt(m.Content, e); err != nil {
		return err
	}
	return unlink(f)
}

func unlink(f *os.File) error {
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the old name of an asset: %w", err)
	}
	return nil
}
