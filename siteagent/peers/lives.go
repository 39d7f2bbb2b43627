package peers

import (
	"net/http"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/transport"
)

const (
	// lifeHeader names the process that asks: random, new at each start.
	lifeHeader = "Skerry-Life"
	// lateRequest is how long after its successor was first heard a process that ended may still have a request on its way.
	lateRequest = 10 * time.Second
	maxLife     = 64 // octets
)

// lives finds one identity in two boxes, as when one kit was used twice: a process ends before its successor starts, so one that
// speaks again after another spoke in its place is a second box. A box that was put back to an older copy is none.
// Source: trust.md section 3.
type lives struct {
	mu sync.Mutex // guards what follows
	of map[string]*lived
}

type lived struct {
	now, before string
	since       time.Time // when now was first heard
}

// heard notes that agent asked as life, and tells whether two boxes are that agent. Then what was known of it is forgotten, so
// that a person who let one of them back is not overruled by what was before.
func (l *lives) heard(agent, life string, at time.Time) (double bool) {
	if life == "" || len(life) > maxLife {
		return false // an agent that says nothing of itself
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]*lived{}
	}
	a := l.of[agent]
	switch {
	case a == nil:
		l.of[agent] = &lived{now: life, since: at}
	case life == a.now:
	case life != a.before:
		a.now, a.before, a.since = life, a.now, at
	case at.Sub(a.since) > lateRequest:
		delete(l.of, agent)
		return true
	}
	return false
}

// known wraps the handler of peers' requests: who asks is noted, and a double is reported before it is answered.
func (m *Mesh) known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent := transport.PeerFrom(r.Context()).ID
		if m.lives.heard(agent, r.Header.Get(lifeHeader), time.Now()) && m.Doubled != nil {
			m.Doubled(r.Context(), agent)
			http.Error(w, "two boxes are "+agent, http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
