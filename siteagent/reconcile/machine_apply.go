package reconcile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile/firmware"
)

// Want is the effective intent of the site.
type Want struct {
	Catalog *intent.Catalog
	Deleted map[string]bool              // uids of removed arrays
	Cause   func(arrayUID string) string // "intent 1.42", "override ID"
	// Knows tells whether a cause of an earlier decision is part of this intent. Nil func: every one is.
	Knows func(cause string) bool
	Wake  <-chan struct{} // closed when it changes
}

// Config is what a Controller works with.
type Config struct {
	Self    string
	Journal *claim.Journal
	Claims  *claim.Claims
	Want    func() Want
	Members func() (generation uint64, members []claim.Member)
	Around  func() Surroundings
	// Dial opens a session with a machine's BMC; the Controller closes it.
	Dial func(ctx context.Context, machine string, spec *intent.BMCSpec) (bmc.Controller, error)
	// Chore says what a machine's BMC needs that no state of the machine asks for; nil: nothing now. Nil func: nobody looks.
	Chore func(v MachineView) *Chore
	// Recovering tells that this agent's state is older than its peers', or that it does not count among them: it claims nothing.
	Recovering func() bool
	// Fit says why this agent's store may not stand behind a destructive step now; nil error: it may. Nil func: nobody looks.
	Fit func() error
	Log *slog.Logger
}

// Chore is done under the machine's claim while nothing else is to be done to the machine. Failed is told why it failed, or why the
// BMC was not reached; it says by the next plan when it wants to be tried again.
type Chore struct {
	Do     func(ctx context.Context, cl intent.Claim, ctl bmc.Controller) error
	Failed func(ctx context.Context, err error)
}

const (
	// tick is how often plans are made without a change: timeouts are minutes, ownership moves after 30 s.
	tick = time.Second
	// stepLimit bounds one step with all its retries at the BMC; slow ones take a minute for a power change.
	stepLimit = 3 * time.Minute
	// rest is how long a machine rests after a step that failed, so that a dead BMC is not hammered.
	rest = 10 * time.Second
)

// Controller carries plans out. One per agent.
type Controller struct {
	cfg Config

	mu   sync.Mutex               // guards what follows
	busy map[string]chan struct{} // id -> what runs on it; closed at its end
	rest map[string]time.Time     // id -> no step before: one has failed
	bmcs map[string]bmc.Controller
	held map[string]bool // machines that are on and unknown, of which an event told
	// troubles are of ids whose last step failed.
	troubles map[string]trouble
	wg       sync.WaitGroup
}

// New returns a controller that does nothing yet.
func New(cfg Config) *Controller {
	return &Controller{cfg: cfg, busy: map[string]chan struct{}{}, rest: map[string]time.Time{}, bmcs: map[string]bmc.Controller{}, held: map[string]bool{}, troubles: map[string]trouble{}}
}

// Run plans and applies until ctx ends, then waits for the steps that run and closes BMC sessions.
func (c *Controller) Run(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		_, wake := c.cfg.Journal.Rev()
		want, began := c.cfg.Want(), time.Now()
		if !c.cfg.Recovering() {
			around := c.cfg.Around()
			views := BuildViews(c.cfg.Journal, want.Catalog, around)
			c.machines(ctx, views, around.BootSlots)
			c.instances(ctx, want, views)
		}
		select {
		case <-ctx.Done():
			c.wg.Wait()
			c.closeAll()
			return nil
		case <-t.C:
		case <-wake:
			// Where many machines boot at once records come faster than all can be looked at: half of the time is others'.
			pause(ctx, min(time.Since(began), tick))
		case <-want.Wake:
		}
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// owns tells whether this agent acts on id: it holds the claim, or is the natural owner. Both may be true of two agents; then
// the holder goes on, and the other is refused until the claim is given back.
func (c *Controller) owns(id string) bool { return c.owning()(id) }

// owning returns owns for many ids, as the site's members are now.
func (c *Controller) owning() func(id string) bool {
	_, members := c.cfg.Members()
	now := time.Now()
	return func(id string) bool {
		if claim.Owner(id, members, now) == c.cfg.Self {
			return true
		}
		_, held := c.cfg.Claims.Held(id)
		return held
	}
}

// Owns tells whether this agent acts on a machine now.
func (c *Controller) Owns(machine string) bool { return c.owns(machineID(machine)) }

// Owning returns Owns for many machines, as the site's members are now.
func (c *Controller) Owning() func(machine string) bool {
	owns := c.owning()
	return func(machine string) bool { return owns(machineID(machine)) }
}

// start runs fn for id, which is a machine or a decision about it, unless one runs or rests. The goroutine belongs to Run.
func (c *Controller) start(ctx context.Context, id, machine string, fn func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[id] != nil || time.Now().Before(c.rest[id]) {
		return
	}
	c.busy[id] = make(chan struct{})
	c.wg.Go(func() {
		defer c.free(id)
		sctx, cancel := context.WithTimeout(ctx, stepLimit)
		defer cancel()
		c.ended(ctx, id, machine, fn(sctx))
	})
}

// free ends what runs on id.
func (c *Controller) free(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.busy[id])
	delete(c.busy, id)
}

