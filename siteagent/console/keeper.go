package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/console"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/consoles"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// Config is what a Keeper works with.
type Config struct {
	Site, Self string
	Dir        string // of the histories
	// Want is the site's intent; Owning tells which machines this agent acts on now, Owners who acts on one, the likeliest first.
	Want   func() reconcile.Want
	Owning func() func(machine string) bool
	Owners func(device string) []string
	// Fit tells whether this agent may hold anything: it counts at its site.
	Fit  func() bool
	Dial func(ctx context.Context, machine string, spec *intent.BMCSpec) (bmc.Line, error)
	Peer func(agent string) http.RoundTripper // the way to another agent
	Live func() []string                      // other agents that are heard
	// Journal takes events and, by Audit, who did what.
	Journal *claim.Journal
	Audit   *auditlog.Log
	Log     *slog.Logger
}

// Keeper keeps the consoles of one agent.
type Keeper struct {
	Door  Door // set before Serve
	cfg   Config
	store *console.Store
	look  time.Duration // lookEvery; less in tests

	mu   sync.Mutex // guards open
	open map[string]*held
}

// held is the console of one machine that this agent owns.
type held struct {
	*console.Console
	history *console.History
	spec    intent.BMCSpec
	end     context.CancelFunc
	done    chan struct{} // closed when all of it has ended
	// Of the goroutine that dials alone: how often each agent was asked for what it showed, and up to when that goes.
	asked map[string]int
	heard time.Time
}

// lookEvery is how often ownership is looked at while the site has a machine with a line.
const lookEvery = 2 * time.Second

// New opens the store of histories.
func New(cfg Config) (*Keeper, error) {
	s, err := console.OpenStore(cfg.Dir, console.DefaultLimits())
	return &Keeper{cfg: cfg, store: s, look: lookEvery, open: map[string]*held{}}, err
}

// lines are the machines that have a line, by name. Redfish alone offers none that this driver speaks.
func lines(c *intent.Catalog) map[string]intent.BMCSpec {
	out := map[string]intent.BMCSpec{}
	for _, o := range c.List(intent.KindMachine) {
		if s := o.Spec.(*intent.MachineSpec); s.BMC != nil && s.BMC.Protocol == "ipmi" {
			out[o.Metadata.Name] = *s.BMC
		}
	}
	return out
}

// Run holds the lines of this agent's machines until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		w := k.cfg.Want()
		all := lines(w.Catalog)
		k.settle(ctx, all)
		var again <-chan time.Time
		if len(all) > 0 {
			again = time.After(k.look)
		}
		select {
		case <-w.Wake:
		case <-again:
		case <-ctx.Done():
			k.settle(ctx, nil)
			return nil
		}
	}
}

// settle opens and closes consoles; one with another BMC than before is another line.
func (k *Keeper) settle(ctx context.Context, all map[string]intent.BMCSpec) {
	fit, owns := k.cfg.Fit(), k.cfg.Owning()
	k.mu.Lock()
	var ended []*held
	for m, h := range k.open {
		if spec, ok := all[m]; !ok || spec != h.spec || !fit || !owns(m) {
			h.end()
			ended = append(ended, h)
			delete(k.open, m)
		}
	}
	k.mu.Unlock()
	for _, h := range ended {
		<-h.done // its history is closed: one at a time writes it
	}
	for m, spec := range all {
		if k.held(m) != nil || !fit || !owns(m) {
			continue
		}
		h, err := k.begin(ctx, m, spec)
		if err != nil {
			k.cfg.Log.Warn("console is not held", "machine", m, "err", err)
			continue
		}
		k.mu.Lock()
		k.open[m] = h
		k.mu.Unlock()
	}
}

// begin starts a console. Its goroutine ends with settle.
func (k *Keeper) begin(ctx context.Context, machine string, spec intent.BMCSpec) (*held, error) {
	history, err := k.store.History(machine)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	h := &held{history: history, spec: spec, end: cancel, done: make(chan struct{}), asked: map[string]int{}, heard: history.Last()}
	reached := false
	h.Console = console.New(console.Config{
		Machine: machine, History: history, Log: k.cfg.Log,
		Dial: func(ctx context.Context) (console.Line, error) {
			if !reached { // another agent may have had the line
				k.adopt(ctx, machine, h)
			}
			ctx, cancel := context.WithTimeout(ctx, dialLimit)
			defer cancel()
			l, err := k.cfg.Dial(ctx, machine, &spec)
			reached = reached || err == nil
			return l, err
		},
		Heard: func() time.Time { return h.heard },
		Event: func(kind, message string, fields map[string]string) {
			k.event(machine, kind, message, fields)
		},
	})
	go func() {
		defer close(h.done)
		err := errors.Join(h.Run(ctx), history.Close())
		if err != nil {
			k.cfg.Log.Warn("history of console not closed", "machine", machine, "err", err)
		}
	}()
	return h, nil
}

func (k *Keeper) event(machine, kind, message string, fields map[string]string) {
	err := k.cfg.Journal.Append(context.Background(), claim.Local, reconcile.Event(machine, "", intent.Epoch{}, kind, message, fields))
	if err != nil {
		k.cfg.Log.Warn("event not journaled", "machine", machine, "kind", kind, "err", err)
	}
}

// dialLimit bounds one try to open a line: a controller that is busy is asked again for so long.
const dialLimit = 30 * time.Second

// Console implements consoles.Holder: at this agent, if it holds the line.
func (k *Keeper) Console(ctx context.Context, s consoles.Session) error {
	c := k.cfg.Want().Catalog
	o := c.Get(intent.Key{Kind: intent.KindMachine, Scope: k.cfg.Site, Name: s.Machine})
	if s.Site != k.cfg.Site || o == nil {
		return api.ErrNotFound
	}
	if _, ok := lines(c)[s.Machine]; !ok {
		return api.Refuse(s.Machine + " has no console: its BMC is not one with `protocol: ipmi`, and serial over LAN is the only line that is spoken; use the BMC's own pages")
	}
	if h := k.held(s.Machine); h != nil {
		return k.sit(ctx, h, s)
	}
	for _, agent := range k.cfg.Owners("machine/" + s.Machine) {
		if agent != k.cfg.Self {
			return k.relay(ctx, agent, s)
		}
	}
	return k.nobody(s.Machine)
}

func (k *Keeper) held(machine string) *held {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open[machine]
}

func (k *Keeper) nobody(machine string) error {
	return api.Refuse(fmt.Sprintf("nobody holds the console of %s just now; `skerry machine explain %s` shows which agent acts on it", machine, machine))
}

// sit seats a person here.
func (k *Keeper) sit(ctx context.Context, h *held, s consoles.Session) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-h.done: // another agent has it now
			cancel()
		case <-ctx.Done():
		}
	})
	by := api.Caller{User: s.User, Via: s.Via}
	err := h.Attach(ctx, console.Attachment{
		Who: s.User, In: s.In, Out: s.Out, Unblock: s.Unblock, Lines: s.Lines, Once: s.Once, Take: s.Take,
		Note: func(what string) error {
			return k.cfg.Journal.Append(context.WithoutCancel(ctx), claim.Local, k.cfg.Audit.Draft(by.Audit("console "+what, "Machine "+k.cfg.Site+"/"+s.Machine, "")))
		},
	})
	if errors.Is(err, console.ErrFull) {
		return api.Refuse(err.Error())
	}
	return err
}
