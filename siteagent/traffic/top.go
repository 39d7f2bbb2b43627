package traffic

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/telemetry/account"
)

// liveLimit bounds how long peers have for what they hear just now: it is asked for again ten seconds later.
const liveLimit = 5 * time.Second

// now is what an agent hears and counts just now.
type now struct {
	Lives  []account.Live  `json:"lives"`
	Points []account.Point `json:"points,omitempty"` // of those that it counts: there access ports do not count
	at     time.Time
}

// nowOf makes rates of what a probe counted from one reading to the next: exact ones, of the last minute, where samples give those of the open
// one. nil where it was too short.
func nowOf(rows map[account.Point][]account.Row, self string, from, to time.Time) *now {
	n := &now{at: to}
	for p, rs := range rows {
		l := account.Live{Key: p.Key(), Switch: "probe/" + self, Seconds: to.Sub(from).Seconds(), Datagrams: 1}
		if l.Seconds < 1 {
			return nil
		}
		for _, r := range rs {
			l.Samples += r.Samples
			l.Rows = append(l.Rows, account.LiveRow{Label: account.Label{Project: r.Project, Network: r.Network, Machine: r.Machine, Direction: r.Direction}, Sums: r.Sums})
		}
		n.Lives = append(n.Lives, l)
		if p.Machine != "" {
			n.Points = append(n.Points, p)
		}
	}
	return n
}

// just returns what this agent hears and counts just now. What its probe read two minutes ago is not now.
func (d *Desk) just(at time.Time) now {
	n := now{Lives: d.engine.Live(at)}
	if c := d.count.last.Load(); c != nil && at.Sub(c.at) < 2*time.Minute {
		n.Lives, n.Points = append(n.Lives, c.Lives...), c.Points
	}
	return n
}

// standIn leaves out the access ports of machines whose host counts by itself.
func standIn(lives []account.Live, points []account.Point) []account.Live {
	for i, l := range lives {
		if !l.Key.Agent.IsValid() {
			continue
		}
		lives[i].Rows = slices.DeleteFunc(slices.Clone(l.Rows), func(r account.LiveRow) bool {
			return slices.ContainsFunc(points, func(p account.Point) bool { return p.Machine == r.Machine && slices.Contains(p.Ways(), r.Direction) })
		})
	}
	return lives
}

// Top implements telemetry.TrafficSource: what all agents of the site hear just now, each exporter once.
func (d *Desk) Top(ctx context.Context, site string, q telemetry.TopQuery) (*telemetry.TopFrame, error) {
	if site != d.cfg.Site {
		return nil, api.ErrNotFound
	}
	at := time.Now()
	own := d.just(at)
	shares, points := map[string][]account.Live{d.cfg.Self: own.Lives}, slices.Clone(own.Points)
	ctx, cancel := context.WithTimeout(ctx, liveLimit)
	defer cancel()
	var mu sync.Mutex // guards shares and points
	var wg sync.WaitGroup
	for _, p := range d.cfg.Peers.Live() {
		wg.Go(func() {
			var n now
			if err := d.cfg.Peers.Ask(ctx, p, livePath, struct{}{}, &n); err != nil {
				d.cfg.Log.Debug("a peer did not say what traffic it hears", "peer", p, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			shares[p], points = n.Lives, append(points, n.Points...)
		})
	}
	wg.Wait()
	rates := account.Top(standIn(account.MergeLive(shares), points), q.By, q.Projects)
	f := &telemetry.TopFrame{At: at.UTC(), By: q.By, Rows: []telemetry.TopRow{}, More: max(len(rates)-q.Limit, 0)}
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
