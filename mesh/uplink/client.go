package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/trust"
)

// Target is one coordinator to dial. Addr is host:port, best first. Lower priorities are tried first; equal ones at random.
type Target struct {
	ID       string // empty: whichever coordinator answers there
	Addr     []string
	Priority int
}

// ClientConfig of a Client.
type ClientConfig struct {
	Endpoint *transport.Endpoint
	Hello    func() Hello    // called at each connect
	Targets  func() []Target // called at each connect; does not block
	// OnHeads is told what the coordinator has; it may block, then later heads are coalesced. After an error it is told again,
	// with the pauses of failed dials.
	OnHeads func(context.Context, Heads) error
	OnUp    func(context.Context, Welcome) // optional: a session stands
	OnDown  func(error)                    // optional: it ended
	Reverse http.Handler                   // reads, metrics, logs, consoles; the peer is transport.PeerFrom
	Log     *slog.Logger

	// Active tells whether this agent should hold a session now; nil: always. Call Reconsider when it may have changed. Who should not
	// opens one each Visit, give or take a quarter, and whenever it has a request, and ends it when there is none; with a Visit of 0 never.
	Active func() bool
	Visit  time.Duration

	StartSpread time.Duration // first dial within that after start; default 5 s
	MaxBackoff  time.Duration // between failed dials; default 60 s
}

const (
	startSpread   = 5 * time.Second
	maxBackoff    = time.Minute
	firstBackoff  = time.Second
	defaultSpread = time.Minute
	maxReverse    = 32               // requests at once: a console each for a whole rack
	activePoll    = 2 * time.Second  // while a session stands
	climbEvery    = 10 * time.Minute // tries for a coordinator of better priority
	lanesRest     = time.Hour        // TCP is kept that long before QUIC is tried again
	quicTries     = 3
	quicAgain     = time.Second // for QUIC where TCP was the last lane that worked: a request may wait
)

// Client is the agent's side.
type Client struct {
	cfg     ClientConfig
	applied chan Heads    // capacity 1: newest wins
	renew   chan struct{} // capacity 1
	soon    chan struct{} // capacity 1: the pause between dials ends
	look    chan struct{} // capacity 1: Active may have changed

	mu       sync.Mutex // guards what follows
	sess     *transport.Conn
	welcome  Welcome
	since    time.Time
	heard    time.Time
	failures int                  // QUIC dials in a row
	tcp      map[string]time.Time // by address where TCP was the last lane that worked: when QUIC is tried again
	rest     resting
}

// NewClient registers the reverse handler on an endpoint that does not run yet.
func NewClient(cfg ClientConfig) *Client {
	if cfg.StartSpread == 0 {
		cfg.StartSpread = startSpread
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = maxBackoff
	}
	c := &Client{cfg: cfg, tcp: map[string]time.Time{}, applied: make(chan Heads, 1), renew: make(chan struct{}, 1), soon: make(chan struct{}, 1), look: make(chan struct{}, 1)}
	if cfg.Reverse != nil {
		cfg.Endpoint.HandleHTTP(trust.ALPNUplink, c.bounded(cfg.Reverse))
	}
	return c
}

// bounded lets maxReverse requests in at once.
func (c *Client) bounded(h http.Handler) http.Handler {
	slots := make(chan struct{}, maxReverse)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			defer c.use()()
			h.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests on the uplink", http.StatusTooManyRequests)
		}
	})
}

// Status of the uplink. Heard is the last sign of life of a coordinator, also of a session that ended; zero: never.
type Status struct {
	Up          bool // a session stands, or the agent rests
	Resting     bool // it has ended its session by itself, and opens another one for its next request
	Coordinator string
	Lane        transport.Lane
	Since       time.Time
	Heard       time.Time
}

// Status returns how the uplink stands.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{Coordinator: c.welcome.Coordinator, Heard: c.heard, Resting: c.rest.back != nil}
	s.Up = s.Resting
	if c.sess != nil {
		s.Up, s.Lane, s.Since = true, c.sess.Lane(), c.since
	}
	return s
}

// RTT returns how long the way to the coordinator and back takes of late, with what waits on it; ok is false without a session, and on the
// TCP lane, where the kernel alone knows.
func (c *Client) RTT() (rtt time.Duration, ok bool) {
	c.mu.Lock()
	s := c.sess
	c.mu.Unlock()
	if s == nil {
		return 0, false
	}
	return s.RTT()
}

// Applied tells the coordinator which heads are active here. It does not block; the newest wins.
func (c *Client) Applied(h Heads) {
	for {
		select {
		case c.applied <- h:
			return
		default:
		}
		select {
		case <-c.applied:
		default:
		}
	}
}

// RoundTripper returns HTTP to the coordinator over whatever session stands, or over one that is opened when the agent rests. Write
// http://coordinator/path. Errors: ErrDown, at once, without either.
func (c *Client) RoundTripper() http.RoundTripper {
	return tripperFunc(func(r *http.Request) (*http.Response, error) {
		s, done, err := c.session(r.Context())
		if err != nil {
			return nil, fmt.Errorf("cannot send request to the coordinator: %w", err)
		}
		res, err := s.RoundTripper().RoundTrip(r)
		if err != nil {
			done()
			return nil, err
		}
		res.Body = &ending{res.Body, done}
		return res, nil
	})
}

