package swarm

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

const (
	// haveGap is how long two words are apart at least, chunkGap where only chunks came: an agent that takes them from a fast peer does
	// not tell of each.
	haveGap  = 50 * time.Millisecond
	chunkGap = 500 * time.Millisecond
	// haveLife is how long one stream of words is held; who listens asks again.
	haveLife = 10 * time.Minute
)

// NewHandler serves GET /m/1/assets/{digest}/manifest and GET /m/1/assets/{digest}/chunks?first=I&n=N&skip=K&raw=1. Chunks go out as
// DATA frames, ascending; one that is not here ends the answer. skip, 0 to the length of chunk first - 1, is how much the asker has of
// that chunk: the first frame carries the rest, not compressed. With raw none is compressed.
func NewHandler(s Store, log *slog.Logger) http.Handler { return newMux(s, log) }

// Handler serves what NewHandler does, and GET /m/1/assets/{digest}/have: HAVE frames without end, one when something changed and one
// now and then when nothing did.
func (s *Swarm) Handler() http.Handler {
	mux := newMux(s.cfg.Store, s.cfg.Log)
	mux.HandleFunc("GET /m/1/assets/{digest}/have", s.serveHave)
	return mux
}

func newMux(s Store, log *slog.Logger) *http.ServeMux {
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
	q := r.URL.Query()
	first, err1 := strconv.Atoi(q.Get("first"))
	n, err2 := strconv.Atoi(q.Get("n"))
	if err1 != nil || err2 != nil || first < 0 || n < 1 || n > maxRun || first >= len(m.Chunks) {
		http.Error(w, "first and n do not fit", http.StatusBadRequest)
		return
	}
	skip, resumed := 0, q.Has("skip")
	if resumed {
		var err error
		if skip, err = strconv.Atoi(q.Get("skip")); err != nil || skip < 0 || skip >= length(m, first) {
			http.Error(w, "skip does not fit", http.StatusBadRequest)
			return
		}
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
		if err := writeData(w, codec, i, raw[skip:], resumed || q.Has("raw")); err != nil {
			return
		}
		skip, resumed = 0, false
	}
}

func length(m *chunk.Manifest, i int) int {
	_, n := m.ChunkRange(i)
	return n
}

// serveHave tells a peer what is here, until it goes away.
func (s *Swarm) serveHave(w http.ResponseWriter, r *http.Request) {
	d, err := intent.ParseDigest(r.PathValue("digest"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	rc := http.NewResponseController(w)
	ctx, cancel := context.WithTimeout(r.Context(), haveLife)
	defer cancel()
	seen, who := &digested{}, ""
	if s.cfg.Who != nil {
		who = s.cfg.Who(r)
	}
	for told := (*word)(nil); ; {
		now, _ := s.word(d, seen, who)
		same := told != nil && told.manifest == now.manifest && told.chunks == now.chunks && bytes.Equal(told.have, now.have)
		if err := rc.SetWriteDeadline(time.Now().Add(silence)); err != nil { // who takes nothing is not waited for
			return
		}
		if _, err := w.Write(now.encode(same)); err != nil {
			return
		}
		if err := rc.Flush(); err != nil {
			return
		}
		told = now
		if !sleep(ctx, haveGap) || !s.news(ctx, d, seen, who, now) {
			return
		}
	}
}

// digested is a manifest and its digest, which is not cheap: 30 MiB are hashed for an asset of 1 TiB.
type digested struct {
	m *chunk.Manifest
	d intent.Digest
}

// word returns what is here of an asset, for who asks, and what is closed when that may have changed.
func (s *Swarm) word(d intent.Digest, seen *digested, who string) (*word, <-chan struct{}) {
	s.mu.Lock()
	changed := s.changed
	if j := s.jobs[d]; j != nil {
		w := j.word()
		w.out = s.shuns(d, who)
		s.mu.Unlock()
		return w, changed
	}
	w := &word{stripe: noStripe, patience: idlePatience, today: s.today(), takes: s.takes()}
	s.mu.Unlock()
	if m, err := s.cfg.Store.Manifest(d); err == nil {
		if have, _, err := s.cfg.Store.Have(d); err == nil {
			if seen.m != m {
				*seen = digested{m, m.Digest()}
			}
			w.manifest, w.chunks, w.have = seen.d, len(m.Chunks), have
		}
	}
	return w, changed
}

// news waits until there is more to tell than was told, or until a third of the time has passed for which that holds. False: ctx ended.
func (s *Swarm) news(ctx context.Context, d intent.Digest, seen *digested, who string, told *word) bool {
	t := time.NewTimer(told.patience / 3)
	defer t.Stop()
	gap := time.NewTimer(chunkGap - haveGap)
	defer gap.Stop()
	for some, passed := false, false; ; {
		now, changed := s.word(d, seen, who)
		if now.out != told.out || now.stripe != told.stripe || now.able != told.able || now.manifest != told.manifest || now.need != told.need || now.patience < told.patience/2 {
			return true
		}
		if some = some || !bytes.Equal(now.have, told.have); some && passed {
			return true
		}
		select {
		case <-changed:
		case <-gap.C:
			passed = true
		case <-t.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
