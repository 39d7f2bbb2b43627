package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/skerry-metal/skerry/mesh/chunk"
)

// Import reads r to its end as a new asset and returns its manifest. It is complete when Import returns nil; an interrupted
// import leaves a temporary file that the next Open deletes. limit bounds the octets read. Errors: ErrFull.
func (s *Store) Import(ctx context.Context, r io.Reader, limit int64) (*chunk.Manifest, error) {
	f, err := os.CreateTemp(s.cfg.Dir, "import-*.tmp")
	if err != nil {
		return nil, fmt.Errorf("cannot import asset: %w", err)
	}
	m, err := s.importTo(ctx, f, io.LimitReader(r, limit+1), limit)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot import asset: %w", full(err)), f.Close(), os.Remove(f.Name()))
	}
	if err := s.take(f, m); err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return m, nil
}

func (s *Store) importTo(ctx context.Context, f *os.File, r io.Reader, limit int64) (*chunk.Manifest, error) {
	w := &spaceWriter{s: s, ctx: ctx, f: f}
	m, err := chunk.ScanManifest(io.TeeReader(r, w))
	if err != nil {
		return nil, err
	}
	if int64(m.Size) > limit {
		return nil, fmt.Errorf("more than %d octets", limit)
	}
	return m, f.Sync()
}

// spaceWriter looks at the free space every 16 MiB: the length of an upload is not known before its end.
type spaceWriter struct {
	s    *Store
	ctx  context.Context
	f    *os.File
	left int64
}

const spaceStep = 16 << 20

func (w *spaceWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	if w.left -= int64(len(b)); w.left < 0 {
		if err := w.s.room(spaceStep); err != nil {
			return 0, err
		}
		w.left = spaceStep
	}
	return w.f.Write(b)
}
