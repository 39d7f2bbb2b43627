package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	// blockTimeout bounds one block of 4 MiB from one source: 70 kB/s, below any link that a rack would have.
	blockTimeout = 60 * time.Second
	// maxStrikes is how often all sources together may give wrong content for one block before the image is given up:
	// each source gets three tries.
	maxStrikes = 3
	// restTime keeps a source that does not answer out of the way: an agent's restart takes about 3 s.
	restTime = 10 * time.Second
	// maxBlames bounds what Done carries.
	maxBlames = 100
)

// errContent marks an answer that is wrong, as opposed to none.
var errContent = errors.New("wrong content")

// fetcher gets blocks from several sources and remembers who gave what.
type fetcher struct {
	http    *http.Client
	sources []string
	busy    atomic.Int64 // nanoseconds, all callers

	mu     sync.Mutex // guards what follows
	bytes  map[string]uint64
	bad    map[string]int       // strikes by source
	rest   map[string]time.Time // sources that did not answer: asked last until then
	blames []Blame
	phase  string // what progress reports show
	done   uint64
	total  uint64
}

func newFetcher(sources []string) *fetcher {
	return &fetcher{
		http: &http.Client{Transport: &http.Transport{
			MaxIdleConnsPerHost: Workers, IdleConnTimeout: time.Minute, DisableCompression: true,
			ResponseHeaderTimeout: callTimeout, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		}},
		sources: sources, bytes: map[string]uint64{}, bad: map[string]int{}, rest: map[string]time.Time{},
	}
}

// order returns the sources for block i, turned by i so that load spreads: good ones, those that did not answer lately, and
// last those that gave something wrong.
func (f *fetcher) order(i int) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var good, silent, bad []string
	for k := range f.sources {
		s := f.sources[(i+k)%len(f.sources)]
		switch {
		case f.bad[s] > 0:
			bad = append(bad, s)
		case time.Now().Before(f.rest[s]):
			silent = append(silent, s)
		default:
			good = append(good, s)
		}
	}
	return slices.Concat(good, silent, bad)
}

func (f *fetcher) blame(source string, chunk int, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bad[source]++
	if len(f.blames) < maxBlames {
		f.blames = append(f.blames, Blame{source, chunk, reason})
	}
}

// block fetches octets off to off+len(b) and hands them to take, which checks them and returns an error with BadChunk()
// when they are wrong; then another source is tried. No answer at all is waited for, for ever. Errors: ErrSources after
// each source gave wrong content three times; take's others; ctx.
func (f *fetcher) block(ctx context.Context, i int, off int64, b []byte, firstChunk int, take func([]byte) error) error {
	strikes := 0
	wait := firstPause
	for {
		for _, s := range f.order(i) {
			err := f.get(ctx, s, off, b)
			if err == nil {
				if err = take(b); err == nil {
					f.mu.Lock()
					f.bytes[s] += uint64(len(b))
					f.mu.Unlock()
					return nil
				}
				var bad interface{ BadChunk() int }
				if !errors.As(err, &bad) {
					return err
				}
				f.blame(s, bad.BadChunk(), "hash")
				strikes++
			} else if errors.Is(err, errContent) {
				f.blame(s, firstChunk, err.Error())
				strikes++
			} else {
				f.mu.Lock()
				f.rest[s] = time.Now().Add(restTime)
				f.mu.Unlock()
			}
			if ctx.Err() != nil {
				return fmt.Errorf("cannot fetch block %d: %w", i, context.Cause(ctx))
			}
			if strikes >= maxStrikes*len(f.sources) {
				return fmt.Errorf("cannot fetch block %d: %w: last: %w", i, ErrSources, err)
			}
		}
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("cannot fetch block %d: %w", i, context.Cause(ctx))
		}
		wait = min(2*wait, maxPause)
	}
}

// get reads exactly the octets off to off+len(b) of url. Errors: errContent when the server answers something else.
func (f *fetcher) get(ctx context.Context, url string, off int64, b []byte) error {
	at := time.Now()
	defer func() { f.busy.Add(int64(time.Since(at))) }()
	ctx, cancel := context.WithTimeout(ctx, blockTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("cannot fetch: %w: %w", errContent, err)
	}
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+int64(len(b))-1))
	resp, err := f.http.Do(r)
	if err != nil {
		return fmt.Errorf("cannot fetch: %w", err)
	}
	defer resp.Body.Close()
	want := fmt.Sprintf("bytes %d-%d/", off, off+int64(len(b))-1)
	got := resp.Header.Get("Content-Range")
	switch {
	case resp.StatusCode == http.StatusPartialContent && len(got) > len(want) && got[:len(want)] == want:
	case resp.StatusCode == http.StatusOK && off == 0 && resp.ContentLength == int64(len(b)):
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("cannot fetch: status %d", resp.StatusCode) // being fetched, restarting: not its fault
	default:
		return fmt.Errorf("cannot fetch: %w: status %d, range %.60q", errContent, resp.StatusCode, got)
	}
	if n, err := io.ReadFull(resp.Body, b); err != nil {
		if ctx.Err() == nil && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)) {
			return fmt.Errorf("cannot fetch: %w: short, %d of %d octets", errContent, n, len(b))
		}
		return fmt.Errorf("cannot fetch: %w", err)
	}
	return nil
}

// manifest fetches and checks the manifest of w: its own digest, the image's digest and size.
func (f *fetcher) manifest(ctx context.Context, w *InstallWork) (*chunk.Manifest, error) {
	size := 72 + (int64(w.SizeBytes)+chunk.Size-1)/chunk.Size*32
	if w.SizeBytes == 0 || w.SizeBytes > intent.MaxAssetSize || len(w.Manifests) == 0 {
		return nil, fmt.Errorf("cannot fetch manifest: %w: size %d, %d places", ErrImage, w.SizeBytes, len(w.Manifests))
	}
	g := newFetcher(w.Manifests)
	defer g.http.CloseIdleConnections()
	var m *chunk.Manifest
	err := g.block(ctx, 0, 0, make([]byte, size), 0, func(b []byte) error {
		if intent.DigestOf(b) != w.Manifest {
			return badManifest{}
		}
		var err error
		if m, err = chunk.ParseManifest(b); err != nil {
			return fmt.Errorf("cannot use manifest: %w: %w", ErrImage, err)
		}
		if m.Content != w.Image || m.Size != w.SizeBytes {
			return fmt.Errorf("cannot use manifest: %w: it is of %s, %d octets", ErrImage, m.Content.Short(), m.Size)
		}
		return nil
	})
	f.mu.Lock()
	f.blames = append(f.blames, g.blames...)
	f.mu.Unlock()
	return m, err
}

// badManifest is wrong content of a manifest, as a ChunkError is of an image.
type badManifest struct{}

// Error says so.
func (badManifest) Error() string { return "manifest has another digest" }

// BadChunk returns -1: no chunk.
func (badManifest) BadChunk() int { return -1 }
