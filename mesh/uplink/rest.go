package uplink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/transport"
)

// VisitEvery is how often an agent that holds no session comes by all the same (ClientConfig.Visit): so old is at most what the
// coordinator knows of it alone, as its keys and its store. What the site knows goes up with those that hold one.
const VisitEvery = 5 * time.Minute

const (
	restAfter = 10 * time.Second // without a request; a welcome leads to some at once
	restWait  = 5 * time.Second  // for the coordinator to take the word of it
	// restSpread bounds how long who rested waits before it holds a session in the place of those that were lost, so that not all sites
	// come at once; its own requests do not wait.
	restSpread = 10 * time.Second
	restKept   = 3 * VisitEvery // an agent that did not come by for so long is away
)

// errRest ends the session of an agent that should hold none and has nothing to say.
var errRest = errors.New("others of the site hold the sessions")

// resting is an agent that has reached the coordinator and ended its session by itself. Its requests open another one.
type resting struct {
	inFlight int           // requests on the session, both ways
	used     time.Time     // when one ended, or the session began
	back     chan struct{} // not nil: at rest; closed when a session stands, or could not be opened
}

// Reconsider asks Active again soon. It does not block.
func (c *Client) Reconsider() {
	select {
	case c.look <- struct{}{}:
	default: // asked already
	}
}

func (c *Client) active() bool { return c.cfg.Active == nil || c.cfg.Active() }

// until pauses for d, or until Soon. An agent that should hold no session pauses until its next visit instead, or, where the last one
// failed, for as long as failed dials lead to at most; but for the first time. From the rest, d counts from when it should hold one again.
// False: ctx ended.
func (c *Client) until(ctx context.Context, d time.Duration, begun bool) bool {
	start, visit := time.Now(), max(d, c.cfg.MaxBackoff)
	rested, was := c.atRest(), false
	if rested {
		visit = c.cfg.Visit*3/4 + rand.N(c.cfg.Visit/2+1)
	}
	for {
		active, left := c.active(), d
		if rested && active && !was {
			start = time.Now()
		}
		was = active
		if !active && begun {
			left = visit
		}
		t := time.NewTimer(max(left-time.Since(start), 0))
		if !active && c.cfg.Visit == 0 {
			t.Stop() // not before it should
		}
		again := false
		select {
		case <-t.C:
		case <-c.soon:
			again = !active && c.cfg.Visit == 0
		case <-c.look:
			again = true
		case <-ctx.Done():
		}
		t.Stop()
		if !again || ctx.Err() != nil {
			return ctx.Err() == nil
		}
	}
}

// session returns the session for a request, and what to call when the request has ended. At rest it has one opened.
func (c *Client) session(ctx context.Context) (*transport.Conn, func(), error) {
	for {
		c.mu.Lock()
		s, back := c.sess, c.rest.back
		if s != nil {
			c.rest.inFlight++
		}
		c.mu.Unlock()
		if s != nil {
			return s, c.used(), nil
		}
		if back == nil {
			return nil, nil, ErrDown
		}
		c.Soon()
		select {
		case <-back:
		case <-ctx.Done():
			return nil, nil, errors.Join(ErrDown, ctx.Err())
		}
	}
}

// use counts a request until the returned function is called.
func (c *Client) use() func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest.inFlight++
	return c.used()
}

// used returns what ends the count of a request.
func (c *Client) used() func() {
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.rest.inFlight--
		c.rest.used = time.Now()
	})
}

// lieDown begins the rest of an agent that should hold no session and had no request for a while.
func (c *Client) lieDown() bool {
	if c.active() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rest.inFlight > 0 || time.Since(c.rest.used) < restAfter || c.sess == nil {
		return false
	}
	select {
	case <-c.soon: // it was for a session, and one stood
	default:
	}
	c.sess, c.rest.back = nil, make(chan struct{})
	return true
}

// atRest tells whether the agent rests.
func (c *Client) atRest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rest.back != nil
}

// rise ends the rest, if there is one, with a session or without.
func (c *Client) rise(s *transport.Conn) (rested bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != nil {
		c.sess, c.rest.used = s, time.Now()
	}
	if c.rest.back == nil {
		return false
	}
	close(c.rest.back)
	c.rest.back = nil
	return true
}

// fell ends the rest of who could not reach the coordinator.
func (c *Client) fell(err error) {
	if c.rise(nil) && c.cfg.OnDown != nil {
		c.cfg.OnDown(fmt.Errorf("cannot open a session again: %w", err))
	}
}
