package transport

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/pki/trust"
)

// Drain ends the session when no request is under way on it, at the earliest after a second, at the latest after two minutes. It
// does not block; nothing new should be opened on it. ended is closed when the session is gone.
func (c *Conn) Drain() (ended <-chan struct{}) { return c.drain(drainLeast) }

func (c *Conn) drain(least time.Duration) <-chan struct{} {
	gone := c.Context().Done()
	if !c.e.spawn(func() {
		t := time.NewTicker(drainPoll)
		defer t.Stop()
		for begin := time.Now(); ; {
			select {
			case <-gone:
				return
			case <-t.C:
			}
			if took := time.Since(begin); took >= least && c.requests.Load() == 0 || took >= drainMost {
				c.Close(CodeDuplicate, "another session stands")
				return
			}
		}
	}) {
		c.Close(CodeAway, "going away")
	}
	return gone
}

// Renew puts a new session in the place of each mesh session, so that peers see the certificate that TLS.Leaf gives now. Requests
// that are under way end on the old sessions. It returns when those are gone, or ctx ends. A peer that cannot be dialled keeps
// its session, and the error says so.
func (e *Endpoint) Renew(ctx context.Context) error {
	e.renewBulk()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards errs
	var errs []error
	for _, old := range e.Sessions() {
		if old.id.Site != e.cfg.TLS.Self.Site { // dialled anew when it is needed, by whoever can: it may have no address here
			old.Drain()
			continue
		}
		wg.Go(func() {
			if err := e.renew(ctx, old); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (e *Endpoint) renew(ctx context.Context, old *Conn) error {
	p := PeerOf(old.id)
	e.mu.Lock()
	lane := e.laneOf(&e.peer(p).route)
	e.mu.Unlock()
	c, err := e.dialPeer(ctx, p, trust.ALPNMesh, lane)
	if old.Context().Err() != nil {
		err = nil // it ended by itself: the next dial shows the new certificate
	}
	if err != nil {
		return err
	}
	if c != nil {
		e.mu.Lock()
		e.peer(p).conn = c
		e.mu.Unlock()
		e.watch(c)
	}
	select {
	case <-old.Drain():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
