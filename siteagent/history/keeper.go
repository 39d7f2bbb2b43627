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
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/devices"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/rota"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/rrd"
	"github.com/skerry-metal/skerry/telemetry/sensors"
	"github.com/skerry-metal/skerry/telemetry/snmp"
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
	// Instance returns the uid of the instance that runs on a machine; empty: none does.
	Instance func(machine string) string
	// Signed is the active intent: its tombstones end series, and its roster says who else keeps some.
	Signed func() replica.State
	// Get reads a resource of a machine's BMC behind everything else. Errors: bmc.ErrUnsupported where it has none.
	Get func(ctx context.Context, machine string, spec *intent.BMCSpec, path string) ([]byte, error)
	// Sensors reads what a machine's BMC says that has no resources. Errors: bmc.ErrUnsupported where it has.
	Sensors func(ctx context.Context, machine string, spec *intent.BMCSpec) ([]bmc.Sensor, error)
	// Members are the agents of the site, among whom its switches are shared out; Secret opens what logs in to them.
	Members func() (uint64, []claim.Member)
	Secret  func(name string) (seal.Secret, error)
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

	rota *rota.Rota[machine]
	snmp *devices.Poller

	mu     sync.Mutex // guards what follows
	newest map[string]newest
	full   bool // the limit of series was told
}

// newest is what a machine's sensors said last.
type newest struct {
	at time.Time
	rr []sensors.Reading
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
	k := &Keeper{cfg: cfg, newest: map[string]newest{}}
	k.reader = sensors.New(source{k})
	k.snmp = devices.New(devices.Config{
		Site: cfg.Site, Self: cfg.Self, Catalog: cfg.Catalog, OwnsMachine: cfg.Owns, Instance: cfg.Instance, Members: cfg.Members, Signed: cfg.Signed, Secret: cfg.Secret, Keep: k.take, Log: cfg.Log,
	}, snmp.New())
	k.rota = &rota.Rota[machine]{Look: k.look, Poll: k.poll, Left: k.left}
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
	g.Go(func() error { return k.rota.Run(ctx) })
	g.Go(func() error { return k.snmp.Run(ctx) })
	return g.Wait()
}

// look returns the machines whose sensors this agent reads, and removes the series of what has a tombstone, machine or switch. What is
// only missing keeps its series.
func (k *Keeper) look() map[string]machine {
	tombs := k.cfg.Signed().Tombs
	gone := func(uid string) bool { _, ok := tombs[uid]; return ok }
	if n, err := k.store.Remove(func(d rrd.Def) bool { return gone(d.Owner) }); err != nil {
		k.cfg.Log.Warn("series of what was removed stay for now", "err", err)
	} else if n > 0 {
		k.cfg.Log.Info("series of what was removed left", "series", n)
	}
	here := map[string]machine{}
	for _, o := range k.cfg.Catalog().List(intent.KindMachine) {
		m := machine{o.Metadata.Name, o.Metadata.UID, o.Spec.(*intent.MachineSpec).BMC}
		if m.bmc == nil || gone(m.uid) || !k.cfg.Owns(m.name) {
			continue
		}
		here[m.name] = m
	}
	return here
}

// left forgets a machine whose owner is another agent, or that is gone.
func (k *Keeper) left(name string) {
	k.reader.Forget(name)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.newest, name)
}

// poll reads a machine's sensors and keeps what they say.
func (k *Keeper) poll(ctx context.Context, name string, m machine) error {
	rr, err := k.reader.Read(ctx, name)
	now := time.Now()
	k.mu.Lock()
	before, had := k.newest[name]
	if err != nil {
		k.newest[name] = newest{}
	} else {
		k.newest[name] = newest{now, rr}
	}
	k.mu.Unlock()
	if err != nil {
		if !had || !before.at.IsZero() {
			k.cfg.Log.Warn("sensors not read; they are unknown until its BMC answers", "machine", name, "err", err)
		}
		return err
	}
	k.keep(m, now, rr)
	return nil
}

func (k *Keeper) keep(m machine, now time.Time, rr []sensors.Reading) {
	for _, r := range rr {
		k.take(rrd.Def{
			Name: string(r.Metric), Labels: map[string]string{"machine": m.name, "sensor": r.Sensor}, Unit: unit(r.Metric), Type: rrd.Gauge, Profile: "slow", Owner: m.uid,
		}, now, rrd.Sample{Value: r.Value, Unknown: !r.Known})
	}
}

// take keeps one sample of a series, which is made if it is new.
func (k *Keeper) take(d rrd.Def, at time.Time, s rrd.Sample) {
	id, err := k.store.Series(d, at.Add(-time.Millisecond))
	if err == nil {
		err = k.store.Update(id, at, s)
	}
	if errors.Is(err, rrd.ErrLimit) {
		k.limit(err)
	} else if err != nil {
		k.cfg.Log.Debug("reading not kept", "series", d.Key(), "err", err)
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

func (s source) spec(machine string) (*intent.BMCSpec, error) {
	if m, ok := s.k.rota.Get(machine); ok {
		return m.bmc, nil
	}
	return nil, fmt.Errorf("cannot read sensors: %s is not ours any more", machine)
}

// RedfishGet implements sensors.Source.
func (s source) RedfishGet(ctx context.Context, machine, path string) ([]byte, error) {
	spec, err := s.spec(machine)
	if err != nil {
		return nil, err
	}
	b, err := s.k.cfg.Get(ctx, machine, spec, path)
	if errors.Is(err, bmc.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", sensors.ErrGone, err)
	}
	return b, err
}

// IPMISensors implements sensors.Source: for those that the intent says to reach so.
func (s source) IPMISensors(ctx context.Context, machine string) ([]sensors.Reading, error) {
	spec, err := s.spec(machine)
	if err != nil {
		return nil, err
	}
	if spec.Protocol != "ipmi" {
		return nil, sensors.ErrGone
	}
	seen, err := s.k.cfg.Sensors(ctx, machine, spec)
	if err != nil {
		return nil, err
	}
	return readings(seen), nil
}

// readings names what a BMC's sensors measure, in the units of the series.
func readings(seen []bmc.Sensor) (out []sensors.Reading) {
	metrics := map[bmc.Unit]sensors.Metric{
		bmc.UnitCelsius: sensors.Temperature, bmc.UnitRPM: sensors.FanRPM, bmc.UnitPercent: sensors.FanRatio, bmc.UnitWatts: sensors.Power, bmc.UnitVolts: sensors.Voltage,
	}
	for _, s := range seen {
		r := sensors.Reading{Metric: metrics[s.Unit], Sensor: s.Name, ID: s.ID, Value: s.Value, Known: s.Known}
		if s.Unit == bmc.UnitPercent {
			r.Value /= 100
		}
		if r.Metric != "" {
			out = append(out, r)
		}
	}
	return out
}
