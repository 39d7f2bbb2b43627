package transport

import (
	"net/http"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/pki/trust"
)

// Bounds per peer; reasons in mesh.md section 1.
const (
	maxPerPeer   = 64               // connections of all protocols and lanes: 1 mesh, 8 bulk, 32 streams of the TCP lane, and room
	rpcPerSecond = 100              // requests of one peer, sustained
	rpcBurst     = 300              // and at once: an agent that starts asks for much
	maxStrikes   = 3                // protocol errors
	strikeWindow = 10 * time.Minute // within that: the peer is refused for as long
	maxGuarded   = 4096             // peers remembered; a domain that has more forgets at random
)

// guard counts what peers do. Identities without name (users, newcomers) are bounded elsewhere.
type guard struct {
	mu    sync.Mutex // guards what follows
	peers map[string]*conduct
}

type conduct struct {
	links   int
	strikes []time.Time
	tokens  float64
	filled  time.Time
}

func (g *guard) of(id trust.Identity) *conduct {
	if g.peers == nil {
		g.peers = map[string]*conduct{}
	}
	c := g.peers[id.String()]
	if c == nil {
		if len(g.peers) >= maxGuarded {
			for k, v := range g.peers {
				if v.links == 0 {
					delete(g.peers, k)
					break
				}
			}
		}
		c = &conduct{tokens: rpcBurst, filled: time.Now()}
		g.peers[id.String()] = c
	}
	return c
}

// admit counts one more connection of id, or refuses it.
func (g *guard) admit(id trust.Identity) bool {
	if id.Kind == trust.None {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.of(id)
	if c.links >= maxPerPeer || c.struckOut(time.Now()) {
		return false
	}
	c.links++
	return true
}

// leave ends one connection of id.
func (g *guard) leave(id trust.Identity) {
	if id.Kind == trust.None {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.of(id).links--
}

// strike notes a protocol error and tells whether the peer is out.
func (g *guard) strike(id trust.Identity) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, now := g.of(id), time.Now()
	c.strikes = append(c.strikes, now)
	if n := len(c.strikes) - maxStrikes; n > 0 {
		c.strikes = c.strikes[n:]
	}
	return c.struckOut(now)
}

func (c *conduct) struckOut(now time.Time) bool {
	return len(c.strikes) == maxStrikes && now.Sub(c.strikes[0]) < strikeWindow
}

// request takes one token of id's bucket.
func (g *guard) request(id trust.Identity) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, now := g.of(id), time.Now()
	c.tokens = min(rpcBurst, c.tokens+now.Sub(c.filled).Seconds()*rpcPerSecond)
	c.filled = now
	if c.tokens < 1 {
		return false
	}
	c.tokens--
	return true
}

// limited answers 429 to a peer that asks too often.
func (e *Endpoint) limited(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.guard.request(PeerFrom(r.Context())) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests", http.StatusTooManyRequests)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// protocolError counts against the peer of s and cuts all of its connections at the third.
func (e *Endpoint) protocolError(s *Stream, what string) {
	e.cfg.Log.Warn("peer broke the protocol", "peer", s.peer.String(), "what", what)
	if e.guard.strike(s.peer) {
		e.cut(CodeProtocol, "too many protocol errors", func(id trust.Identity) bool { return id.Is(s.peer) })
	}
}
