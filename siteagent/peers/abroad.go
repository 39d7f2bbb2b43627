package peers

import (
	"net/http"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/transport"
)

const (
	// abroadAtOnce is how many requests of one agent of another site are answered at once: a gateway takes few assets at a time.
	abroadAtOnce = 4
	// A reader has takeTime for each takePiece of an answer: 8 kbit/s. Who takes less holds a turn, or a transaction of the store, no longer.
	takeTime  = time.Minute
	takePiece = 64 << 10 // octets
)

// guests counts the requests of agents of other sites that are being answered, by SITE/AGENT; who has none is not in it.
type guests struct {
	mu sync.Mutex // guards of
	of map[string]int
}

// enter takes one of the places of who; false: all are taken. After true, leave gives it back.
func (g *guests) enter(who string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of[who] == abroadAtOnce {
		return false
	}
	if g.of == nil {
		g.of = map[string]int{}
	}
	g.of[who]++
	return true
}

func (g *guests) leave(who string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of[who]--; g.of[who] == 0 {
		delete(g.of, who)
	}
}

// bounded answers agents of other sites: a few requests of each at once, and none that does not read.
func (m *Mesh) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := transport.PeerOf(transport.PeerFrom(r.Context())).String()
		if !m.guests.enter(who) {
			w.Header().Set("Retry-After", "5")
			http.Error(w, "too many requests at once", http.StatusTooManyRequests)
			return
		}
		defer m.guests.leave(who)
		next.ServeHTTP(&taken{ResponseWriter: w, rc: http.NewResponseController(w)}, r)
	})
}

// taken is an answer that fails when its reader does not take it.
type taken struct {
	http.ResponseWriter
	rc *http.ResponseController
}

// Unwrap lets http.ResponseController through.
func (t *taken) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// Write implements http.ResponseWriter.
func (t *taken) Write(b []byte) (done int, err error) {
	for {
		if err := t.rc.SetWriteDeadline(time.Now().Add(takeTime)); err != nil {
			return done, err
		}
		n, err := t.ResponseWriter.Write(b[:min(len(b), takePiece)])
		b, done = b[n:], done+n
		if err != nil || len(b) == 0 {
			return done, err
		}
	}
}

// FlushError implements what http.ResponseController flushes by.
func (t *taken) FlushError() error {
	if err := t.rc.SetWriteDeadline(time.Now().Add(takeTime)); err != nil {
		return err
	}
	return t.rc.Flush()
}
