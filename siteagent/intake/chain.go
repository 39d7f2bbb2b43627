package intake

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/document"
)

const (
	// patience is how long the first agent of a site may take to have what the coordinator named to all of them.
	patience = 2 * time.Second
	// slowFor is how long an agent that took longer counts as one that hears no coordinator.
	slowFor = time.Minute
)

// Chain brings the site's chain to this agent once a coordinator has named its head. The first agent of the site that hears one
// pulls over the WAN, the others from that one, and over the WAN only when it takes longer than patience.
// Source: architecture.md section 7.
type Chain struct {
	ChainConfig
	wake chan struct{}        // capacity 1
	slow map[string]time.Time // Run's own

	mu   sync.Mutex // guards want
	want intent.Head
}

// ChainConfig is what a Chain works with.
type ChainConfig struct {
	Desk       *Desk
	Site, Self string
	Above      http.RoundTripper                    // to the coordinator
	Hearing    func() []string                      // the agents that hear a coordinator, this one too: who pulls first comes first
	Peer       func(agent string) http.RoundTripper // over the mesh
	MaxBackoff time.Duration                        // between pulls that failed
	Log        *slog.Logger
}

// NewChain returns a chain that wants nothing yet.
func NewChain(cfg ChainConfig) *Chain {
	return &Chain{ChainConfig: cfg, wake: make(chan struct{}, 1), slow: map[string]time.Time{}}
}

// Want names the coordinator's head. It does not block; the newest counts, also when the coordinator fell back.
func (c *Chain) Want(h intent.Head) {
	c.mu.Lock()
	c.want = h
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // Run looks again anyway
	}
}

// Run pulls until ctx ends. What failed is tried again, until there is no session: the next one names a head.
func (c *Chain) Run(ctx context.Context) error {
	var again <-chan time.Time
	for fails := 0; ; {
		select {
		case <-c.wake:
			fails = 0
		case <-again:
		case <-ctx.Done():
			return nil
		}
		again = nil
		if err := c.bring(ctx); err != nil && ctx.Err() == nil {
			c.Log.Warn("intent not pulled", "err", err)
			if !document.Refused(err) && !errors.Is(err, uplink.ErrDown) {
				fails++
				again = time.After(uplink.Backoff(fails, c.MaxBackoff))
			}
		}
	}
}

// bring pulls what is wanted now.
func (c *Chain) bring(ctx context.Context) error {
	c.mu.Lock()
	want := c.want
	c.mu.Unlock()
	if want.Compare(c.Desk.Replica.State().Staged) <= 0 {
		return nil
	}
	if p, ok := c.first(); ok {
		err := c.await(ctx, p, want)
		if err == nil || ctx.Err() != nil {
			return err
		}
		c.slow[p] = time.Now()
		c.Log.Debug("intent not here from the first agent", "peer", p, "err", err)
	}
	return c.Desk.Pull(ctx, c.Above, "http://coordinator/v1/sites/"+c.Site+"/intent", want)
}

// first returns the agent that pulls for the site; false: this one does.
func (c *Chain) first() (string, bool) {
	for _, p := range c.Hearing() {
		if at, ok := c.slow[p]; p == c.Self || !ok || time.Since(at) >= slowFor {
			return p, p != c.Self
		}
	}
	return "", false
}

// await takes want from a peer, which may not have it yet.
func (c *Chain) await(ctx context.Context, peer string, want intent.Head) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.Desk.pull(ctx, c.Peer(peer), "http://"+peer+"/m/1/intent", "&wait="+patience.String(), want)
}