type tripperFunc func(*http.Request) (*http.Response, error)

func (f tripperFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Run keeps a session until ctx ends. It never fails: a site lives without a coordinator.
func (c *Client) Run(ctx context.Context) error {
	defer func() { c.fell(context.Cause(ctx)) }() // who waits for a session waits no more
	wait := rand.N(c.cfg.StartSpread)
	fails, begun := 0, false
	for {
		if !c.until(ctx, wait, begun) {
			return nil
		}
		begun = true
		s, prio, err := c.connect(ctx)
		if err != nil {
			c.fell(err)
			fails++
			wait = Backoff(fails, c.cfg.MaxBackoff)
			level := slog.LevelDebug
			if fails == 1 {
				level = slog.LevelWarn
			}
			c.cfg.Log.Log(ctx, level, "uplink down; the site goes on alone", "tries", fails, "err", err)
			continue
		}
		spread, err := c.hold(ctx, s, prio)
		var b *busyError
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errRest):
			fails, wait = 0, rand.N(min(spread, restSpread)+1) // once it should hold one again
			continue
		case errors.As(err, &b):
			c.fell(err)
			wait = b.after + rand.N(b.after/2+1)
		case spread < 0: // no welcome: as a failed dial
			c.fell(err)
			fails++
			wait = Backoff(fails, c.cfg.MaxBackoff)
		default:
			fails = 0
			wait = rand.N(spread + 1)
		}
		c.cfg.Log.InfoContext(ctx, "uplink ended", "coordinator", s.Peer().String(), "retry", wait.Round(time.Millisecond).String(), "err", err)
	}
}

// Soon ends the pause between dials: who was refused may be taken now. It does not block.
func (c *Client) Soon() {
	select {
	case c.soon <- struct{}{}:
	default: // asked already
	}
}

// Backoff is how long to rest after as many failures, 1 or more: full jitter over 1 s doubled per failure, up to limit.
func Backoff(fails int, limit time.Duration) time.Duration {
	d := limit
	if fails < 20 {
		d = min(limit, firstBackoff<<(fails-1))
	}
	return rand.N(d + 1)
}

// pause waits for d; false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// connect dials the targets by priority, shuffled inside one, and returns the first session and its priority.
func (c *Client) connect(ctx context.Context) (*transport.Conn, int, error) {
	ts := slices.Clone(c.cfg.Targets())
	rand.Shuffle(len(ts), func(i, j int) { ts[i], ts[j] = ts[j], ts[i] })
	slices.SortStableFunc(ts, func(a, b Target) int { return a.Priority - b.Priority })
	errs := []error{}
	for _, t := range ts {
		s, err := c.dial(ctx, t)
		if err == nil {
			return s, t.Priority, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("no coordinator is known"))
	}
	return nil, 0, errors.Join(errs...)
}

func (c *Client) dial(ctx context.Context, t Target) (*transport.Conn, error) {
	want := trust.Want{Kind: trust.Coordinator, ID: t.ID}
	var errs []error
	for _, a := range t.Addr {
		lane, limit := c.lane(a)
		s, err := c.dialLane(ctx, a, want, lane, limit)
		if err != nil && limit == quicAgain && ctx.Err() == nil {
			errs = append(errs, err)
			s, err = c.dialLane(ctx, a, want, transport.LaneTCP, helloTimeout)
		}
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (c *Client) dialLane(ctx context.Context, addr string, want trust.Want, lane transport.Lane, limit time.Duration) (*transport.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := c.cfg.Endpoint.DialAddr(ctx, addr, trust.ALPNUplink, want, lane)
	c.note(addr, lane, err == nil)
	return s, err
}

// lane returns by which lane to dial addr, and for how long. After quicAgain TCP is dialled at once.
func (c *Client) lane(addr string) (transport.Lane, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, tcp := c.tcp[addr]
	switch {
	case c.failures >= quicTries || time.Now().Before(until):
		return transport.LaneTCP, helloTimeout
	case tcp:
		return transport.LaneQUIC, quicAgain
	default:
		return transport.LaneQUIC, helloTimeout
	}
}

// note counts dials: three on QUIC lead to TCP; TCP that works is kept for an hour, and dialled at once when QUIC then fails; TCP that does
// not work either means that the coordinator is away, and QUIC comes first again.
func (c *Client) note(addr string, lane transport.Lane, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case lane == transport.LaneQUIC && !ok:
		c.failures++
	case lane == transport.LaneQUIC || !ok:
		c.failures = 0
		delete(c.tcp, addr)
	default:
		c.failures = 0
		if time.Now().After(c.tcp[addr]) {
			c.tcp[addr] = time.Now().Add(lanesRest)
		}
	}
}
