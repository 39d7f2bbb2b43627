package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// operatorWait is how long an operator's act waits for the step that runs on a machine: most take a few seconds.
const operatorWait = 20 * time.Second

// seize takes id as a step does, once the one that runs has ended; that one failed and rests is no reason to wait. Errors: ctx's, or that the
// step takes longer than operatorWait.
func (c *Controller) seize(ctx context.Context, id string) error {
	limit := time.NewTimer(operatorWait)
	defer limit.Stop()
	for {
		c.mu.Lock()
		running := c.busy[id]
		if running == nil {
			c.busy[id] = make(chan struct{})
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-running:
		case <-limit.C:
			return errors.New("a step is under way; try again in a moment")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// alone takes a machine for what an operator does to its record: no step of this agent runs on it until done, this agent knows what its peers
// know, it holds the claim, and check still lets the machine through. Its BMC is not written to, so one that does not answer is no reason.
func (c *Controller) alone(ctx context.Context, v MachineView, check func(MachineView) error) (cl intent.Claim, now MachineView, done func(), err error) {
	id := machineID(v.Name)
	if err := c.seize(ctx, id); err != nil {
		return cl, v, nil, err
	}
	defer func() {
		if err != nil {
			c.free(id)
		}
	}()
	_, fence, err := c.device(ctx, v)
	if err == nil && fence != nil {
		_, _, err = fence.ReadFence(ctx)
	}
	if err != nil && v.Spec.BMC != nil {
		c.cfg.Log.Info("its BMC does not answer: the claim goes by the site's agents alone", "machine", v.Name, "err", err)
		fence = nil
	}
	if cl, err = c.cfg.Claims.Acquire(ctx, id, fence); err != nil {
		return cl, v, nil, err
	}
	err = c.cfg.Journal.Catch(ctx) // under the claim: whoever had it before has written its last
	now, ok := c.viewOf(v.Name)
	switch {
	case err != nil:
	case !ok:
		err = errors.New("it is gone")
	default:
		err = check(now)
	}
	if err != nil {
		c.let(ctx, v.Name)
		return cl, v, nil, err
	}
	return cl, now, func() { c.let(ctx, v.Name); c.free(id) }, nil
}

// Quarantine keeps a machine that Untouchable lets through out of use, under the claim, until it is cleared. more is journaled with it.
func (c *Controller) Quarantine(ctx context.Context, v MachineView, why string, more ...claim.Draft) error {
	cl, now, done, err := c.alone(ctx, v, MachineView.Untouchable)
	if err != nil {
		return fmt.Errorf("cannot quarantine %s: %w", v.Name, err)
	}
	defer done()
	st := now.enter(intent.StateQuarantined, "", why, "", "").Status
	st.Owner, st.Epoch = cl.Owner, cl.Epoch.String()
	drafts := []claim.Draft{
		{Kind: KindMachine, Key: v.Name, Epoch: cl.Epoch, Body: st},
		Event(v.Name, "", cl.Epoch, "machine.quarantined", why, map[string]string{"was": string(now.Status.State)}),
	}
	err = c.cfg.Journal.Append(ctx, claim.Replicated, append(drafts, more...)...)
	if errors.Is(err, claim.ErrWaitingPeer) {
		return nil
	}
	return err
}

// Clear takes a machine that is broken, quarantined or held back into service, under the claim: it is inspected again, and installed again
// if it belongs to an instance. more is journaled with it.
func (c *Controller) Clear(ctx context.Context, v MachineView, why string, more ...claim.Draft) error {
	cl, v, done, err := c.alone(ctx, v, MachineView.Uncleared)
	if err != nil {
		return fmt.Errorf("cannot clear %s: %w", v.Name, err)
	}
	defer done()
	status := v.cleared()
	status.Owner, status.Epoch = cl.Owner, cl.Epoch.String()
	drafts := []claim.Draft{
		{Kind: KindMachine, Key: v.Name, Epoch: cl.Epoch, Body: status},
		// The evidence is settled, and whoever held a session then has none: the machine boots anew.
		{Kind: KindEvidence, Key: v.Name, Body: Evidence{What: "settled: " + why, Time: v.Now}},
		{Kind: KindSession, Key: v.Name, Body: Session{Machine: v.Name, Nonce: "cleared", Agent: c.cfg.Self, Since: v.Now}},
		Event(v.Name, "", cl.Epoch, "machine.cleared", why, map[string]string{"was": string(v.Status.State), "reason": v.Status.Reason}),
	}
	if v.owes() {
		r := *v.Release
		r.Generation++ // as below
		drafts = append(drafts, claim.Draft{Kind: KindRelease, Key: v.Name, Epoch: cl.Epoch, Body: r})
	}
	if v.Binding != nil && !v.Binding.Released {
		b := *v.Binding
		b.Generation++ // other tasks and permissions than those that failed
		e := cl.Epoch
		if r, ok := c.cfg.Journal.Latest(KindBinding, b.Instance); ok && r.Epoch.Compare(e) > 0 {
			e = r.Epoch
		}
		drafts = append(drafts, claim.Draft{Kind: KindBinding, Key: b.Instance, Epoch: e, Body: b})
	}
	err = c.cfg.Journal.Append(ctx, claim.Replicated, append(drafts, more...)...)
	if errors.Is(err, claim.ErrWaitingPeer) {
		return nil
	}
	return err
}
