package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/rrd"
	"github.com/skerry-metal/skerry/telemetry/sensors"
)

// machine is one that has a BMC.
type machine struct {
	name, uid string
	bmc       *intent.BMCSpec
}

// Config is what a Keeper works with.
type Config struct {
	Site, Self string
	Raw        *state.Raw // the store of telemetry; nil: nothing is read or kept, and questions are answered 503
	// Catalog is what is wanted of the site's machines; Owns tells whether this agent acts on one.
	Catalog func() *intent.Catalog
	Owns    func(machine string) bool
	// Signed is the active intent: its tombstones end series, and its roster says who else keeps some.
	Signed func() replica.State
	// Get reads a resource of a machine's BMC behind everything else. Errors: bmc.ErrUnsupported where it has none.
	Get func(ctx context.Context, machine string, spec *intent.BMCSpec, path string) ([]byte, error)
	// Live are the other agents that are heard now; Ask reads one's answer to path below Prefix.
	Live func() []string
	Ask  func(ctx context.Context, peer, path string, out any) error
	// Event tells what an operator should know.
	Event func(kind, message string) error
	Log   *slog.Logger
}

// Keeper keeps the history of one agent.
type Keeper struct {
	cfg    Config
	store  *rrd.Store // nil: the directory does not open
	reader *sensors.Reader

	mu     sync.Mutex // guards what follows
	polled map[string]*polled
	full   bool // the limit of series was told
}

// polled is one machine of which this agent keeps the history.
type polled struct {
	machine
	next    time.Time
	fails   int
	working bool
	at      time.Time // of the newest readings
	seconds float64   // of the last poll
	ok      bool
	now     []sensors.Reading
}

// Open reads what is kept. It returns a Keeper also where that fails; then it keeps nothing, and says so.
func Open(cfg Config) *Keeper {
	k := newKeeper(cfg)
	if cfg.Raw == nil {
		return k
	}
	var err error
	if k.store, err = rrd.Open(rrd.Config{Raw: cfg.Raw, Log: cfg.Log}); err != nil {
		cfg.Log.Error("no history is kept: its store does not open; all else goes on", "err", err)
		k.store = nil
	}
	return k
}

func newKeeper(cfg Config) *Keeper {
	k := &Keeper{cfg: cfg, polled: map[string]*polled{}}
	k.reader = sensors.New(source{k})
	return k
}

// Run polls and keeps until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	if k.store == nil {
		<-ctx.Done()
		return nil
	}
	if k.cfg.Raw != nil && k.cfg.Raw.Rebuilt() {
		k.event("telemetry.rebuilt", "the directory of history did not open; it was moved aside and an empty one begun")
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.store.Run(ctx) })
	g.Go(func() error { return k.poll(ctx) })
	return g.Wait()
}

const (
	pollEvery = time.Minute
	pollLimit = 45 * time.Second // of one machine: its next turn is not missed
	pollRest  = 15 * time.Minute // the longest rest of one that does not answer
	pollLook  = time.Second
	pollLearn = 10 * time.Second // between two looks at which machines there are
	pollAtOne = 8                // machines at once: each is two requests to a slow BMC
)

