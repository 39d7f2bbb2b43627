package wan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// Condition is the state of the link, both directions alike. The zero value is a perfect link.
type Condition struct {
	Cut         bool
	Delay       time.Duration // one way
	BytesPerSec int           // 0 = unlimited; TCP and UDP together, per direction
	LossPercent float64       // of datagrams; a TCP byte stream has no loss at this layer
}

// Config says where the relay listens and whereto it passes. The caller makes the sockets, in the namespace it likes; Run closes them.
type Config struct {
	TCP    net.Listener   // nil = no TCP
	UDP    net.PacketConn // nil = no UDP
	Target string         // host:port, both protocols
	// Dial makes connections towards the target; nil = net.Dialer of the caller's namespace.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	Seed uint64 // of the loss pattern
}

// Counters are octets of payload that passed.
type Counters struct{ Up, Down uint64 }

// Relay is one link. New makes it.
type Relay struct {
	cfg      Config
	up, down atomic.Uint64
	limit    [2]*rate.Limiter // up, down

	mu      sync.Mutex // guards what follows
	cond    Condition
	changed chan struct{} // closed and replaced by Set
	rng     *rand.Rand
}

const (
	burst       = 64 << 10         // octets: one TCP buffer, so that WaitN never asks for more
	dialTimeout = 10 * time.Second // a connect over a cut link hangs; the client has its own limit
	udpIdle     = 2 * time.Minute  // above QUIC's idle timeouts, so that a flow keeps its port
	maxFlows    = 1024             // distinct UDP clients: a site has at most 7 agents
	queueLen    = 256              // datagrams in flight per direction: 100 ms at 30 Mbit/s
)

// New returns a relay that is not running yet.
func New(cfg Config) *Relay {
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	r := &Relay{cfg: cfg, changed: make(chan struct{}), rng: rand.New(rand.NewPCG(cfg.Seed, 1))}
	for i := range r.limit {
		r.limit[i] = rate.NewLimiter(rate.Inf, burst)
	}
	return r
}

// Set changes the link from now on.
func (r *Relay) Set(c Condition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cond = c
	for _, l := range r.limit {
		if c.BytesPerSec > 0 {
			l.SetLimit(rate.Limit(c.BytesPerSec))
		} else {
			l.SetLimit(rate.Inf)
		}
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// Counters returns what passed since New: Up is towards the target.
func (r *Relay) Counters() Counters { return Counters{r.up.Load(), r.down.Load()} }

// Run relays until ctx ends and returns nil after all goroutines and sockets are gone; another error is a listener's.
func (r *Relay) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if r.cfg.TCP != nil {
		g.Go(func() error { <-ctx.Done(); r.cfg.TCP.Close(); return nil }) // ends the accept below
		g.Go(func() error { return r.acceptTCP(ctx) })
	}
	if r.cfg.UDP != nil {
		g.Go(func() error { <-ctx.Done(); r.cfg.UDP.Close(); return nil }) // ends the read below
		g.Go(func() error { return r.readUDP(ctx) })
	}
	return g.Wait()
}

// open waits until the link is not cut.
func (r *Relay) open(ctx context.Context) error {
	for {
		r.mu.Lock()
		cut, changed := r.cond.Cut, r.changed
		r.mu.Unlock()
		if !cut {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (r *Relay) condition() Condition {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cond
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (r *Relay) acceptTCP(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := r.cfg.TCP.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("cannot accept on %s: %w", r.cfg.TCP.Addr(), err)
		}
		conns.Go(func() { r.serveTCP(ctx, c) })
	}
}

// serveTCP joins one client with the target. An end of stream passes on as a half close.
func (r *Relay) serveTCP(ctx context.Context, c net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.Close()
	if r.open(ctx) != nil {
		return
	}
	dctx, dcancel := context.WithTimeout(ctx, dialTimeout)
	t, err := r.cfg.Dial(dctx, "tcp", r.cfg.Target)
	dcancel()
	if err != nil {
		return // the client sees a reset, as from a dead target
	}
	defer t.Close()
	stop := context.AfterFunc(ctx, func() { c.Close(); t.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { r.pump(ctx, cancel, t, c, 0, &r.up) })
	both.Go(func() { r.pump(ctx, cancel, c, t, 1, &r.down) })
	both.Wait()
}

// segment is data and the time at which it may leave the link.
type segment struct {
	b   []byte
	due time.Time
}

// pump copies one direction: a reader that stamps, a writer that waits for the stamp, so that delay does not cost rate.
func (r *Relay) pump(ctx context.Context, cancel func(), dst, src net.Conn, dir int, count *atomic.Uint64) {
	q := make(chan segment, 64) // of at most 64 KiB: 4 MiB in flight, a bandwidth-delay product of 300 Mbit/s x 100 ms
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(q)
		for {
			b := make([]byte, burst)
			n, err := src.Read(b)
			if n > 0 {
				if r.open(ctx) != nil || r.limit[dir].WaitN(ctx, n) != nil {
					return
				}
				select {
				case q <- segment{b[:n], time.Now().Add(r.condition().Delay)}:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	for s := range q {
		if sleep(ctx, time.Until(s.due)) != nil || r.open(ctx) != nil {
			break
		}
		if _, err := dst.Write(s.b); err != nil {
			cancel()
			break
		}
		count.Add(uint64(len(s.b)))
	}
	// A cut delays the news of an end like any other data.
	if r.open(ctx) == nil {
		if h, ok := dst.(interface{ CloseWrite() error }); ok {
			_ = h.CloseWrite()
		}
	}
	for range q { // lets the reader end after a failed write
	}
	reader.Wait()
}
