package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/uplink"
	"github.com/skerry-metal/skerry/pki/rotate"
)

// Contact is when an agent was last heard, and what it said of itself then.
type Contact struct {
	At   time.Time         `json:"at"`
	Keys *intent.KeyReport `json:"keys,omitempty"`
	// Its active head, and why what it has beyond that is not active.
	Head     intent.Head `json:"head"`
	Rejected string      `json:"rejected,omitempty"`
}

// Heard is what a site's reports say: when each agent brought one, and whether its site sees it alive.
type Heard struct {
	Contacts map[string]Contact
	Seen     map[string]string // yes, no, unknown
	Heads    map[string]uint64 // place of each agent in the chain, as its site sees it
}

// KeyStatus implements api.Keys.
func (r *Rotation) KeyStatus(ctx context.Context) (*api.KeyStatus, error) {
	s := &api.KeyStatus{At: r.Now().UTC(), Trust: r.Trust.Head(), Revocation: r.Revocations.Head(), Forks: r.Trust.Forks(), Offered: r.offered(), Sites: []api.SiteKeys{}}
	keys, err := r.signed()
	if err != nil {
		return nil, err
	}
	up := map[string]uplink.SessionInfo{}
	for _, x := range r.Sessions() {
		up[x.Site+"/"+x.Agent] = x
	}
	err = r.Store.Range(ctx, store.RosterKey(""), "", func(e store.Entry) error {
		site, roster := e.Key[len(store.RosterKey("")):], &intent.RosterBody{}
		if err := json.Unmarshal(e.Value, roster); err != nil {
			return fmt.Errorf("cannot read roster of %s: %w", site, err)
		}
		sk := api.SiteKeys{Site: site, Agents: []api.AgentKeys{}}
		heard := r.Reports(site)
		for _, a := range roster.Agents {
			k, ok, err := rotate.OfAgent(site, a)
			if err != nil {
				return err
			}
			row := api.AgentKeys{ID: a.ID, State: a.State, Keys: len(a.TLS), Seen: heard.Seen[a.ID]}
			if ok {
				row.Made = &k.Made
				keys = append(keys, k)
			}
			x, live := up[site+"/"+a.ID]
			row.Up = live
			fill(&row, heard.Contacts[a.ID], x)
			s.Forks += row.Forks
			sk.Agents = append(sk.Agents, row)
		}
		s.Sites = append(s.Sites, sk)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, k := range rotate.Oldest(keys) {
		s.Oldest = append(s.Oldest, api.KeyAge{Kind: string(k.Kind), Owner: k.Owner, Made: k.Made})
	}
	return s, nil
}

// fill takes the newer of report and session.
func fill(row *api.AgentKeys, c Contact, x uplink.SessionInfo) {
	if c.Keys != nil {
		row.Trust, row.Revocation, row.Clock, row.Forks = c.Keys.Trust, c.Keys.Revocation, c.Keys.Clock, c.Keys.Forks
		row.Offered = c.Keys.Offered
	}
	if row.Up {
		row.Trust, row.Revocation = max(row.Trust, x.Applied.Trust.Seq), max(row.Revocation, x.Applied.Revocation.Seq)
		if x.Heard.After(c.At) {
			c.At = x.Heard.UTC()
		}
	}
	if !c.At.IsZero() {
		row.Contact = &c.At
	}
}

// signed lists the keys of the trust stream, and the coordinator's own.
func (r *Rotation) signed() ([]rotate.Key, error) {
	var docs []*intent.TrustBody
	for _, env := range r.Trust.From(1) {
		b := &intent.TrustBody{}
		if err := json.Unmarshal(env.Payload, b); err != nil {
			return nil, fmt.Errorf("cannot read trust: %w", err)
		}
		docs = append(docs, b)
	}
	keys, err := rotate.Signed(docs)
	made, lerr := rotate.Made(r.Leaf())
	return append(keys, rotate.Key{Kind: rotate.Coordinator, Owner: r.ID, Made: made}), errors.Join(err, lerr)
}

// statusFresh is how long one walk over the rosters serves the gauges of a scrape.
const statusFresh = 5 * time.Second

// Gauges show what deploy/prometheus alerts on. Labels are the kinds of keys: bounded.
func (r *Rotation) Gauges(ctx context.Context, set *metrics.Set) {
	status := func() *api.KeyStatus {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.status == nil || r.Now().Sub(r.status.At).Abs() > statusFresh {
			s, err := r.KeyStatus(ctx)
			if err != nil {
				r.Log.Warn("keys not measured", "err", err)
				s = &api.KeyStatus{At: r.Now(), Forks: r.Trust.Forks()}
			}
			r.status = s
		}
		return r.status
	}
	for _, kind := range rotate.Kinds() {
		set.NewGauge(fmt.Sprintf("skerry_key_age_seconds{kind=%q}", kind), func() float64 {
			s := status()
			i := slices.IndexFunc(s.Oldest, func(k api.KeyAge) bool { return k.Kind == string(kind) })
			if i < 0 {
				return math.NaN()
			}
			return rotate.Key{Made: s.Oldest[i].Made}.Age(s.At).Seconds()
		})
	}
	for _, phase := range []string{api.PhaseAccept, api.PhaseUse, api.PhaseRetire} {
		set.NewGauge(fmt.Sprintf("skerry_rotations{phase=%q}", phase), func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return float64(r.open[phase])
		})
	}
	set.NewGauge("skerry_rotation_age_seconds", func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.oldest.IsZero() {
			return 0
		}
		return max(r.Now().Sub(r.oldest), 0).Seconds()
	})
	set.NewGauge("skerry_contact_age_seconds", func() float64 {
		s, oldest := status(), time.Duration(0)
		for _, a := range s.Agents() {
			if a.State == intent.StateAgent && a.Contact != nil {
				oldest = max(oldest, s.At.Sub(*a.Contact))
			}
		}
		return oldest.Seconds()
	})
	set.NewGauge("skerry_agents_clock_floor_only", func() float64 {
		n := 0
		for _, a := range status().Agents() {
			if a.Clock == intent.ClockFloor {
				n++
			}
		}
		return float64(n)
	})
	set.NewGauge(`skerry_forks_seen{stream="trust"}`, func() float64 { return float64(status().Forks) })
}
