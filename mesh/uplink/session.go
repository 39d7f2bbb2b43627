package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// opened is a session that was welcomed.
type opened struct {
	held
	welcome *Welcome
}

// hold runs one session, and those that Renew puts in its place, to the end. spread is how widely the return should be spread,
// negative when no welcome came.
func (c *Client) hold(ctx context.Context, s *transport.Conn, prio int) (spread time.Duration, err error) {
	o, err := c.open(ctx, s, prio)
	if err != nil {
		return -1, err
	}
	w := o.welcome
	for o != nil {
		w = o.welcome
		o, err = c.keep(ctx, o)
	}
	spread = time.Duration(w.SpreadSeconds) * time.Second
	if spread < 0 || spread > time.Hour {
		spread = defaultSpread
	}
	if c.atRest() {
		return spread, errRest
	}
	c.mu.Lock()
	c.sess = nil
	c.mu.Unlock()
	if c.cfg.OnDown != nil {
		c.cfg.OnDown(err)
	}
	return spread, err
}

// open says hello on a session. It closes the session when that fails.
func (c *Client) open(ctx context.Context, s *transport.Conn, prio int) (o *opened, err error) {
	defer func() {
		if err != nil {
			s.Close(transport.CodeDone, "done")
		}
	}()
	hctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	st, err := s.OpenStream(hctx, transport.KindUplink)
	if err != nil {
		return nil, err
	}
	w, r, err := c.greet(st)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &opened{held{s, st, r, prio}, w}, nil
}

// keep makes o the session until it ends, or another one was opened in its place, which it returns: requests that are under way end
// on o then.
func (c *Client) keep(ctx context.Context, o *opened) (next *opened, err error) {
	c.mu.Lock()
	c.welcome, c.since, c.heard = *o.welcome, time.Now(), time.Now()
	c.mu.Unlock()
	level := slog.LevelInfo
	if c.rise(o.conn) {
		level = slog.LevelDebug // as every few minutes
	}
	c.cfg.Log.Log(ctx, level, "uplink stands", "coordinator", o.welcome.Coordinator, "lane", string(o.conn.Lane()))
	if c.cfg.OnUp != nil {
		c.cfg.OnUp(ctx, *o.welcome)
	}
	next, err = c.follow(ctx, o.held, o.welcome.Heads)
	_ = o.st.Close() // what ended the session counts
	if next == nil && !c.atRest() {
		o.conn.Close(transport.CodeDone, "done")
	} else {
		o.conn.Drain()
	}
	return next, err
}

// Renew opens another session in the place of the one that stands, if one does, so that the coordinator sees the certificate that
// the endpoint has now; who rests opens one. It does not block; no request fails by it.
func (c *Client) Renew() {
	if c.atRest() {
		c.Soon()
		return
	}
	select {
	case c.renew <- struct{}{}:
	default: // asked already
	}
}

// handOver waits for Renew and returns the session that was opened then.
func (c *Client) handOver(ctx context.Context) (*opened, error) {
	for fails := 0; ; {
		if fails == 0 {
			select {
			case <-c.renew:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		} else if !pause(ctx, Backoff(fails, c.cfg.MaxBackoff)) {
			return nil, ctx.Err()
		}
		var o *opened
		s, prio, err := c.connect(ctx)
		if err == nil {
			o, err = c.open(ctx, s, prio)
		}
		if err == nil {
			return o, nil
		}
		fails++
		c.cfg.Log.WarnContext(ctx, "session not renewed; the old one stays", "tries", fails, "err", err)
	}
}

// errRenewed ends what belongs to a session in whose place another one stands.
var errRenewed = errors.New("another session stands")

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

// follow reads heads and writes what was applied, until the session or ctx ends, or next was opened in its place.
func (c *Client) follow(ctx context.Context, h held, first Heads) (next *opened, err error) {
	g, gctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(gctx, func() { _ = h.st.Close() }) // lets the reader go
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
	rest := make(chan struct{})
	g.Go(func() error { return c.write(gctx, h, rest) })
	g.Go(func() error { return c.reconsider(gctx, h.prio, rest) })
	g.Go(func() (err error) {
		if next, err = c.handOver(gctx); err == nil {
			err = errRenewed
		}
		return err
	})
	err = g.Wait() // before next is read
	return next, err
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
			again = time.After(Backoff(fails, c.cfg.MaxBackoff))
		}
	}
}

// write sends applied heads, pings on TCP, and that the agent rests: the coordinator ends the stream then.
func (c *Client) write(ctx context.Context, held held, rest <-chan struct{}) error {
	s, st := held.conn, held.st
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
		case <-rest:
			if err := writeLine(st, &line{Rest: &struct{}{}}); err != nil {
				return err
			}
			return st.SetReadDeadline(time.Now().Add(restWait)) // then the reader ends the session
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

// reconsider closes rest when this agent should no longer hold a session and needs none, and ends the session when a better coordinator
// may be back.
func (c *Client) reconsider(ctx context.Context, prio int, rest chan<- struct{}) error {
	poll, climb := time.NewTicker(activePoll), time.NewTicker(climbEvery)
	defer poll.Stop()
	defer climb.Stop()
	for {
		select {
		case <-poll.C:
			if c.lieDown() {
				close(rest)
				return nil
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
