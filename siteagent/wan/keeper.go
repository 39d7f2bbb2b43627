package wan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/swarm"
	"github.com/skerry-metal/skerry/storage/state"
)

// Bucket is the one that a Keeper owns.
const Bucket = "wan"

const (
	key = "today"
	// saveEvery is how many octets may come before what was taken today is written again.
	saveEvery = 16 << 20
	// over is how far beyond the day's octets what a machine waits for may go.
	over = 1.2
	// outBurst is how many octets leave at once where there is a rate: a seventh of 8 kbit/s brings them within what counts as silence.
	outBurst = 4 << 10
)

// Config is what a Keeper works with.
type Config struct {
	DB    *state.DB
	Spec  func() *intent.WANSpec        // of the site; nil: no budget
	Clock func() (t time.Time, ok bool) // of this host, in its zone; not ok: it is not believed
	Share func() int                    // how many agents of the site share what may leave it
	// RTT is how long the way to the coordinator and back takes now; not ok: nobody knows. Nil: as that.
	RTT func() (rtt time.Duration, ok bool)
	Log *slog.Logger
}

// Keeper is one agent's swarm.Budget.
type Keeper struct {
	cfg Config

	out *rate.Limiter // of octets to other sites

	mu      sync.Mutex
	day     day
	unsaved int
	guard   guard
}

// day is what this agent took on a day.
type day struct {
	Day    string `json:"day"` // 2006-01-02
	Octets uint64 `json:"octets"`
}

// Open reads what was taken today. What cannot be read counts as nothing.
func Open(cfg Config) *Keeper {
	k := &Keeper{cfg: cfg, out: rate.NewLimiter(rate.Inf, outBurst)}
	err := cfg.DB.View(func(tx *state.Tx) error {
		b, err := tx.Get(Bucket, key)
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &k.day)
	})
	if err != nil && !errors.Is(err, state.ErrAbsent) {
		cfg.Log.Warn("cannot read what was taken over the WAN today", "err", err)
		k.day = day{}
	}
	return k
}

// Repair forgets what cannot be read: it counts as nothing taken.
func (k *Keeper) Repair(context.Context) error {
	lost, err := k.cfg.DB.Damaged(Bucket)
	if err != nil {
		return err
	}
	return k.cfg.DB.Reseal(Bucket, lost...)
}

// turn begins a new day, by a clock that is believed. The caller holds mu.
func (k *Keeper) turn() {
	now, ok := k.cfg.Clock()
	if d := now.Format(time.DateOnly); k.day.Day != d && (ok || k.day.Day == "") {
		k.day, k.unsaved = day{Day: d}, 0
	}
}

// Today implements swarm.Budget.
func (k *Keeper) Today() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.turn()
	return k.day.Octets
}

// Took implements swarm.Budget.
func (k *Keeper) Took(octets int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.turn()
	k.day.Octets += uint64(octets)
	if k.unsaved += octets; k.unsaved < saveEvery {
		return
	}
	k.unsaved = 0
	b, err := json.Marshal(k.day)
	if err == nil {
		err = k.cfg.DB.Update(func(tx *state.Tx) error { return tx.Put(Bucket, key, b) })
	}
	if err != nil { // a full disk; the number in memory counts
		k.cfg.Log.Warn("cannot save what was taken over the WAN today", "err", err)
	}
}

// rate returns how many octets a second the site may take now, +Inf: what the line carries, and until when that holds, "" for ever.
func (k *Keeper) rate(s *intent.WANSpec, c swarm.Class) (perSecond float64, until string) {
	perSecond = math.Inf(1)
	if n, ok := intent.ParseAmount(s.RateIn); ok {
		perSecond = float64(n) / 8
	}
	now, ok := k.cfg.Clock()
	if !ok {
		return perSecond, ""
	}
	w := window(s, now)
	if w == nil {
		return perSecond, ""
	}
	n, _ := intent.ParseAmount(w.Rate)
	if n == 0 && c == swarm.Live {
		return perSecond, w.To
	}
	return float64(n) / 8, w.To
}

// Allow implements swarm.Budget.
func (k *Keeper) Allow(c swarm.Class, others uint64) (float64, error) {
	s := k.cfg.Spec()
	if s == nil {
		return math.Inf(1), nil
	}
	if left, ok := intent.ParseAmount(s.DailyCap); ok {
		if c == swarm.Live {
			left = uint64(float64(left) * over)
		}
		if taken := k.Today() + others; taken >= left {
			return 0, fmt.Errorf("the site took %d MB today, of %s that its budget allows", taken/1e6, s.DailyCap)
		}
	}
	perSecond, until := k.rate(s, c)
	if perSecond == 0 {
		return 0, fmt.Errorf("quiet hours of the site until %s", until)
	}
	return perSecond * k.share(), nil
}

// URLs says when agents read the URLs of assets: first, last, never.
func (k *Keeper) URLs() string {
	if s := k.cfg.Spec(); s != nil && s.URLs != "" {
		return s.URLs
	}
	return "first"
}

// share is the part of the rate that leaves room for others.
func (k *Keeper) share() float64 {
	if k.cfg.RTT == nil {
		return 1
	}
	rtt, ok := k.cfg.RTT()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.guard.share(time.Now(), rtt, ok)
}

// Out waits until some of so many octets may leave for another site, and returns how many: each agent has its part of the site's rateOut.
// Errors: ctx's.
func (k *Keeper) Out(ctx context.Context, octets int) (int, error) {
	s := k.cfg.Spec()
	if s == nil || s.RateOut == "" {
		return octets, nil
	}
	n, _ := intent.ParseAmount(s.RateOut)
	limit := rate.Limit(float64(n) / 8 / float64(max(k.cfg.Share(), 1)))
	burst := min(max(outBurst, int(limit/10)), 256<<10) // a tenth of a second
	if k.out.Limit() != limit {
		k.out.SetLimit(limit)
		k.out.SetBurst(burst)
	}
	octets = min(octets, k.out.Burst())
	if err := k.out.WaitN(ctx, octets); err != nil {
		return 0, fmt.Errorf("cannot send more to another site: %w", err)
	}
	return octets, nil
}
