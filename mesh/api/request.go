package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"time"
)

// RequestHeader names the request in the answer and in the server's log: what a user quotes when something went wrong.
const RequestHeader = "Skerry-Request"

type requestKey struct{}

// request is what the log line says of one request; only its own goroutine touches it.
type request struct {
	id      string // 16 hex digits, ours: what a client sends is not taken over
	by      Caller // whom the credentials name; of a refused request perhaps nobody
	denied  bool   // the authorisation table refused it
	why     string // for the audit log
	alarmed bool   // the use of an emergency key was noted
}

// ServeHTTP answers one request of an authenticated or not yet authenticated user.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var id [8]byte
	rand.Read(id[:]) // never fails: crypto/rand, Go 1.24
	q := &request{id: hex.EncodeToString(id[:])}
	w.Header().Set(RequestHeader, q.id)
	s := &statusWriter{ResponseWriter: w}
	r = r.WithContext(context.WithValue(r.Context(), requestKey{}, q))
	level := slog.LevelInfo // somebody changed something, or tried to
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		level = slog.LevelDebug
	}
	begin := time.Now()
	defer func() { // also when the handler gives up its connection by panicking
		// The route has no names in it that users chose, and the query may hold what is nobody's business.
		a.log.Log(r.Context(), level, "api request", "method", r.Method, "route", r.Pattern, "status", s.code(), "ms", time.Since(begin).Milliseconds(),
			"user", q.by.User, "request", q.id)
		if rec, ok := q.refusal(r, s.code()); ok {
			a.note(r.Context(), rec)
		}
	}()
	a.mux.ServeHTTP(s, r)
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the first status that is final.
func (s *statusWriter) WriteHeader(status int) {
	if s.status == 0 && status >= 200 {
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController through.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// code is what the client got: 200 when the handler did not say.
func (s *statusWriter) code() int {
	if s.status == 0 {
		return http.StatusOK
	}
	return s.status
}
