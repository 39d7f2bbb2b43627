package uplink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/transport"
)

type busyError struct{ after time.Duration }

func (b *busyError) Error() string { return fmt.Sprintf("coordinator busy, asks for %v", b.after) }

// held is one session while it stands.
type held struct {
	conn *transport.Conn
	st   *transport.Stream // control stream
	r    *lineReader
	prio int // of its target
}

// hold runs one session to its end. spread is how widely the return should be spread, negative when no welcome came.
func (c *Client) hold(ctx context.Context, s *transport.Conn, prio int) (spread time.Duration, err error) {
	defer s.Close(transport.CodeDone, "done")
	hctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	st, err := s.OpenStream(hctx, transport.KindUplink)
	if err != nil {
		return -1, err
	}
	defer st.Close()
	w, r, err := c.greet(st)
	if err != nil {
		return -1, err
	}
	c.mu.Lock()
	c.sess, c.welcome, c.since, c.heard = s, *w, time.Now(), time.Now()
	c.mu.Unlock()
	c.cfg.Log.InfoContext(ctx, "uplink stands", "coordinator", w.Coordinator, "lane", string(s.Lane()))
	if c.cfg.OnUp != nil {
		c.cfg.OnUp(ctx, *w)
	}
	err = c.follow(ctx, held{s, st, r, prio}, w.Heads)
	c.mu.Lock()
	c.sess = nil
	c.mu.Unlock()
	if c.cfg.OnDown != nil {
		c.cfg.OnDown(err)
	}
	spread = time.Duration(w.SpreadSeconds) * time.Second
	if spread < 0 || spread > time.Hour {
		spread = defaultSpread
	}
	return spread, err
}

// greet exchanges hello and welcome.
func (c *Client) greet(st *transport.Stream) (*Welcome, *lineReader, error) {
	if err := st.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, nil, fmt.Errorf("cannot bound hello: %w", err)
	}
	h := c.cfg.Hello()
	b, err := encode(&line{Hello: &h})
	if err != nil {
		return nil, nil, err
	}
	if _, err := st.Write(b); err != nil {
		return nil, nil, fmt.Errorf("cannot say hello: %w", err)
	}
	r := newLineReader(st)
	l, err := r.next()
	if err != nil {
		return nil, nil, err
	}
	switch {
	case l.Busy != nil:
		return nil, nil, &busyError{time.Duration(max(1, min(l.Busy.RetryAfter, 3600))) * time.Second}
	case l.Welcome == nil:
		return nil, nil, errors.New("cannot use uplink: no welcome")
	case l.Welcome.Coordinator != st.Peer().ID:
		return nil, nil, fmt.Errorf("cannot use uplink: %s calls itself %q", st.Peer(), l.Welcome.Coordinator)
	}
	return l.Welcome, r, st.SetDeadline(time.Time{})
}

// follow reads heads and writes what was applied, until the session or ctx ends.
func (c *Client) follow(ctx context.Context, h held, first Heads) error {
	g, gctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(gctx, func() { h.conn.Close(transport.CodeDone, "done"); _ = h.st.Close() })
	defer stop()
	heads := make(chan Heads, 1)
	heads <- first
	g.Go(func() error { // ends when the stream does
		for {
			if h.conn.Lane() == transport.LaneTCP {
				if err := h.st.SetReadDeadline(time.Now().Add(silence)); err != nil {
					return err
				}
			}
			l, err := h.r.next()
			if err != nil {
				return err
			}
			c.mu.Lock()
			c.heard = time.Now()
			c.mu.Unlock()
			if l.Heads != nil {
				select { // newest wins
				case <-heads:
				default:
				}
				heads <- *l.Heads
			}
		}
	})
	g.Go(func() error { return c.tell(gctx, heads) })
	g.Go(func() error { return c.write(gctx, h.conn, h.st) })
	g.Go(func() error { return c.reconsider(gctx, h.prio) })
	return g.Wait()
}

// tell hands each of heads to OnHeads, and the last one again while that fails.
func (c *Client) tell(ctx context.Context, heads <-chan Heads) error {
	var last Heads
	var again <-chan time.Time
	fails := 0
	for {
		select {
		case last = <-heads:
			fails = 0
		case <-again:
		case <-ctx.Done():
			return ctx.Err()
		}
		again = nil
		if c.cfg.OnHeads == nil {
			continue
		}
		if err := c.cfg.OnHeads(ctx, last); err != nil && ctx.Err() == nil {
			fails++
			again = time.After(backoff(fails, c.cfg.MaxBackoff))
		}
	}
}

// write sends applied heads, and pings on TCP.
func (c *Client) write(ctx context.Context, s *transport.Conn, st *transport.Stream) error {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		var l line
		select {
		case h := <-c.applied:
			l.Applied = &h
		case <-t.C:
			if s.Lane() != transport.LaneTCP {
				continue
			}
			l.Ping = &ping{}
		case <-s.Context().Done():
			return context.Cause(s.Context())
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := writeLine(st, &l); err != nil {
			return err
		}
	}
}

func writeLine(st *transport.Stream, l *line) error {
	b, err := encode(l)
	if err != nil {
		return err
	}
	if err := st.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := st.Write(b); err != nil {
		return fmt.Errorf("cannot write uplink line: %w", err)
	}
	return nil
}

// reconsider ends the session when this agent should no longer hold one, or when a better coordinator may be back.
func (c *Client) reconsider(ctx context.Context, prio int) error {
	poll, climb := time.NewTicker(activePoll), time.NewTicker(climbEvery)
	defer poll.Stop()
	defer climb.Stop()
	for {
		select {
		case <-poll.C:
			if c.cfg.Active != nil && !c.cfg.Active() {
				return errors.New("another agent holds the uplink")
			}
		case <-climb.C:
			if slices.ContainsFunc(c.cfg.Targets(), func(t Target) bool { return t.Priority < prio }) {
				return errors.New("a better coordinator may be back")
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
