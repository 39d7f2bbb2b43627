package origins

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/weburl"
	"github.com/skerry-metal/skerry/mesh/origin"
	"github.com/skerry-metal/skerry/mesh/swarm"
)

const (
	// dialLimit is how long one address may take to answer a dial, and its TLS; firstOctet how long all of it may until the answer to a
	// request is there, with redirects: a machine may wait, and the coordinator may have it.
	dialLimit  = 3 * time.Second
	firstOctet = 8 * time.Second
	// hostAgents is how many agents of the site read from one host, by one connection each (mesh.md section 6: four connections).
	hostAgents = 4
	// What may pass rests leastRest first, up to passRest: a line that was away all day is not waited for half the night. What lies rests
	// liarRest, up to mostRest. Each refusal in a row doubles it.
	leastRest = 15 * time.Second
	passRest  = 10 * time.Minute
	liarRest  = 10 * time.Minute
	mostRest  = 6 * time.Hour
	// maxKnown bounds the URLs and hosts that are remembered.
	maxKnown = 4096
)

// Config says what a Keeper works with. All are required but Client.
type Config struct {
	Policy origin.Policy
	Client *http.Client // nil: the policy's
	// When says when URLs are read, as WANSpec.URLs.
	When func() string
	// Ranked lists the agents of the site that live, this one too, in the order in which they read from a host.
	Ranked func(host string) []string
	Self   string
	Now    func() time.Time // by which certificates are good
	Log    *slog.Logger
}

// Keeper knows the URLs of the assets that this agent fetches. See New.
type Keeper struct {
	cfg Config

	mu      sync.Mutex // guards what follows
	offered map[intent.Digest]*intent.AssetSpec
	rests   map[string]*rest // by URL, and by host of one that is not reached
	refused map[origin.Why]uint64
}

// rest is how it stands with a URL, or with a host.
type rest struct {
	fails int // in a row
	until time.Time
	at    time.Time // of the last
	why   origin.Why
	text  string
}

// State is how it stands with one URL of an asset at one agent.
type State struct {
	Host  string     `json:"host"`
	Why   origin.Why `json:"why,omitempty"` // the last refusal; empty: none since the last that went well
	Text  string     `json:"text,omitempty"`
	Until time.Time  `json:"until,omitzero"` // it is not read before
}

// Clip bounds what another agent says.
func (s State) Clip() State {
	s.Host, s.Why, s.Text = clip(s.Host), origin.Why(clip(string(s.Why))), clip(s.Text)
	return s
}

// Said is the state in a line, for people.
func (s State) Said() string {
	said := fmt.Sprintf("%s: %s (%s)", s.Host, s.Text, s.Why)
	if s.Until.After(time.Now()) {
		said += ", rests until " + s.Until.UTC().Format("2006-01-02 15:04:05Z")
	}
	return said
}

// New returns a keeper without assets.
func New(cfg Config) *Keeper {
	if cfg.Client == nil {
		cfg.Client = cfg.Policy.Client(origin.Limits{Dial: dialLimit, Conns: 1, Now: cfg.Now})
	}
	return &Keeper{cfg: cfg, offered: map[intent.Digest]*intent.AssetSpec{}, rests: map[string]*rest{}, refused: map[origin.Why]uint64{}}
}

// Run closes the connections that are kept when ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	<-ctx.Done()
	k.cfg.Client.CloseIdleConnections()
	return nil
}

// Offer makes the URLs of an asset sources, until done is called.
func (k *Keeper) Offer(s *intent.AssetSpec) (done func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.offered[s.Digest] = s
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.offered, s.Digest)
	}
}

// Sources is swarm.Config.URLs: the URLs of an asset that this agent may read now.
func (k *Keeper) Sources(d intent.Digest) (out []swarm.Source, last bool) {
	k.mu.Lock()
	s := k.offered[d]
	k.mu.Unlock()
	if s == nil || len(s.Sources) == 0 {
		return nil, false
	}
	when := k.cfg.When()
	if when == "never" {
		return nil, false
	}
	for _, src := range s.Sources {
		host := weburl.Host(src.URL)
		if rank := slices.Index(k.cfg.Ranked(host), k.cfg.Self); rank >= hostAgents || k.resting(src.URL, host) {
			continue
		}
		out = append(out, swarm.Source{
			Name: host, Tier: swarm.TierOrigin,
			Range: func(ctx context.Context, off, n int64) (io.ReadCloser, error) {
				return origin.Part{URL: src.URL, Validator: src.Validator, Size: s.Size, Off: off, N: n}.Open(ctx, k.cfg.Client, firstOctet)
			},
			Told: func(err error) { k.told(src.URL, host, err) },
		})
	}
	return out, when == "last"
}

