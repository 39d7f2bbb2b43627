package swarm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Source gives chunks of an asset.
type Source interface {
	// Name is an agent id, "coordinator" or a host: for progress and blame.
	Name() string
	// Manifest returns the manifest of d. Errors: ErrGone.
	Manifest(ctx context.Context, d intent.Digest) (*intent.Manifest, error)
	// Chunks calls fn for chunks first to first+n-1 of m, ascending, some perhaps missing at the end. fn owns b.
	// An error of fn ends it and is returned as it is. Errors: ErrGone, ErrBusy, ErrFrame, chunk.ErrBad, context's.
	Chunks(ctx context.Context, m *intent.Manifest, first, n int, fn func(i int, b []byte) error) error
}

// Progress is told after each chunk.
type Progress struct {
	Source string
	Chunk  int
	Done   int // chunks here
	Total  int
	Octets int64 // fetched in this Fetch
}

// Job is one asset to fetch.
type Job struct {
	Manifest *intent.Manifest
	Have     []byte   // bitmap, chunk 0 = highest bit of octet 0; copied
	Sources  []Source // best first
	// Write verifies and keeps a chunk: chunk.ErrBad is a strike for the source, any other error ends the fetch.
	Write func(i int, b []byte) error
	// Progress and Strike may be nil; they must not block.
	Progress func(Progress)
	Strike   func(source string, chunk int)
}

const (
	maxRun     = 8 << 20 // octets asked for at once: a slow source is left after at most this much (mesh.md section 5)
	maxStrikes = 3       // then the source is left out for this asset
	// maxFailures ends a source that keeps failing without bad chunks; another Fetch may try it again.
	maxFailures = 5
	retryWait   = 500 * time.Millisecond // between two tries of a source that is the only one left
)

// ErrNoSource: no source is left that could give the missing chunks.
var ErrNoSource = errors.New("no source has the missing chunks")

// CheckManifest asks sources in order for the manifest of d and returns the first whose digest is want, so that a liar cannot
// choose the chunks. Errors: ErrNoSource.
func CheckManifest(ctx context.Context, d, want intent.Digest, sources []Source) (*intent.Manifest, error) {
	var last error
	for _, s := range sources {
		m, err := s.Manifest(ctx, d)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			last = fmt.Errorf("%s: %w", s.Name(), err)
		case m.Content != d || m.Digest() != want:
			last = fmt.Errorf("%s: %w: it is another manifest", s.Name(), intent.ErrManifest)
		default:
			return m, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("cannot get manifest of %s: %w", d.Short(), ErrNoSource), last)
}

// peer is a Source with what it did in this fetch.
type peer struct {
	Source
	strikes, failures int
}

func (p *peer) out() bool { return p.strikes >= maxStrikes || p.failures >= maxFailures }

// Fetch gets every missing chunk of the job, from one source at a time: the first that is not out; after an error the next.
// It returns nil when nothing is missing. Errors: ErrNoSource, the error of Write, context's.
func Fetch(ctx context.Context, j Job) error {
	f := &fetch{j: j, have: slices.Clone(j.Have)}
	if want := (len(j.Manifest.Chunks) + 7) / 8; len(f.have) != want {
		f.have = make([]byte, want)
	}
	for i := range j.Manifest.Chunks {
		if f.has(i) {
			f.done++
		}
	}
	for _, s := range j.Sources {
		f.peers = append(f.peers, &peer{Source: s})
	}
	for at := 0; ; {
		first, n := f.run()
		if n == 0 {
			return nil
		}
		p, next := f.pick(at)
		if p == nil {
			return errors.Join(fmt.Errorf("cannot fetch %s: %w", j.Manifest.Content.Short(), ErrNoSource), f.last)
		}
		if err := f.ask(ctx, p, first, n); err != nil {
			return err
		}
		if f.last == nil {
			at = next // it works: stay
			continue
		}
		at = next + 1
		if err := f.rest(ctx); err != nil {
			return err
		}
	}
}

type fetch struct {
	j      Job
	have   []byte
	peers  []*peer
	done   int
	octets int64
	last   error // of the source asked last; nil: it delivered
}

func (f *fetch) has(i int) bool { return f.have[i/8]&(0x80>>(i%8)) != 0 }

// run is the first stretch of missing chunks.
func (f *fetch) run() (first, n int) {
	total := len(f.j.Manifest.Chunks)
	for first < total && f.has(first) {
		first++
	}
	most := max(1, maxRun/int(f.j.Manifest.ChunkSize))
	for first+n < total && n < most && !f.has(first+n) {
		n++
	}
	return first, n
}

// pick returns the first source from index at on, round about, that is not out.
func (f *fetch) pick(at int) (*peer, int) {
	for k := range f.peers {
		i := (at + k) % len(f.peers)
		if !f.peers[i].out() {
			return f.peers[i], i
		}
	}
	return nil, 0
}

// ask gets one run from p. It returns an error only when the whole fetch must end; trouble with p goes to f.last.
func (f *fetch) ask(ctx context.Context, p *peer, first, n int) error {
	var fatal error
	got := 0
	err := p.Chunks(ctx, f.j.Manifest, first, n, func(i int, b []byte) error {
		if f.has(i) {
			return nil
		}
		err := f.j.Write(i, b)
		switch {
		case errors.Is(err, chunk.ErrBad):
			f.strike(p, i)
			return err
		case err != nil:
			fatal = err
			return err
		}
		got++
		f.have[i/8] |= 0x80 >> (i % 8)
		f.done++
		f.octets += int64(len(b))
		if f.j.Progress != nil {
			f.j.Progress(Progress{p.Name(), i, f.done, len(f.j.Manifest.Chunks), f.octets})
		}
		return nil
	})
	switch {
	case fatal != nil:
		return fmt.Errorf("cannot fetch %s: %w", f.j.Manifest.Content.Short(), fatal)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, chunk.ErrBad) && p.strikes == 0:
		f.strike(p, first+got) // found by the decoder, before Write saw it
	}
	f.last = nil
	if err != nil || got == 0 {
		p.failures++
		f.last = fmt.Errorf("%s: %w", p.Name(), errors.Join(err, map[bool]error{true: ErrGone}[err == nil]))
		return nil
	}
	p.failures = 0
	return nil
}

func (f *fetch) strike(p *peer, i int) {
	p.strikes++
	if f.j.Strike != nil {
		f.j.Strike(p.Name(), i)
	}
}

// rest waits a little when only one source is left, so that a restart of it is survived.
func (f *fetch) rest(ctx context.Context) error {
	live := 0
	for _, p := range f.peers {
		if !p.out() {
			live++
		}
	}
	if live != 1 {
		return ctx.Err()
	}
	t := time.NewTimer(retryWait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
