package upkeep

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// Source is a peer or a coordinator that may have what is lost here.
type Source struct {
	Name        string
	RT          http.RoundTripper
	Intent      string // URL of the site's chain
	Revocations string // URL of the revocation stream
}

// maxFetched bounds what one source may give of the revocation stream: 4,096 documents of 64 entries are some hundred years of thefts.
const maxFetched = 4096

// Fetch calls fn for the envelopes that url gives.
type Fetch func(ctx context.Context, rt http.RoundTripper, url string, fn func(*intent.Envelope) error) error

// Sources asks all of them, best first.
func (k *Keeper) Sources(all []Source, fetch Fetch, trust func(context.Context) []*intent.Envelope) replica.Sources {
	out := replica.Sources{Trust: trust, Revocations: func(ctx context.Context) (envs []*intent.Envelope) {
		for _, s := range all {
			n := 0
			err := fetch(ctx, s.RT, s.Revocations+"?from=1", func(env *intent.Envelope) error {
				if n++; n > maxFetched {
					return errors.New("cannot take so many")
				}
				envs = append(envs, env)
				return nil
			})
			if err != nil {
				k.cfg.Log.Warn("revocations not fetched", "from", s.Name, "err", err)
			}
		}
		return envs
	}}
	for _, s := range all {
		out.Intent = append(out.Intent, func(ctx context.Context, from uint64, fn func(*intent.Envelope) error) error {
			return fetch(ctx, s.RT, fmt.Sprintf("%s?from=%d", s.Intent, from), fn)
		})
	}
	return out
}

// Gauges show the store's soundness; the buckets are those of the wiring, so labels are bounded.
func (k *Keeper) Gauges(set *metrics.Set) {
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, p := range k.cfg.Parts {
		for _, b := range p.Buckets {
			set.NewGauge(fmt.Sprintf("skerry_state_held{bucket=%q}", b), func() float64 { return yes(k.Status().Held[b] != "") })
		}
	}
	set.NewGauge("skerry_state_scrub_timestamp_seconds", func() float64 {
		if t := k.Status().Scrubbed; !t.IsZero() {
			return float64(t.Unix())
		}
		return 0
	})
	set.NewGauge("skerry_disk_pressure", func() float64 { return float64(k.Status().Pressure) })
	set.NewGauge("skerry_disk_ballast", func() float64 { return yes(k.Status().Ballast) })
}