// resting tells whether a URL, or its host, is left alone now.
func (k *Keeper) resting(url, host string) bool {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range []string{url, host} {
		if r := k.rests[key]; r != nil && now.Before(r.until) {
			return true
		}
	}
	return false
}

// told takes in how an order went.
func (k *Keeper) told(url, host string, err error) {
	if err == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.rests, url)
		delete(k.rests, host)
		return
	}
	why, text := verdict(err)
	now := time.Now()
	k.mu.Lock()
	k.refused[why]++
	if why == origin.Cut { // what came is kept, and the next request begins behind it: mesh/swarm knows when it is enough
		k.mu.Unlock()
		return
	}
	key := url
	if why == origin.Unreachable {
		key = host
	}
	r := k.rests[key]
	if r == nil {
		k.makeRoom(now)
		r = &rest{}
		k.rests[key] = r
	}
	r.fails, r.why, r.text, r.at = r.fails+1, why, text, now
	pause := pauseOf(why, r.fails)
	r.until = now.Add(pause)
	k.mu.Unlock()
	k.cfg.Log.Warn("URL of an asset is not read for a while; other sources are asked", "host", host, "why", why, "err", text, "pause", pause.Round(time.Second))
}

// makeRoom forgets what rests no more, and where that is not enough what happened first. The caller holds mu.
func (k *Keeper) makeRoom(now time.Time) {
	if len(k.rests) < maxKnown {
		return
	}
	maps.DeleteFunc(k.rests, func(_ string, r *rest) bool { return !now.Before(r.until) })
	for len(k.rests) >= maxKnown {
		first := ""
		for key, r := range k.rests {
			if first == "" || r.at.Before(k.rests[first].at) {
				first = key
			}
		}
		delete(k.rests, first)
	}
}

// verdict names what an order ended with.
func verdict(err error) (origin.Why, string) {
	if r, ok := origin.RefusalOf(err); ok {
		return r.Why, clip(r.Text)
	}
	switch {
	case errors.Is(err, chunk.ErrBad), errors.Is(err, swarm.ErrBadSource):
		return origin.WrongOctets, "its octets are not those that were registered"
	case errors.Is(err, swarm.ErrSlow):
		return origin.Slow, clip(err.Error())
	}
	return origin.Cut, "it broke off"
}

// pauseOf is how long a URL rests after so many refusals in a row: at least three quarters of it, so that agents do not come back at once.
func pauseOf(why origin.Why, fails int) time.Duration {
	least, most := liarRest, mostRest
	switch why {
	case origin.Unreachable, origin.Status, origin.Slow:
		least, most = leastRest, passRest
	}
	d := min(least<<min(fails-1, 16), most)
	return d*3/4 + rand.N(d/4+1)
}

// States says how it stands with the URLs of an asset.
func (k *Keeper) States(s *intent.AssetSpec) (out []State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, src := range s.Sources {
		st := State{Host: weburl.Host(src.URL)}
		for _, key := range []string{st.Host, src.URL} {
			if r := k.rests[key]; r != nil {
				st.Why, st.Text, st.Until = r.why, r.text, r.until.UTC()
			}
		}
		out = append(out, st)
	}
	return out
}

// Gauges show how often a URL was refused, by reason.
func (k *Keeper) Gauges(set *metrics.Set) {
	for _, why := range origin.Whys() {
		set.NewGauge(fmt.Sprintf("skerry_asset_url_refused_total{why=%q}", why), func() float64 {
			k.mu.Lock()
			defer k.mu.Unlock()
			return float64(k.refused[why])
		})
	}
}

// clip bounds text from outside, and makes it printable.
func clip(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), 200)], "")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
