package govern

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/time/rate"
)

// The limits of one controller (boot.md section 4).
const (
	perSec = 2
	burst  = 4
)

// Governor gives turns to the requests of one controller. New makes it.
type Governor struct {
	limit *rate.Limiter
	gate  chan struct{}

	mu   sync.Mutex    // guards what follows
	busy int           // requests that control, waiting or under way
	idle chan struct{} // closed when busy is 0
}

// New makes a Governor. ratePerSec is how many requests a second there are at most, in bursts of four; zero takes 2.
func New(ratePerSec float64) *Governor {
	if ratePerSec <= 0 {
		ratePerSec = perSec
	}
	return &Governor{limit: rate.NewLimiter(rate.Limit(ratePerSec), burst), gate: make(chan struct{}, 1)}
}

// behind marks the context of a request that waits behind all others.
type behind struct{}

// Behind returns a context whose requests wait until nobody controls.
func Behind(ctx context.Context) context.Context { return context.WithValue(ctx, behind{}, true) }

// Take waits for a turn. done ends it; more than one call is one. Errors: the context's; then there is nothing to end.
func (g *Governor) Take(ctx context.Context) (done func(), err error) {
	leave, err := g.enter(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.limit.Wait(ctx); err != nil {
		leave()
		if ctx.Err() == nil { // its turn would come after the deadline
			err = fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
		}
		return nil, err
	}
	select {
	case g.gate <- struct{}{}:
		return sync.OnceFunc(func() { <-g.gate; leave() }), nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// enter counts a request that controls; one that is behind waits until there is none.
func (g *Governor) enter(ctx context.Context) (leave func(), err error) {
	if ctx.Value(behind{}) == nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.busy++; g.busy == 1 {
			g.idle = make(chan struct{})
		}
		return sync.OnceFunc(func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.busy--; g.busy == 0 {
				close(g.idle)
			}
		}), nil
	}
	for {
		g.mu.Lock()
		busy, idle := g.busy, g.idle
		g.mu.Unlock()
		if busy == 0 {
			return func() {}, nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