// poll starts what is due, once a second.
func (k *Keeper) poll(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, pollAtOne)
	t := time.NewTicker(pollLook)
	defer t.Stop()
	for n := 0; ; n++ {
		if n%int(pollLearn/pollLook) == 0 {
			k.refresh()
		}
		for _, p := range k.due(time.Now(), cap(slots)-len(slots)) {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				k.one(ctx, p)
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// refresh learns which machines there are, lets go of those whose owner is another agent, and removes the series of those with a
// tombstone. A machine that is only missing keeps its series.
func (k *Keeper) refresh() {
	tombs := k.cfg.Signed().Tombs
	gone := func(uid string) bool { _, ok := tombs[uid]; return ok }
	if n, err := k.store.Remove(func(d rrd.Def) bool { return gone(d.Owner) }); err != nil {
		k.cfg.Log.Warn("series of a removed machine stay for now", "err", err)
	} else if n > 0 {
		k.cfg.Log.Info("series of removed machines left", "series", n)
	}
	here := map[string]bool{}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range k.cfg.Catalog().List(intent.KindMachine) {
		m := machine{o.Metadata.Name, o.Metadata.UID, o.Spec.(*intent.MachineSpec).BMC}
		if m.bmc == nil || gone(m.uid) || !k.cfg.Owns(m.name) {
			continue
		}
		here[m.name] = true
		p := k.polled[m.name]
		if p == nil {
			p = &polled{} // at once, then at its place in the minute
			k.polled[m.name] = p
		}
		p.machine = m
	}
	for name := range k.polled {
		if !here[name] {
			delete(k.polled, name)
			k.reader.Forget(name)
		}
	}
}

// spread is a machine's place in the minute, so that not all BMCs are asked at once.
func spread(now time.Time, name string) time.Time {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	at := now.Truncate(pollEvery).Add(time.Duration(h % uint64(pollEvery)))
	if at.Before(now) {
		at = at.Add(pollEvery)
	}
	return at
}

// due takes up to n machines whose time has come.
func (k *Keeper) due(now time.Time, n int) (out []*polled) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.polled {
		if len(out) < n && !p.working && !p.next.After(now) {
			p.working = true
			out = append(out, p)
		}
	}
	return out
}

// one polls a machine and keeps what it says.
func (k *Keeper) one(ctx context.Context, p *polled) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	k.mu.Lock()
	m := p.machine
	k.mu.Unlock()
	rr, err := k.reader.Read(ctx, m.name)
	now := time.Now()
	k.mu.Lock()
	p.working, p.ok, p.seconds = false, err == nil, now.Sub(begun).Seconds()
	p.next = spread(now, m.name)
	if err != nil {
		rest := min(pollEvery<<min(p.fails, 4), pollRest)
		p.fails++
		if rest > pollEvery {
			p.next = spread(now.Add(rest-pollEvery), m.name)
		}
		p.now = nil
	} else {
		p.fails, p.now, p.at = 0, rr, now
	}
	fails := p.fails
	k.mu.Unlock()
	if err != nil {
		if fails == 1 {
			k.cfg.Log.Warn("sensors not read; they are unknown until its BMC answers", "machine", m.name, "err", err)
		}
		return
	}
	k.keep(m, now, rr)
}

func (k *Keeper) keep(m machine, now time.Time, rr []sensors.Reading) {
	for _, r := range rr {
		id, err := k.store.Series(rrd.Def{
			Name: string(r.Metric), Labels: map[string]string{"machine": m.name, "sensor": r.Sensor}, Unit: unit(r.Metric), Type: rrd.Gauge, Profile: "slow", Owner: m.uid,
		}, now.Add(-time.Millisecond))
		if err == nil {
			err = k.store.Update(id, now, rrd.Sample{Value: r.Value, Unknown: !r.Known})
		}
		if errors.Is(err, rrd.ErrLimit) {
			k.limit(err)
		} else if err != nil {
			k.cfg.Log.Debug("reading not kept", "machine", m.name, "sensor", r.Sensor, "err", err)
		}
	}
}

// limit tells once that new series are refused.
func (k *Keeper) limit(err error) {
	k.mu.Lock()
	told := k.full
	k.full = true
	k.mu.Unlock()
	if !told {
		k.event("telemetry.limit", fmt.Sprintf("new series are refused, those that are kept go on: %v", err))
	}
}

func unit(m sensors.Metric) string {
	switch m {
	case sensors.Temperature:
		return "celsius"
	case sensors.FanRPM:
		return "rpm"
	case sensors.FanRatio:
		return "ratio"
	case sensors.Power:
		return "watts"
	}
	return "volts"
}

func (k *Keeper) event(kind, message string) {
	if err := k.cfg.Event(kind, message); err != nil {
		k.cfg.Log.Warn("event not journaled", "kind", kind, "err", err)
	}
}

// source serves sensors.Source by the machine's spec.
type source struct{ k *Keeper }

// RedfishGet implements sensors.Source.
func (s source) RedfishGet(ctx context.Context, machine, path string) ([]byte, error) {
	s.k.mu.Lock()
	p := s.k.polled[machine]
	var spec *intent.BMCSpec
	if p != nil {
		spec = p.bmc
	}
	s.k.mu.Unlock()
	if spec == nil {
		return nil, fmt.Errorf("cannot read %s: %s is not ours any more", path, machine)
	}
	b, err := s.k.cfg.Get(ctx, machine, spec, path)
	if errors.Is(err, bmc.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", sensors.ErrGone, err)
	}
	return b, err
}
