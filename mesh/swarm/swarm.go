package swarm

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Store is what the swarm needs of storage/blob.
type Store interface {
	Manifest(d intent.Digest) (*chunk.Manifest, error)
	ReadChunk(d intent.Digest, i int, buf []byte) ([]byte, error)
	Have(d intent.Digest) (have []byte, complete bool, err error)
	Put(ctx context.Context, m *chunk.Manifest) error
	WriteChunk(d intent.Digest, i int, b []byte) error
}

// The errors callers branch on.
var (
	ErrBadSource = errors.New("source sends bad chunks")
	ErrSources   = errors.New("no source has it")
)

const (
	// headerSize is type u8 | flags u8 | 0 u16 | len u32, then req u32 | chunk u32 | enc u8 | 0[3] | rawlen u32 (mesh.md section 5).
	headerSize = 8
	dataHeader = 16
	typeData   = 6
	encRaw     = 0
	encZstd    = 1
	// strikes is how many bad chunks one source may send for one asset.
	strikes = 3
	// maxRun is how many chunks one request asks for: 8 MiB at the usual 1 MiB.
	maxRun = 8
	// silence is how long a peer may say nothing, and wanSilence the coordinator: where a third of all packets is lost QUIC waits ever
	// longer before it sends again, and 15 s (mesh.md section 5) were measured to begin the same chunk anew for ever.
	silence    = 15 * time.Second
	wanSilence = time.Minute
	// chunkWait is how long it may take for one chunk: the usual 1 MiB over 14 kbit/s. Who drips octets holds a fetch no longer.
	chunkWait = 10 * time.Minute
)

// NewHandler serves GET /m/1/assets/{digest}/manifest and GET /m/1/assets/{digest}/chunks?first=I&n=N. Chunks go out as
// DATA frames, ascending; one that is not here ends the answer.
func NewHandler(s Store, log *slog.Logger) http.Handler {
	h := &handler{s, log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /m/1/assets/{digest}/manifest", h.manifest)
	mux.HandleFunc("GET /m/1/assets/{digest}/chunks", h.chunks)
	return mux
}

type handler struct {
	store Store
	log   *slog.Logger
}

func (h *handler) asset(w http.ResponseWriter, r *http.Request) (intent.Digest, *chunk.Manifest, bool) {
	d, err := intent.ParseDigest(r.PathValue("digest"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return d, nil, false
	}
	m, err := h.store.Manifest(d)
	if err != nil {
		http.Error(w, "not here", http.StatusNotFound)
		return d, nil, false
	}
	return d, m, true
}

func (h *handler) manifest(w http.ResponseWriter, r *http.Request) {
	if _, m, ok := h.asset(w, r); ok {
		b := m.Encode()
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = w.Write(b) // a short answer fails the reader's length check
	}
}

func (h *handler) chunks(w http.ResponseWriter, r *http.Request) {
	d, m, ok := h.asset(w, r)
	if !ok {
		return
	}
	first, err1 := strconv.Atoi(r.URL.Query().Get("first"))
	n, err2 := strconv.Atoi(r.URL.Query().Get("n"))
	if err1 != nil || err2 != nil || first < 0 || n < 1 || n > maxRun || first >= len(m.Chunks) {
		http.Error(w, "first and n do not fit", http.StatusBadRequest)
		return
	}
	codec, err := chunk.New()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer codec.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	buf := make([]byte, m.ChunkSize)
	for i := first; i < min(first+n, len(m.Chunks)); i++ {
		raw, err := h.store.ReadChunk(d, i, buf)
		if err != nil {
			return // the reader sees fewer chunks than it asked for
		}
		if err := writeFrame(w, codec, i, raw); err != nil {
			return
		}
	}
}

func writeFrame(w io.Writer, codec *chunk.Codec, i int, raw []byte) error {
	body, enc := raw, byte(encRaw)
	if z, smaller := codec.Encode(raw); smaller {
		body, enc = z, encZstd
	}
	h := make([]byte, headerSize+dataHeader)
	h[0] = typeData
	binary.BigEndian.PutUint32(h[4:], uint32(dataHeader+len(body)))
	binary.BigEndian.PutUint32(h[12:], uint32(i))
	h[16] = enc
	binary.BigEndian.PutUint32(h[20:], uint32(len(raw)))
	if _, err := w.Write(h); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

// readFrame reads one DATA frame that must hold chunk i of m, and returns its raw bytes, not yet verified.
func readFrame(r io.Reader, codec *chunk.Codec, m *chunk.Manifest, i int) ([]byte, error) {
	var h [headerSize + dataHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	size, got, rawLen := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[12:]), binary.BigEndian.Uint32(h[20:])
	_, want := m.ChunkRange(i)
	if h[0] != typeData || got != uint32(i) || rawLen != uint32(want) || size < dataHeader || size-dataHeader > uint32(want) {
		return nil, fmt.Errorf("cannot use frame of chunk %d: %w", i, chunk.ErrBad)
	}
	body := make([]byte, size-dataHeader)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	switch h[16] {
	case encRaw:
		return body, nil
	case encZstd:
		return codec.Decode(body, want)
	}
	return nil, fmt.Errorf("cannot use frame of chunk %d: %w", i, chunk.ErrBad)
}

// The tiers of sources.
const (
	TierPeer   = "peer"   // an agent of the site
	TierOrigin = "origin" // the coordinator, over the WAN
)

// Source is somebody who may have assets.
type Source struct {
	Name string            // for people and metrics
	Tier string            // TierPeer, TierOrigin
	RT   http.RoundTripper // to that one; the URL's host is not used for routing
}

func (s Source) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Name+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := s.RT.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", s.Name, err)
	}
	if res.StatusCode != http.StatusOK {
		err := res.Body.Close()
		return nil, errors.Join(fmt.Errorf("cannot get %s from %s: %s", path, s.Name, res.Status), err)
	}
	return res, nil
}

// manifest asks for a manifest and checks that it is the signed one.
func (s Source) manifest(ctx context.Context, d, want intent.Digest) (*chunk.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, chunkWait)
	silent := time.AfterFunc(s.silence(), cancel)
	defer silent.Stop()
	defer cancel()
	res, err := s.get(ctx, "/m/1/assets/"+d.Hex()+"/manifest")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(heard{res.Body, silent, s.silence()}, chunk.MaxManifestSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest from %s: %w", s.Name, err)
	}
	if intent.DigestOf(b) != want {
		return nil, fmt.Errorf("cannot use manifest from %s: %w: not the signed one", s.Name, ErrBadSource)
	}
	m, err := chunk.ParseManifest(b)
	if err != nil {
		return nil, err
	}
	if m.Content != d {
		return nil, fmt.Errorf("cannot use manifest from %s: %w: of another asset", s.Name, ErrBadSource)
	}
	return m, nil
}

