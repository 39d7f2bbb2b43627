package metadata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// ErrToken: no installed machine has this token (any more).
var ErrToken = errors.New("token not known")

// Instances finds instances by the token of their machine.
type Instances interface {
	// ByToken returns the instance whose current generation has the token, compared in constant time. Errors: ErrToken.
	ByToken(ctx context.Context, token string) (Instance, error)
	// PhoneHome notes that the machine came up. It may come more than once. Errors: ErrToken.
	PhoneHome(ctx context.Context, token string, from netip.Addr, sent map[string]string) error
}

const (
	maxToken = 128
	maxBody  = 64 << 10 // cloud-init posts host keys: 4 KiB with all types
	maxField = 8 << 10
)

// NewHandler serves /<token>/{meta-data,user-data,vendor-data,network-config} and takes POST /<token>/phone-home.
func NewHandler(in Instances, log *slog.Logger) http.Handler {
	return &handler{in, log}
}

type handler struct {
	in  Instances
	log *slog.Logger
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, doc, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	w.Header().Set("Cache-Control", "no-store")
	if token == "" || len(token) > maxToken {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	if doc == "phone-home" {
		h.phoneHome(w, r, token)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	in, err := h.in.ByToken(r.Context(), token)
	if err != nil {
		h.refuse(w, err)
		return
	}
	if in.SecretUserData {
		in.UserData = ""
	}
	text, ok := Render(in).Files()[doc]
	if !ok {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, text)
	}
}

func (h *handler) refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrToken) {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	h.log.Warn("metadata not served", "err", err)
	w.Header().Set("Retry-After", "2")
	http.Error(w, "try again", http.StatusServiceUnavailable)
}

func (h *handler) phoneHome(w http.ResponseWriter, r *http.Request, token string) {
	if r.Method != http.MethodPost {
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "cannot read body", http.StatusBadRequest)
		return
	}
	sent, err := fields(r.Header.Get("Content-Type"), body)
	if err != nil {
		http.Error(w, "cannot read form", http.StatusBadRequest)
		return
	}
	from := netip.Addr{}
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		from = ap.Addr().Unmap()
	}
	if err := h.in.PhoneHome(r.Context(), token, from, sent); err != nil {
		h.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// fields reads a form; other bodies (a bare POST of a small system) count as empty.
func fields(contentType string, body []byte) (map[string]string, error) {
	out := map[string]string{}
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil || t != "application/x-www-form-urlencoded" {
		return out, nil
	}
	v, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fmt.Errorf("cannot read form: %w", err)
	}
	for k := range v {
		if s := v.Get(k); len(k) <= 64 && len(s) <= maxField {
			out[k] = s
		}
	}
	return out, nil
}
