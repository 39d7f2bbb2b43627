package wan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// flow is one UDP client: a socket of its own towards the target.
type flow struct {
	conn   net.Conn
	up     chan segment
	down   chan segment
	last   atomic.Int64 // unix nanoseconds of the last datagram either way
	cancel func()
}

func (r *Relay) readUDP(ctx context.Context) error {
	flows := map[string]*flow{}
	var wg sync.WaitGroup
	defer wg.Wait()
	b := make([]byte, 65535)
	for {
		n, from, err := r.cfg.UDP.ReadFrom(b)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("cannot read on %s: %w", r.cfg.UDP.LocalAddr(), err)
		}
		key := from.String()
		f := flows[key]
		if f == nil {
			forgetIdle(flows)
			if len(flows) >= maxFlows {
				continue
			}
			if f, err = r.newFlow(ctx, &wg, from); err != nil {
				continue // like a target that is gone: silence
			}
			flows[key] = f
		}
		r.pass(f, f.up, b[:n])
	}
}

func forgetIdle(flows map[string]*flow) {
	for k, f := range flows {
		if time.Since(time.Unix(0, f.last.Load())) > udpIdle {
			f.cancel()
			delete(flows, k)
		}
	}
}

// pass puts a copy of b on q unless the link is cut, loses it, or q is full.
func (r *Relay) pass(f *flow, q chan segment, b []byte) {
	f.last.Store(time.Now().UnixNano())
	r.mu.Lock()
	drop := r.cond.Cut || (r.cond.LossPercent > 0 && r.rng.Float64()*100 < r.cond.LossPercent)
	delay := r.cond.Delay
	r.mu.Unlock()
	if drop {
		return
	}
	select {
	case q <- segment{append([]byte(nil), b...), time.Now().Add(delay)}:
	default:
	}
}

func (r *Relay) newFlow(ctx context.Context, wg *sync.WaitGroup, client net.Addr) (*flow, error) {
	ctx, cancel := context.WithCancel(ctx)
	conn, err := r.cfg.Dial(ctx, "udp", r.cfg.Target)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("cannot dial %s: %w", r.cfg.Target, err)
	}
	f := &flow{conn: conn, up: make(chan segment, queueLen), down: make(chan segment, queueLen), cancel: cancel}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	wg.Go(func() { // target to queue
		defer stop()
		b := make([]byte, 65535)
		for {
			n, err := conn.Read(b)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				// An ICMP refusal while the target restarts; the flow goes on.
				if sleep(ctx, 10*time.Millisecond) != nil {
					return
				}
				continue
			}
			r.pass(f, f.down, b[:n])
		}
	})
	wg.Go(func() {
		r.drain(ctx, f.up, 0, &r.up, func(b []byte) error { _, err := conn.Write(b); return err })
	})
	wg.Go(func() {
		r.drain(ctx, f.down, 1, &r.down, func(b []byte) error { _, err := r.cfg.UDP.WriteTo(b, client); return err })
	})
	return f, nil
}

// drain sends what is due. A datagram that was on its way when the link was cut is lost with it.
func (r *Relay) drain(ctx context.Context, q chan segment, dir int, count *atomic.Uint64, send func([]byte) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-q:
			if sleep(ctx, time.Until(s.due)) != nil || r.limit[dir].WaitN(ctx, len(s.b)) != nil {
				return
			}
			if r.condition().Cut {
				continue
			}
			if send(s.b) == nil {
				count.Add(uint64(len(s.b)))
			}
		}
	}
}