func machineID(name string) string { return "machine/" + name }

// machines starts the next step of every machine that this agent owns. Netboots take the free boot slots one by one, so
// that two machines never share the last one.
func (c *Controller) machines(ctx context.Context, views []MachineView, slots int) {
	for _, v := range views {
		if v.loading() {
			slots--
		}
	}
	owns := c.owning()
	for _, v := range views {
		v.SlotFree = slots > 0
		step := PlanMachine(v)
		if !step.Changed {
			if owns(machineID(v.Name)) {
				c.chores(ctx, v)
			}
			continue
		}
		if step.Action == ActionNetboot {
			slots-- // also when a peer owns the machine: it will take the slot
		}
		if owns(machineID(v.Name)) {
			c.start(ctx, machineID(v.Name), v.Name, func(ctx context.Context) error { return c.applyMachine(ctx, v, step) })
		}
	}
}

// chores starts what the BMC of a machine of this agent needs, if the machine rests.
func (c *Controller) chores(ctx context.Context, v MachineView) {
	if c.cfg.Chore == nil || !resting(v.Status) {
		return
	}
	ch := c.cfg.Chore(v)
	if ch == nil {
		return
	}
	c.start(ctx, machineID(v.Name), v.Name, func(ctx context.Context) error {
		defer c.let(ctx, v.Name)
		ctl, fence, err := c.device(ctx, v)
		if err == nil {
			cl, cerr := c.cfg.Claims.Acquire(ctx, machineID(v.Name), fence)
			if cerr != nil {
				return cerr // the site's matter, not the BMC's
			}
			err = ch.Do(ctx, cl, ctl)
		}
		if err != nil {
			ch.Failed(ctx, err)
		}
		return err
	})
}

// applyMachine carries one step out: claim, journal, device, read back, status. Every part may be repeated after a crash. What it was
// planned on must be all that the site knows: a box that has just taken a place learns the past page by page, and whoever held the claim
// before may have written more. Also a step that touches nothing would be the newest word on the machine.
func (c *Controller) applyMachine(ctx context.Context, v MachineView, step Step) error {
	_, held := c.cfg.Claims.Held(machineID(v.Name))
	ctl, fence, err := c.device(ctx, v)
	if err == nil && (step.Action != ActionNone || !held) {
		err = c.sure(ctx, v, step, ctl)
	}
	if err != nil && (step.Action != ActionNone || ctl != nil) {
		if !held {
			c.let(ctx, v.Name) // its owner may be another one by the next try, and a controller has few sessions
		}
		return err
	}
	cl, err := c.cfg.Claims.Acquire(ctx, machineID(v.Name), fence)
	if err != nil {
		return err
	}
	if !held {
		if err := c.stands(ctx, v, step); err != nil {
			c.let(ctx, v.Name)
			return err
		}
	}
	status := step.Status
	status.Owner, status.Epoch = cl.Owner, cl.Epoch.String()
	task := fmt.Sprintf("%s/%s/%d/%d", step.Action, v.Name, status.Generation, status.Attempts)
	if step.Action != ActionNone && !c.acted(v, step, task) {
		if err := c.act(ctx, v, step, cl, ctl, task); err != nil {
			return err
		}
	}
	drafts := []claim.Draft{{Kind: KindMachine, Key: v.Name, Epoch: cl.Epoch, Body: status}}
	if step.Accept != nil {
		drafts = append(drafts, claim.Draft{Kind: KindAccepted, Key: v.Name, Epoch: cl.Epoch, Body: step.Accept})
	}
	if step.Event != "" {
		drafts = append(drafts, Event(v.Name, task, cl.Epoch, step.Event, step.Message, nil))
	}
	if err := c.cfg.Journal.Append(ctx, claim.Replicated, drafts...); err != nil && !errors.Is(err, claim.ErrWaitingPeer) {
		return err
	}
	if resting(status) {
		c.let(ctx, v.Name)
	}
	return nil
}

