package traffic

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/telemetry/account"
)

// liveLimit bounds how long peers have for what they hear just now: it is asked for again ten seconds later.
const liveLimit = 5 * time.Second

// Top implements telemetry.TrafficSource: what all agents of the site hear just now, each exporter once.
func (d *Desk) Top(ctx context.Context, site string, q telemetry.TopQuery) (*telemetry.TopFrame, error) {
	if site != d.cfg.Site {
		return nil, api.ErrNotFound
	}
	now := time.Now()
	shares := map[string][]account.Live{d.cfg.Self: d.engine.Live(now)}
	ctx, cancel := context.WithTimeout(ctx, liveLimit)
	defer cancel()
	var mu sync.Mutex // guards shares
	var wg sync.WaitGroup
	for _, p := range d.cfg.Peers.Live() {
		wg.Go(func() {
			var l []account.Live
			if err := d.cfg.Peers.Ask(ctx, p, livePath, struct{}{}, &l); err != nil {
				d.cfg.Log.Debug("a peer did not say what traffic it hears", "peer", p, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			shares[p] = l
		})
	}
	wg.Wait()
	rates := account.Top(account.MergeLive(shares), q.By, q.Projects)
	f := &telemetry.TopFrame{At: now.UTC(), By: q.By, Rows: []telemetry.TopRow{}, More: max(len(rates)-q.Limit, 0)}
	f.Missing = d.missing(func(id string) bool { _, ok := shares[id]; return ok })
	for _, r := range rates[:len(rates)-f.More] {
		f.Rows = append(f.Rows, telemetry.TopRow{
			Project: r.Project, Network: r.Network, Machine: r.Machine, Switch: r.Switch, Port: r.Port, Direction: r.Direction,
			Bytes: tenth(r.Bytes), Bytes95: tenth(r.Bytes95), Packets: tenth(r.Packets), Packets95: tenth(r.Packets95), Samples: r.Samples, Seconds: tenth(r.Seconds),
			Coverage: math.Floor(r.Coverage*1000+1e-6) / 1000, Confidence: confidence(r.Low), Flags: r.Flags.Names(),
		})
	}
	return f, nil
}

// tenth rounds to tenths: more would be no more than noise.
func tenth(v float64) float64 { return math.Round(v*10) / 10 }
