package holdings

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/blob"
)

const (
	// firstChunk is how long a reader waits for its first chunk: firmware gives up when it has heard nothing for five seconds.
	firstChunk = 2 * time.Second
	// idleAgain is how long a stream waits while nobody fetches: between two attempts of a Keeper some seconds pass.
	idleAgain = time.Second
)

// Reader is who reads an asset that is being fetched. swarm.Reader is one.
type Reader interface {
	// Wait returns when chunk i is here; until then it comes before the rest. It fails where nobody fetches the asset, and when ctx ends.
	Wait(ctx context.Context, i int) error
	Close()
}

// stream reads an asset that is being fetched.
type stream struct {
	*chunk.Reader
	end func()
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.end()
	return nil
}

// stream returns the content of an asset that this agent fetches: what is here at once, the rest as it comes, each chunk verified before its
// first octet. The first chunk that is asked for must come within firstChunk, the others as long as ctx lasts; until it is complete what
// a reader comes to is fetched before all else. The caller closes it. Errors: ErrNobody where it is not being fetched.
func (k *Keeper) stream(ctx context.Context, s *intent.AssetSpec) (io.ReadSeekCloser, error) {
	m, err := k.cfg.Blobs.Manifest(s.Digest)
	if err != nil || m.Digest() != s.Manifest {
		return nil, fmt.Errorf("cannot stream asset %s: %w", s.Digest.Short(), ErrNobody)
	}
	at, some := k.cfg.Reader(s.Digest), false
	load := func(i int, buf []byte) ([]byte, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if !some {
			ctx, cancel = context.WithTimeout(ctx, firstChunk)
			defer cancel()
		}
		for came := false; ; {
			b, err := k.cfg.Blobs.ReadChunk(s.Digest, i, buf)
			if err == nil {
				some = true
				return b, nil
			}
			if errors.Is(err, blob.ErrAbsent) {
				return nil, err // it was given up meanwhile
			}
			// The fetch may have ended a moment ago, and its next attempt not begun; what came and was damaged at once comes again.
			var werr error
			if !came {
				werr = at.Wait(ctx, i)
			}
			if (werr != nil || came) && !idle(ctx) {
				return nil, fmt.Errorf("cannot stream chunk %d of %s: %w", i, s.Digest.Short(), errors.Join(err, werr))
			}
			came = !came && werr == nil
		}
	}
	return &stream{chunk.NewReader(m, load), at.Close}, nil
}

// idle waits a moment; false when ctx ended.
func idle(ctx context.Context) bool {
	t := time.NewTimer(idleAgain)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
