package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

const (
	// bodyLimit holds a full inventory: 512 disks at under 1 KiB each.
	bodyLimit = 1 << 20
	// maxWait is the longest long poll: below the 30 s after which middle boxes and clients give up.
	maxWait = 25 * time.Second
	// maxLogLines bounds one log post.
	maxLogLines = 1000
)

// Site is what the handler needs of the site. Session ids are opaque here. Each method returns within its context; errors
// are the package's sentinels, anything else is 500.
type Site interface {
	// Hello burns the token. ErrTokenReused: it was burnt; the site has quarantined the machine and cancelled both.
	Hello(ctx context.Context, h Hello) (Session, error)
	Inventory(ctx context.Context, session string, r inventory.Report) error
	// Work waits up to wait for an order; WorkWait when there is none.
	Work(ctx context.Context, session string, wait time.Duration) (Work, error)
	// Permit returns a signed permission, or ErrStale when the hardware or the generation is not the accepted one.
	Permit(ctx context.Context, session string, r PermissionRequest) (PermissionEnvelope, error)
	Progress(ctx context.Context, session string, p Progress) (Control, error)
	Log(ctx context.Context, session string, lines []LogLine) error
	// Receipt takes the proof of an erasure, checks every field, signs a receipt and returns its place; ErrStale when a field is not as
	// permitted. It may be called twice for one task.
	Receipt(ctx context.Context, session string, p erasure.Proof) (ReceiptPlace, error)
	// Done may be called twice for one task.
	Done(ctx context.Context, session string, d Done) error
}

// Handler serves /install/v1 of one agent.
type Handler struct {
	site     Site
	mux      *http.ServeMux
	rejected atomic.Uint64
}

// NewHandler returns a handler over site.
func NewHandler(site Site) *Handler {
	h := &Handler{site: site, mux: http.NewServeMux()}
	h.mux.HandleFunc("POST /install/v1/hello", h.hello)
	route(h, "PUT /install/v1/inventory", func(ctx context.Context, s string, v inventory.Report) (any, error) {
		return nil, site.Inventory(ctx, s, v)
	})
	h.mux.HandleFunc("GET /install/v1/work", h.work)
	route(h, "POST /install/v1/permission", func(ctx context.Context, s string, v PermissionRequest) (any, error) {
		return site.Permit(ctx, s, v)
	})
	route(h, "POST /install/v1/progress", func(ctx context.Context, s string, v Progress) (any, error) {
		return site.Progress(ctx, s, v)
	})
	route(h, "POST /install/v1/log", func(ctx context.Context, s string, v []LogLine) (any, error) {
		if len(v) > maxLogLines {
			return nil, fmt.Errorf("cannot take %d log lines: %w", len(v), ErrBadRequest)
		}
		return nil, site.Log(ctx, s, v)
	})
	route(h, "POST /install/v1/receipt", func(ctx context.Context, s string, v erasure.Proof) (any, error) {
		return site.Receipt(ctx, s, v)
	})
	route(h, "POST /install/v1/done", func(ctx context.Context, s string, v Done) (any, error) {
		return nil, site.Done(ctx, s, v)
	})
	return h
}

// Rejected returns how many requests were refused as not understood: unknown fields, too long, bad JSON.
func (h *Handler) Rejected() uint64 { return h.rejected.Load() }

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) hello(w http.ResponseWriter, r *http.Request) {
	var v Hello
	if err := decodeBody(w, r, &v); err != nil {
		h.answer(w, nil, err)
		return
	}
	s, err := h.site.Hello(r.Context(), v)
	h.answer(w, s, err)
}

func (h *Handler) work(w http.ResponseWriter, r *http.Request) {
	s, err := bearer(r)
	if err != nil {
		h.answer(w, nil, err)
		return
	}
	wait := maxWait
	if q := r.URL.Query().Get("wait"); q != "" {
		sec, err := strconv.ParseUint(q, 10, 16)
		if err != nil {
			h.answer(w, nil, fmt.Errorf("cannot read wait %q: %w", q[:min(len(q), 20)], ErrBadRequest))
			return
		}
		wait = min(time.Duration(sec)*time.Second, maxWait)
	}
	v, err := h.site.Work(r.Context(), s, wait)
	h.answer(w, v, err)
}

// route adds a request with a session and a JSON body.
func route[T any](h *Handler, pattern string, fn func(context.Context, string, T) (any, error)) {
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		s, err := bearer(r)
		if err != nil {
			h.answer(w, nil, err)
			return
		}
		var v T
		if err := decodeBody(w, r, &v); err != nil {
			h.answer(w, nil, err)
			return
		}
		out, err := fn(r.Context(), s, v)
		h.answer(w, out, err)
	})
}

// bearer returns the session id, at most 512 printable octets.
func bearer(r *http.Request) (string, error) {
	s, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || s == "" || len(s) > 512 {
		return "", fmt.Errorf("cannot find a session in the request: %w", ErrSession)
	}
	return s, nil
}

func decodeBody(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err != nil {
		return fmt.Errorf("cannot read request: %w: %w", ErrBadRequest, err)
	}
	return decodeStrict(b, v)
}

// decodeStrict reads exactly one JSON value and refuses fields that v does not have.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("cannot decode: %w: %w", ErrBadRequest, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot decode: %w: something follows the value", ErrBadRequest)
	}
	return nil
}

// errorBody is what the client gets with a status of 400 and above.
type errorBody struct {
	Code  string `json:"code"`
	Error string `json:"error"`
}

// wireError is one line of the table that both ends use.
type wireError struct {
	err    error
	status int
	code   string
}

func wireErrors() []wireError {
	return []wireError{
		{ErrToken, http.StatusForbidden, "token"},
		{ErrTokenReused, http.StatusGone, "token-reused"},
		{ErrSession, http.StatusUnauthorized, "session"},
		{ErrStale, http.StatusConflict, "stale"},
		{ErrBusy, http.StatusServiceUnavailable, "busy"},
		{ErrBadRequest, http.StatusBadRequest, "bad-request"},
	}
}

func (h *Handler) answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		if v == nil {
			v = struct{}{}
		}
		_ = json.NewEncoder(w).Encode(v) // an error means that the client hung up
		return
	}
	if errors.Is(err, ErrBadRequest) {
		h.rejected.Add(1)
	}
	status, body := http.StatusInternalServerError, errorBody{Code: "internal", Error: "internal error"}
	for _, e := range wireErrors() {
		if errors.Is(err, e.err) {
			status, body = e.status, errorBody{Code: e.code, Error: err.Error()}
			break
		}
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