// stands takes from the live peers all that they have, and refuses a step that is another one by what they know.
func (c *Controller) stands(ctx context.Context, v MachineView, step Step) error {
	if err := c.cfg.Journal.Catch(ctx); err != nil {
		return err
	}
	now, _ := c.viewOf(v.Name)
	was, is := step.Status, PlanMachine(now)
	if s := is.Status; !is.Changed || is.Action != step.Action || s.State != was.State || s.Phase != was.Phase || s.Attempts != was.Attempts ||
		s.Generation != was.Generation || s.InstanceUID != was.InstanceUID {
		return fmt.Errorf("cannot go on with %s: %w; it is %s by now", v.Name, errKnewMore, now.Status.State)
	}
	return nil
}

// errKnewMore ends a step that was planned on less than the site knows; the next plan is made on all of it.
var errKnewMore = errors.New("a peer knew more")

// sure refuses to act on a machine of which others know more. A live peer may have, of itself or of an agent that is gone, what this one
// has not: a box that has just taken another's place knows nothing, or a part. And where nobody is left who knows, a machine whose BMC was
// fenced by this site before, by an agent that is not heard, may run what somebody needs: it stays as it is. One of which nothing is known
// is looked at once somebody has powered it off. A step that touches nothing is looked at again under the claim.
func (c *Controller) sure(ctx context.Context, v MachineView, step Step, ctl bmc.Controller) error {
	if step.Action != ActionNone {
		if err := c.stands(ctx, v, step); err != nil {
			return err
		}
	}
	why, err := c.unheard(ctx, v, step, ctl)
	if err != nil {
		return err
	}
	if why == "" {
		c.mu.Lock()
		delete(c.held, v.Name)
		c.mu.Unlock()
		return nil
	}
	err = errors.New(why)
	c.mu.Lock()
	told := c.held[v.Name]
	c.held[v.Name] = true
	c.mu.Unlock()
	if told {
		return err
	}
	return errors.Join(err, c.cfg.Journal.Append(ctx, claim.Local, Event(v.Name, "", intent.Epoch{}, "machine.held", why, nil)))
}

// unheard says why a machine may have been driven by an agent of which this one has not heard; empty: it was not.
func (c *Controller) unheard(ctx context.Context, v MachineView, step Step, ctl bmc.Controller) (why string, err error) {
	if v.Status.State != "" || v.Window != nil {
		if c.majority() {
			return "", nil
		}
		strange, err := c.cfg.Claims.Strange(ctx, machineID(v.Name), ctl)
		if err != nil || !strange {
			return "", err
		}
		return fmt.Sprintf("cannot go on with %s: an agent that is not heard drove it, as its BMC shows; wait for that one, or `skerry agent quarantine` it",
			v.Name), nil
	}
	if step.Action == ActionNone {
		return "", nil // somebody booted it by hand, and it spoke
	}
	epoch, _, err := ctl.ReadFence(ctx)
	if err != nil || epoch == (intent.Epoch{}) {
		return "", err
	}
	if power, err := ctl.Power(ctx); err != nil || power == bmc.PowerStateOff {
		return "", err
	}
	return fmt.Sprintf("%s is on, and this site drove it before (its BMC is fenced at %s), but nothing here says what it runs: it stays as it is; "+
		"if nobody needs what it runs, `skerry machine power %s off`", v.Name, epoch, v.Name), nil
}

// majority tells whether most of the site's agents are alive.
func (c *Controller) majority() bool {
	_, members := c.cfg.Members()
	alive := 0
	for _, m := range members {
		if m.Alive {
			alive++
		}
	}
	return alive*2 > len(members)
}

// acted tells whether this power cycle was made already and only the status that follows was lost: a crash between the two
// must not cut the power of a machine whose installer is loading. Powering off reads back by itself and may be repeated.
func (c *Controller) acted(v MachineView, step Step, task string) bool {
	rec, ok := claim.Load[TaskRecord](c.cfg.Journal, KindTask, task)
	return ok && step.Action == ActionNetboot && rec.State == "done" &&
		v.Window != nil && v.Window.Task == task && v.Pressed && v.Open()
}

