package swarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	pathPrefix = "/m/1/assets/"
	idleLimit  = 5 * time.Second // no octet for so long on a LAN: ask elsewhere (mesh.md section 5)
	idleWAN    = 15 * time.Second
	maxServe   = 64 // chunks per request: a client that stops reading holds one buffer, not the asset
	maxReads   = 16 // chunk streams at once; more are told to come back: each holds one chunk in memory
)

// Store is what a Handler reads from.
type Store interface {
	Manifest(d intent.Digest) (*intent.Manifest, error)
	// ReadChunk returns chunk i of d, verified, in buf. Any error is "gone" to the peer.
	ReadChunk(d intent.Digest, i int, buf []byte) ([]byte, error)
}

// Handler serves GET /m/1/assets/{digest}/manifest and GET /m/1/assets/{digest}/chunks?first=&n=&zstd=1 from a Store.
type Handler struct {
	store Store
	codec *chunk.Codec
	log   *slog.Logger
	gate  chan struct{}
}

// NewHandler returns a Handler; who may ask is decided by the connection it came on.
func NewHandler(s Store, c *chunk.Codec, log *slog.Logger) *Handler {
	return &Handler{s, c, log, make(chan struct{}, maxReads)}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, pathPrefix), "/")
	d, err := intent.ParseDigest(id)
	if err != nil || !strings.HasPrefix(r.URL.Path, pathPrefix) || r.Method != http.MethodGet {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	m, err := h.store.Manifest(d)
	if err != nil {
		http.Error(w, "no such asset here", http.StatusNotFound)
		return
	}
	switch what {
	case "manifest":
		b := m.Encode()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = w.Write(b)
	case "chunks":
		h.chunks(w, r, d, m)
	default:
		http.Error(w, "not found", http.StatusNotFound)
	}
}

func (h *Handler) chunks(w http.ResponseWriter, r *http.Request, d intent.Digest, m *intent.Manifest) {
	q := r.URL.Query()
	first, err1 := strconv.Atoi(q.Get("first"))
	n, err2 := strconv.Atoi(q.Get("n"))
	if err1 != nil || err2 != nil || first < 0 || n < 1 || n > maxServe || first >= len(m.Chunks) {
		http.Error(w, "cannot read range (want first >= 0 and 1 <= n <= 64)", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/vnd.skerry.chunks")
	select {
	case h.gate <- struct{}{}:
		defer func() { <-h.gate }()
	default:
		_ = writeEnd(w, statusBusy)
		return
	}
	buf := make([]byte, m.ChunkSize)
	for i := first; i < min(first+n, len(m.Chunks)); i++ {
		b, err := h.store.ReadChunk(d, i, buf)
		if err != nil {
			_ = writeEnd(w, statusGone)
			return
		}
		if err := writeData(w, h.codec, i, b, q.Get("zstd") == "1"); err != nil {
			return // the peer went away
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush() // the other side counts silence
		}
	}
	_ = writeEnd(w, statusOK)
}

// HTTPSource is a peer that runs a Handler.
type HTTPSource struct {
	PeerName string            // agent id or "coordinator"
	Base     string            // such as https://a2 ; what the RoundTripper understands
	Via      http.RoundTripper // dials the peer; its connection decides who that is
	Codec    *chunk.Codec
	WAN      bool // compress, and wait longer
}

// Name returns PeerName.
func (s *HTTPSource) Name() string { return s.PeerName }

// get sends a GET; the body must be closed. ctx bounds it all.
func (s *HTTPSource) get(ctx context.Context, d intent.Digest, what string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Base+pathPrefix+d.Hex()+"/"+what, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", s.PeerName, err)
	}
	resp, err := s.Via.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", s.PeerName, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("cannot get %s of %s: %w", what, d.Short(), ErrGone)
	}
	return nil, fmt.Errorf("cannot get %s of %s: %s", what, d.Short(), resp.Status)
}

// Manifest fetches and parses the manifest of d; compare its Digest with the signed one.
func (s *HTTPSource) Manifest(ctx context.Context, d intent.Digest) (*intent.Manifest, error) {
	ctx, alive, stop := s.watch(ctx)
	defer stop()
	resp, err := s.get(ctx, d, "manifest")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(&aliveReader{resp.Body, alive}, intent.MaxManifestSize+1)); err != nil {
		return nil, fmt.Errorf("cannot read manifest of %s: %w", d.Short(), err)
	}
	return intent.ParseManifest(b.Bytes())
}

// Chunks implements Source.
func (s *HTTPSource) Chunks(ctx context.Context, m *intent.Manifest, first, n int, fn func(int, []byte) error) error {
	wctx, alive, stop := s.watch(ctx)
	defer stop()
	what := fmt.Sprintf("chunks?first=%d&n=%d", first, min(n, maxServe))
	if s.WAN {
		what += "&zstd=1"
	}
	resp, err := s.get(wctx, m.Content, what)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = readFrames(&aliveReader{resp.Body, alive}, s.Codec, m, first, n, fn)
	if err != nil && wctx.Err() != nil && ctx.Err() == nil {
		return errors.Join(errSilent, err)
	}
	return err
}

var errSilent = errors.New("peer fell silent")

// watch returns a context that ends when alive was not called for the idle limit.
func (s *HTTPSource) watch(ctx context.Context) (wctx context.Context, alive, stop func()) {
	limit := idleLimit
	if s.WAN {
		limit = idleWAN
	}
	wctx, cancel := context.WithCancel(ctx)
	t := time.AfterFunc(limit, cancel)
	return wctx, func() { t.Reset(limit) }, func() { t.Stop(); cancel() }
}

// aliveReader reports every read that brought something.
type aliveReader struct {
	r     io.Reader
	alive func()
}

func (a *aliveReader) Read(b []byte) (int, error) {
	n, err := a.r.Read(b)
	if n > 0 {
		a.alive()
	}
	return n, err
}
