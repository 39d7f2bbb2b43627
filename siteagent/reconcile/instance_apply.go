package reconcile

import (
	"context"
	"errors"
	"fmt"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// instances starts the binding decisions that this agent owns. A release belongs to whoever acts on the machine: its claim is
// not given to anybody else while the machine is being installed.
func (c *Controller) instances(ctx context.Context, want Want, views []MachineView) {
	v := c.instanceView(want, views)
	for _, t := range PlanInstances(v) {
		id := "binding/" + t.Binding.Instance
		if (t.Release && c.Owns(t.Binding.Machine)) || (!t.Release && c.owns(id)) {
			c.start(ctx, id, t.Binding.Machine, func(ctx context.Context) error { return c.bind(ctx, id, t, v.Majority) })
		}
	}
}

func (c *Controller) instanceView(want Want, views []MachineView) InstanceView {
	v := InstanceView{Catalog: want.Catalog, Bindings: Bindings(c.cfg.Journal), Deleted: want.Deleted, Cause: want.Cause, Knows: want.Knows, Displaced: displaced(c.cfg.Journal)}
	v.Majority = c.majority()
	for _, m := range views {
		free := m.Binding == nil || m.Binding.Released
		if m.Status.State == intent.StateAvailable && free && m.Accepted != nil && !m.Spec.Maintenance {
			v.Candidates = append(v.Candidates, Candidate{Name: m.Name, Type: m.Status.MachineType, Generation: m.lastGeneration()})
		}
	}
	return v
}

// bind decides one binding under its own claim and the machine's, so that two instances never get one machine: who holds
// the machine's claim looks at the journal once more before it writes. majority says how the plan was made.
func (c *Controller) bind(ctx context.Context, id string, t BindTask, majority bool) error {
	b := t.Binding
	v, ok := c.viewOf(b.Machine)
	if !ok {
		return fmt.Errorf("cannot bind %s: machine %s is not declared", b.Instance, b.Machine)
	}
	fence := claim.Fence(nil)
	if v.Spec.BMC != nil {
		_, f, err := c.device(ctx, v)
		if err != nil {
			return err
		}
		fence = f
	}
	if !majority && !t.Release && fence != nil {
		strange, err := c.cfg.Claims.Strange(ctx, machineID(b.Machine), fence)
		if err != nil {
			return err
		}
		if strange { // the peer, which is not heard, may have given it away and installed it
			return fmt.Errorf("cannot bind %s to %s: an agent that is not heard drove the machine; wait for it, or quarantine it", b.Instance, b.Machine)
		}
	}
	own := c.Owns(b.Machine)
	machine, err := c.cfg.Claims.Acquire(ctx, machineID(b.Machine), fence)
	if err != nil {
		return err
	}
	epoch := machine.Epoch
	keep := own && !resting(v.Status)
	defer func() {
		if !keep { // its owner goes on with it, or nobody has to
			c.let(ctx, b.Machine)
		}
	}()
	decision, err := c.cfg.Claims.Acquire(ctx, id, nil)
	switch {
	case err == nil:
		defer c.cfg.Claims.Release(ctx, id)
		if decision.Epoch.Compare(epoch) > 0 {
			epoch = decision.Epoch
		}
	case errors.Is(err, claim.ErrNoMajority) && !majority:
		// The peer is dead: the plan took only the first machine of the instance's order, and the machine's hard fence stands.
	default:
		return err
	}
	if err := c.cfg.Journal.Catch(ctx); err != nil {
		return fmt.Errorf("cannot bind %s to %s: %w", b.Instance, b.Machine, err)
	}
	if now, _ := c.viewOf(b.Machine); !t.Release && now.Status.State != intent.StateAvailable {
		return fmt.Errorf("cannot bind %s to %s: the machine is %s by now", b.Instance, b.Machine, now.Status.State)
	}
	if why := t.taken(Bindings(c.cfg.Journal), displaced(c.cfg.Journal)); why != "" {
		return fmt.Errorf("cannot bind %s to %s: %s", b.Instance, b.Machine, why)
	}
	if r, ok := c.cfg.Journal.Latest(KindBinding, b.Instance); ok && r.Epoch.Compare(epoch) > 0 {
		epoch = r.Epoch // of a decision that was claimed; this one may stand on the machine's claim alone
	}
	keep = keep || (own && !t.Release) // it is to be installed
	kind, msg := "instance.bound", fmt.Sprintf("%s/%s/%d gets %s (%s)", b.Project, b.Array, b.Index, b.Machine, b.Cause)
	if t.Release {
		kind, msg = "instance.released", fmt.Sprintf("%s/%s/%d gives %s back", b.Project, b.Array, b.Index, b.Machine)
	}
	if b.Displaced {
		kind, msg = "instance.displaced", fmt.Sprintf("%s/%s/%d had %s, which instance %s has by a decision of another half of the site; it gets another machine",
			b.Project, b.Array, b.Index, b.Machine, displaced(c.cfg.Journal)[b.Instance])
	}
	var drafts []claim.Draft
	if t.Release {
		drafts = append(drafts, b.Ends(t.Cause, epoch)) // first: who hears of the binding's end knows what the machine owes
	}
	return c.cfg.Journal.Append(ctx, claim.Replicated, append(drafts,
		claim.Draft{Kind: KindBinding, Key: b.Instance, Epoch: epoch, Body: b},
		Event(b.Machine, id, epoch, kind, msg, map[string]string{"cause": b.Cause, "generation": fmt.Sprint(b.Generation)}))...)
}

// taken says why the decision no longer fits the bindings as they are now, under the machine's claim.
func (t BindTask) taken(now map[string]Binding, displaced map[string]string) string {
	have := now[t.Binding.Instance]
	if t.Release {
		if t.Binding.Displaced && displaced[t.Binding.Instance] == "" {
			return "it has its machine alone by now"
		}
		if have.Released || have.Machine != t.Binding.Machine || have.Generation != t.Binding.Generation {
			return "the binding is another by now"
		}
		return ""
	}
	if have.Generation != t.Was || (have.Instance != "" && !have.Released) {
		return "the instance was given a machine meanwhile"
	}
	for uid, b := range now {
		if !b.Released && b.Machine == t.Binding.Machine {
			return "the machine went to instance " + uid
		}
	}
	return ""
}

func (c *Controller) viewOf(machine string) (MachineView, bool) {
	return BuildView(c.cfg.Journal, c.cfg.Want().Catalog, c.cfg.Around(), machine)
}

// View returns the view of one machine as of now.
func (c *Controller) View(machine string) (MachineView, bool) { return c.viewOf(machine) }