// resting states hold no claim: the natural owner may take the machine back.
func resting(s intent.MachineStatus) bool {
	switch s.State {
	case intent.StateInstalling, intent.StateAllocated, intent.StateErasing:
		return false
	case intent.StateExpected, intent.StateDiscovered:
		return s.Phase == ""
	}
	return true
}

// Event makes the journal draft of an event.
func Event(machine, task string, e intent.Epoch, kind, message string, fields map[string]string) claim.Draft {
	ev := intent.Event{Type: kind, Machine: machine, Task: task, Message: message, Fields: fields}
	if e != (intent.Epoch{}) {
		ev.Epoch = e.String()
	}
	return claim.Draft{Kind: claim.KindEvent, Epoch: e, Body: ev}
}

// act writes to the device. The step is journaled as started on every live peer first; a step that is repeated after a crash
// reads the device back before it writes, because drivers write nothing that is so already.
func (c *Controller) act(ctx context.Context, v MachineView, step Step, cl intent.Claim, ctl bmc.Controller, task string) error {
	rec := TaskRecord{Task: task, Device: machineID(v.Name), Step: step.Action.String(), Class: "checked", State: "started", Epoch: cl.Epoch}
	started := []claim.Draft{{Kind: KindTask, Key: task, Epoch: cl.Epoch, Body: rec}}
	if step.Action == ActionNetboot {
		w, err := newWindow(v, step, cl, task)
		if err != nil {
			return err
		}
		started = append(started, claim.Draft{Kind: KindWindow, Key: v.Name, Epoch: cl.Epoch, Body: w})
	}
	if err := c.cfg.Journal.Append(ctx, claim.Replicated, started...); err != nil {
		return err
	}
	if err := c.cfg.Claims.Confirm(ctx, cl, ctl); err != nil {
		return err
	}
	if err := ctl.RaiseFence(ctx, cl.Epoch); err != nil { // the claim may have been granted while the BMC was out of reach
		return err
	}
	found, result, err := c.perform(ctx, v, step.Action, cl, ctl, task)
	rec.State, rec.Result = "done", result
	if err != nil {
		rec.State, rec.Result = "failed", err.Error()
	}
	end := []claim.Draft{{Kind: KindTask, Key: task, Epoch: cl.Epoch, Body: rec}}
	if err == nil || c.news(machineID(v.Name), rec.Result) {
		end = append(end, found...)
	}
	if aerr := c.cfg.Journal.Append(ctx, claim.Local, end...); aerr != nil {
		return errors.Join(err, aerr)
	}
	return err
}

func newWindow(v MachineView, step Step, cl intent.Claim, task string) (*Window, error) {
	mac, ok := intent.ParseMAC(v.Spec.BootNIC().MAC)
	if !ok {
		return nil, fmt.Errorf("cannot boot %s from the network: no valid MAC address", v.Name)
	}
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails: crypto/rand, Go 1.24
	return &Window{
		Machine: v.Name, MAC: mac, Nonce: fmt.Sprintf("%x", nonce), Generation: step.Status.Generation, Epoch: cl.Epoch,
		Task: task, Opened: v.Now,
	}, nil
}

// perform is the device part of an action, and what is journaled with its end.
func (c *Controller) perform(ctx context.Context, v MachineView, a Action, cl intent.Claim, ctl bmc.Controller, task string) (found []claim.Draft, result string, err error) {
	if a == ActionReset || a == ActionProve || a == ActionRestore {
		job := firmware.Job{Machine: v.Name, Address: v.Spec.BMC.Address, Task: task, Act: firmware.Act(a.String()), Claim: cl, Record: v.reset(), Last: v.stay() > settingsLimit}
		return job.Do(ctx, c.cfg.Journal, ctl)
	}
	effect, err := c.drive(ctx, a, cl, ctl)
	if result = effect.String(); err != nil {
		result = err.Error()
	}
	return []claim.Draft{
		Event(v.Name, task, cl.Epoch, "machine.power.observed", fmt.Sprintf("%s: %s", a, result), map[string]string{"effect": effect.String()}),
	}, effect.String(), err
}

// drive is the part of an action that is about power and boot.
func (c *Controller) drive(ctx context.Context, a Action, cl intent.Claim, ctl bmc.Controller) (intent.Effect, error) {
	if a == ActionOff {
		return ctl.SetPower(ctx, cl, bmc.PowerOff)
	}
	if _, err := ctl.SetPower(ctx, cl, bmc.PowerOff); err != nil {
		return intent.EffectNone, err
	}
	if _, err := ctl.SetBoot(ctx, cl, bmc.BootSpec{Device: bmc.BootNetwork, Once: true}); err != nil {
		return intent.EffectNone, err
	}
	return ctl.SetPower(ctx, cl, bmc.PowerOn)
}