// silence is how long the source may say nothing.
func (s Source) silence() time.Duration {
	if s.Tier == TierOrigin {
		return wanSilence
	}
	return silence
}

// Progress is told after each stored chunk.
type Progress func(source Source, octets int, have, chunks int)

// Fetch completes asset d, whose manifest has the digest manifest, from the sources in order; what is on disk already is not
// asked for. A source that fails or lies is left for the next one. Errors: ErrSources wrapped with each source's reason, the
// store's (blob.ErrFull ends the fetch).
func Fetch(ctx context.Context, store Store, d, manifest intent.Digest, sources []Source, p Progress) error {
	reasons := []error{fmt.Errorf("%d sources asked", len(sources))}
	for _, s := range sources {
		err := fetchFrom(ctx, store, d, manifest, s, p)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		reasons = append(reasons, fmt.Errorf("%s: %w", s.Name, err))
		if fatal, ok := errors.AsType[*storeError](err); ok {
			return fatal.err
		}
	}
	return fmt.Errorf("cannot fetch %s: %w: %w", d.Short(), ErrSources, errors.Join(reasons...))
}

// storeError is ours, not the source's.
type storeError struct{ err error }

// Error returns the store's text.
func (e *storeError) Error() string { return e.err.Error() }

// Unwrap returns the store's error.
func (e *storeError) Unwrap() error { return e.err }

func fetchFrom(ctx context.Context, store Store, d, manifest intent.Digest, s Source, p Progress) error {
	m, err := store.Manifest(d)
	if err != nil || m.Digest() != manifest {
		if m, err = s.manifest(ctx, d, manifest); err != nil {
			return err
		}
		if err := store.Put(ctx, m); err != nil {
			return &storeError{err}
		}
	}
	codec, err := chunk.New()
	if err != nil {
		return &storeError{err}
	}
	defer codec.Close()
	for bad := 0; ; {
		have, complete, err := store.Have(d)
		if err != nil {
			return &storeError{err}
		}
		if complete {
			return nil
		}
		first, n := missing(have, len(m.Chunks))
		err = run(ctx, store, m, codec, s, first, n, p)
		switch {
		case err == nil:
		case errors.Is(err, chunk.ErrBad):
			if bad++; bad >= strikes {
				return fmt.Errorf("%w: %w", ErrBadSource, err)
			}
		default:
			return err
		}
	}
}

// heard reads from a source and notes that it said something.
type heard struct {
	r      io.Reader
	silent *time.Timer
	limit  time.Duration
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.r.Read(b)
	if n > 0 {
		h.silent.Reset(h.limit)
	}
	return n, err
}

// missing returns the first run of chunks whose bits are not set (chunk 0 = highest bit of octet 0).
func missing(have []byte, chunks int) (first, n int) {
	bit := func(i int) bool { return have[i/8]&(0x80>>(i%8)) != 0 }
	for first < chunks && bit(first) {
		first++
	}
	for n < maxRun && first+n < chunks && !bit(first+n) {
		n++
	}
	return first, n
}

// run asks for n chunks and stores each. Fewer than asked for is an error unless at least one came.
func run(ctx context.Context, store Store, m *chunk.Manifest, codec *chunk.Codec, s Source, first, n int, p Progress) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent, slow := time.AfterFunc(s.silence(), cancel), time.AfterFunc(chunkWait, cancel)
	defer silent.Stop()
	defer slow.Stop()
	res, err := s.get(ctx, fmt.Sprintf("/m/1/assets/%s/chunks?first=%d&n=%d", m.Content.Hex(), first, n))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	r := bufio.NewReaderSize(heard{res.Body, silent, s.silence()}, 64<<10)
	for i := first; i < first+n; i++ {
		raw, err := readFrame(r, codec, m, i)
		if errors.Is(err, io.EOF) && i > first {
			return nil // it has no more; the next request asks for the rest
		}
		if err != nil {
			return fmt.Errorf("cannot read chunk %d: %w", i, err)
		}
		slow.Reset(chunkWait)
		if err := store.WriteChunk(m.Content, i, raw); errors.Is(err, chunk.ErrBad) {
			return err
		} else if err != nil {
			return &storeError{err}
		}
		if p != nil {
			p(s, len(raw), i+1, len(m.Chunks))
		}
	}
	return nil
}
