package traffic

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/telemetry/account"
	"github.com/skerry-metal/skerry/telemetry/sflow"
)

const (
	tickEvery  = time.Second
	flushEvery = time.Minute // a crash loses so much of what was closed
	planEvery  = 10 * time.Second
	listenWait = time.Minute // before an address that is taken is tried again
)

// Peers is how the other agents of the site are asked.
type Peers interface {
	// Live lists the peers that are seen alive.
	Live() []string
	// Ask posts in to a peer's path and decodes its answer into out.
	Ask(ctx context.Context, peer, path string, in, out any) error
}

// Config is what a Desk works with.
type Config struct {
	Site, Self string
	Listen     string     // host:port for sFlow, UDP; empty: this agent hears none
	Store      *state.Raw // nil: nothing is kept here
	Peers      Peers
	Agents     func() []string      // every agent of the site, this one too
	Plan       func() *account.Plan // who is where now
	Count      Counting             // at interfaces of this host
	Event      func(kind, message string) error
	Log        *slog.Logger
}

// Desk is one agent's part in counting the site's traffic.
type Desk struct {
	cfg    Config
	ledger *account.Ledger
	engine *account.Engine
	ear    *sflow.Receiver
	count  *counter
}

// OpenStore opens the store of telemetry below the directory of an agent; nil where it does not open, which is told: an agent serves
// without.
func OpenStore(data string, log *slog.Logger) *state.Raw {
	raw, err := state.OpenRaw(state.Config{Dir: filepath.Join(data, "telemetry"), Logger: log})
	if err != nil {
		log.Error("telemetry keeps nothing until the agent starts again; everything else works", "err", err)
		return nil
	}
	return raw
}

// New returns a desk that answers, and hears nothing before Run.
func New(cfg Config) *Desk {
	d := &Desk{cfg: cfg}
	if cfg.Store != nil {
		var err error
		if d.ledger, err = account.OpenLedger(cfg.Store); err != nil {
			cfg.Log.Error("the traffic ledger keeps nothing until the agent starts again; everything else works", "err", err)
		}
	}
	d.engine = account.NewEngine(d.ledger, d.mismatch)
	d.count = newCounter(cfg, d.engine)
	d.ear = sflow.New(sflow.Config{Listen: cfg.Listen, Known: d.engine.Known, Sink: d.engine, Log: cfg.Log})
	return d
}

func (d *Desk) mismatch(m account.Mismatch) {
	way := "from what hangs on it"
	if m.In {
		way = "to what hangs on it"
	}
	name := fmt.Sprint(m.Port)
	if m.Name != "" {
		name += " (" + m.Name + ")"
	}
	err := d.cfg.Event("traffic.mismatch", fmt.Sprintf("switch %s, port %s, %s: the samples account for %.2f times what the interface counted, three times running; look at its sampling rate", m.Switch, name, way, m.Ratio))
	if err != nil {
		d.cfg.Log.Warn("event not journaled", "err", err)
	}
}

// Run hears and counts until ctx ends; then what was heard is on disk, if the disk takes it. It returns no error: no trouble here may end
// an agent.
func (d *Desk) Run(ctx context.Context) error {
	if !d.count.on() {
		d.count.probe.Attach(nil) // what an earlier life left in the kernel goes
		if d.cfg.Listen == "" {
			return nil
		}
	}
	d.engine.SetPlan(d.cfg.Plan()) // before the first datagram
	g, ctx := errgroup.WithContext(ctx)
	if d.cfg.Listen != "" {
		g.Go(func() error { d.hear(ctx); return nil })
	}
	g.Go(func() error { return d.count.run(ctx) })
	g.Go(func() error { d.keep(ctx); return nil })
	err := g.Wait() // the reader is gone: nothing is added any more
	d.engine.Tick(time.Now(), true)
	if d.count.on() {
		d.count.take(time.Now())
	}
	d.flush()
	if err := d.count.probe.Close(); err != nil {
		d.cfg.Log.Warn("the probe leaves something behind", "err", err)
	}
	return err
}

// hear reads the socket, and tries an address that is taken again.
func (d *Desk) hear(ctx context.Context) {
	told := false
	for ctx.Err() == nil {
		at, err := d.ear.Listen()
		if err == nil {
			d.cfg.Log.Info("listening for sFlow", "at", at.String())
			err = d.ear.Run(ctx)
		}
		if err != nil && !told {
			told = true
			d.cfg.Log.Error("no sFlow is heard; it is tried again each minute", "err", err)
		}
		t := time.NewTimer(listenWait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// keep closes intervals, writes them, and follows intent and bindings.
func (d *Desk) keep(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	flushed, planned := time.Now(), time.Now()
	if d.count.on() {
		d.count.follow()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			d.engine.Tick(now, false)
			if d.count.minute(now) {
				d.count.take(now)
			}
			if now.Sub(flushed) >= flushEvery {
				flushed = now
				d.flush()
			}
			if now.Sub(planned) >= planEvery {
				planned = now
				d.engine.SetPlan(d.cfg.Plan())
				if d.count.on() {
					d.count.follow()
				}
			}
		}
	}
}

func (d *Desk) flush() {
	if err := d.engine.Flush(); err != nil {
		d.cfg.Log.Warn("traffic of the last minutes is not on disk yet; it is tried again each minute", "err", err)
	}
}

// Roster returns the function that lists the agents of a site, without those that wait to take a place.
func Roster(w *effective.Site) func() []string {
	return func() (ids []string) {
		for _, r := range w.State().Roster.Agents {
			if r.State != "spare" {
				ids = append(ids, r.ID)
			}
		}
		return ids
	}
}

// Planner returns the Plan of a site as it is when it is called. While no switch is in intent it costs nothing.
func Planner(w *effective.Site) func() *account.Plan {
	last := account.NewPlan(nil, nil)
	return func() *account.Plan {
		e := w.Now()
		if e.Err != nil {
			return last // as it was: what is not known now is no reason to count nothing
		}
		if len(e.Overlay.Catalog.List(intent.KindSwitch)) == 0 {
			return account.NewPlan(nil, nil)
		}
		c := e.Overlay.Catalog
		last = PlanOf(c, effective.Addresses(c, e.State.Roster, w.ID()), reconcile.Bindings(w.Journal), w.ID())
		return last
	}
}