// device returns the open session with a machine's BMC, and its fence. A machine without a BMC has neither.
func (c *Controller) device(ctx context.Context, v MachineView) (bmc.Controller, claim.Fence, error) {
	if v.Spec.BMC == nil {
		return nil, nil, fmt.Errorf("cannot reach %s: it has no BMC; power it by hand", v.Name)
	}
	c.mu.Lock()
	ctl := c.bmcs[v.Name]
	c.mu.Unlock()
	if ctl != nil {
		return ctl, ctl, nil
	}
	ctl, err := c.cfg.Dial(ctx, v.Name, v.Spec.BMC)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot reach BMC of %s: %w", v.Name, err)
	}
	c.mu.Lock()
	c.bmcs[v.Name] = ctl
	c.mu.Unlock()
	return ctl, ctl, nil
}

// let gives the claim back and ends the BMC's session: a controller has few.
func (c *Controller) let(ctx context.Context, name string) {
	c.cfg.Claims.Release(ctx, machineID(name))
	c.mu.Lock()
	ctl := c.bmcs[name]
	delete(c.bmcs, name)
	c.mu.Unlock()
	if ctl != nil {
		if err := ctl.Close(ctx); err != nil {
			c.cfg.Log.Debug("BMC session not closed", "machine", name, "err", err)
		}
	}
}

func (c *Controller) closeAll() {
	ctx, cancel := context.WithTimeout(context.Background(), rest)
	defer cancel()
	c.mu.Lock()
	var names []string
	for n := range c.bmcs {
		names = append(names, n)
	}
	c.mu.Unlock()
	for _, n := range names {
		c.let(ctx, n)
	}
}

// Permitted claims the machine (or keeps its claim) and confirms it, for a destructive step that an installer asks for.
func (c *Controller) Permitted(ctx context.Context, v MachineView) (intent.Claim, error) {
	if !c.owns(machineID(v.Name)) {
		return intent.Claim{}, claim.ErrNotHeld
	}
	if c.cfg.Fit != nil {
		if err := c.cfg.Fit(); err != nil {
			return intent.Claim{}, fmt.Errorf("cannot permit writing %s: %w", v.Name, err)
		}
	}
	_, fence, err := c.device(ctx, v)
	if err != nil && v.Spec.BMC != nil {
		return intent.Claim{}, err
	}
	cl, err := c.cfg.Claims.Acquire(ctx, machineID(v.Name), fence)
	if err != nil {
		return intent.Claim{}, err
	}
	return cl, c.cfg.Claims.Confirm(ctx, cl, fence)
}

// Power changes a machine's power for an operator, under the claim.
func (c *Controller) Power(ctx context.Context, v MachineView, action string) (bmc.PowerState, intent.Effect, error) {
	ctl, fence, err := c.device(ctx, v)
	if err != nil {
		return "", intent.EffectNone, err
	}
	effect := intent.EffectNone
	if action != "status" {
		cl, err := c.cfg.Claims.Acquire(ctx, machineID(v.Name), fence)
		if err != nil {
			return "", effect, err
		}
		if effect, err = c.power(ctx, ctl, cl, action); err != nil {
			return "", effect, err
		}
	}
	p, err := ctl.Power(ctx)
	if resting(v.Status) {
		c.let(ctx, v.Name)
	}
	return p, effect, err
}

func (c *Controller) power(ctx context.Context, ctl bmc.Controller, cl intent.Claim, action string) (intent.Effect, error) {
	switch action {
	case "on":
		return ctl.SetPower(ctx, cl, bmc.PowerOn)
	case "off":
		return ctl.SetPower(ctx, cl, bmc.PowerOff)
	case "soft-off":
		return ctl.SetPower(ctx, cl, bmc.PowerSoftOff)
	case "cycle":
		if _, err := ctl.SetPower(ctx, cl, bmc.PowerOff); err != nil {
			return intent.EffectNone, err
		}
		return ctl.SetPower(ctx, cl, bmc.PowerOn)
	}
	return intent.EffectNone, fmt.Errorf("cannot do %q to a machine's power", action)
}
