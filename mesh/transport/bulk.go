package transport

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/pki/trust"
)

// bulkIdle is how long a bulk session stands without a request.
const bulkIdle = 30 * time.Second

// Bulk returns RPC to the peer over a session of its own, dialled by who asks when it is needed: what is large holds up neither gossip nor
// RPC there, and has larger windows. Config.Bulk says which lane it takes.
func (e *Endpoint) Bulk(p Peer) http.RoundTripper {
	return tripper(func(ctx context.Context) (net.Conn, error) {
		c, err := e.dial(ctx, p, trust.ALPNBulk)
		if err != nil {
			return nil, err
		}
		return c.OpenStream(ctx, KindHTTP)
	})
}

// keep makes c the bulk session with its peer until it ends, or idles for bulkIdle.
func (e *Endpoint) keep(c *Conn) *Conn {
	p := PeerOf(c.id)
	e.mu.Lock()
	e.peer(p).bulk.conn = c
	e.mu.Unlock()
	forget := func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if s := e.peer(p); s.bulk.conn == c {
			s.bulk.conn = nil
		}
	}
	if !e.spawn(func() {
		t := time.NewTicker(bulkIdle / 4)
		defer t.Stop()
		for used := time.Now(); time.Since(used) < bulkIdle; {
			select {
			case <-c.Context().Done():
				forget()
				return
			case now := <-t.C:
				if c.requests.Load() > 0 {
					used = now
				}
			}
		}
		forget() // nobody opens a stream on it from here on
		c.Drain()
	}) {
		c.Close(CodeAway, "going away")
	}
	return c
}

// renewBulk lets the next request of each peer dial anew, with the certificate of then.
func (e *Endpoint) renewBulk() {
	e.mu.Lock()
	var old []*Conn
	for _, s := range e.peers {
		if s.bulk.conn != nil {
			old = append(old, s.bulk.conn)
			s.bulk.conn = nil
		}
	}
	e.mu.Unlock()
	for _, c := range old {
		c.Drain()
	}
}

// BulkLanes counts the bulk sessions that this end dialled, by lane.
func (e *Endpoint) BulkLanes() map[Lane]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := map[Lane]int{}
	for _, s := range e.peers {
		if c := s.bulk.conn; c != nil && c.Context().Err() == nil {
			n[c.lane]++
		}
	}
	return n
}
