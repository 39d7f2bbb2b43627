package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// The phases of a machine that leaves its instance.
const (
	PhaseOff   = "off"   // releasing: powered off, its disks are to be erased
	PhaseErase = "erase" // erasing: has or asks for its permission, and erases
)

const (
	// offlineHold is how long a machine whose instance was deleted at the site is kept before it is erased, while the coordinator says
	// nothing (trust.md section 9): who deletes with a stolen token can be overruled in that time.
	offlineHold = 24 * time.Hour
	// eraseQuiet is without a word of the installer while it erases: it reports every 5 s whatever the disks do.
	eraseQuiet = 10 * time.Minute
)

// owes tells whether the disks of the machine are to be erased before it may be given to another instance. A standing binding ends the
// debt: the machine is written anew for it. A release that a later allocation of this machine followed is settled.
func (v MachineView) owes() bool {
	r := v.Release
	return r != nil && !r.Displaced && v.Policy != erasure.PolicyNone && (v.Binding == nil || v.Binding.Released) &&
		r.Generation >= v.Status.Generation && !v.proven()
}

// proven tells whether a receipt stands for the last release.
func (v MachineView) proven() bool {
	return v.Erased != nil && v.Release != nil && v.Erased.Instance == v.Release.Instance && v.Erased.Generation == v.Release.Generation
}

// lastGeneration is the highest that an allocation of the machine ever had.
func (v MachineView) lastGeneration() uint64 {
	n := v.Status.Generation
	if v.Release != nil {
		n = max(n, v.Release.Generation)
	}
	return n
}

// Level is how far the site wants a released machine erased.
func (v MachineView) Level() erasure.Level {
	if v.Policy == erasure.PolicyClear {
		return erasure.Clear
	}
	return erasure.Purge
}

// approved tells whether an operator let the machine be erased.
func (v MachineView) approved() bool {
	return v.Approval != nil && v.Release != nil && v.Approval.Erase && v.Approval.Generation == v.Release.Generation
}

// MayErase says why a machine that is to be erased has to wait; nil: it need not.
func (v MachineView) MayErase() error {
	id, local := strings.CutPrefix(v.Release.Cause, "override ")
	way := fmt.Sprintf("an operator with a registered key approves: `skerry machine approve %s --reason TEXT`", v.Name)
	switch {
	case !local || v.approved() || v.Decision == "adopt":
		return nil
	case v.Decision == "discard":
		return fmt.Errorf("the coordinator discarded the deletion %s: its disks are kept until %s", id, way)
	case v.Now.Sub(v.Freed) < offlineHold:
		return fmt.Errorf("deleted at the site by %s: held for %s, until the coordinator takes the change over, or %s", id, offlineHold, way)
	}
	return nil
}

// Ends is the record that the machine of b is free of it. epoch is that of the record that ends the binding.
func (b Binding) Ends(cause string, epoch intent.Epoch) claim.Draft {
	return claim.Draft{Kind: KindRelease, Key: b.Machine, Epoch: epoch, Body: Release{
		Instance: b.Instance, Project: b.Project, Generation: b.Generation, Cause: cause, Displaced: b.Displaced, Time: time.Now().UTC(),
	}}
}

// Writes returns the allocation that a permission to write or erase the machine is about; nil: none. Released tells which of the two.
func (v MachineView) Writes() *Binding {
	if v.Binding != nil && !v.Binding.Released {
		return v.Binding
	}
	if !v.owes() || (v.Status.State != intent.StateReleasing && v.Status.State != intent.StateErasing) {
		return nil
	}
	r := v.Release
	return &Binding{Instance: r.Instance, Project: r.Project, Machine: v.Name, Generation: r.Generation, Cause: r.Cause, Released: true}
}

// releasing waits until the machine may be erased, and boots it for that. What is merely held stays so until an operator clears it.
func (v MachineView) releasing() Step {
	if !v.owes() {
		return idle()
	}
	why := ""
	switch err := v.MayErase(); {
	case err != nil:
		why = err.Error()
	case v.Assets != "":
		why = v.Assets
	case v.Spec.BMC == nil:
		why = "it has no BMC that could boot it to be erased; erase it by hand, then `skerry machine clear " + v.Name + " --reason TEXT`"
	case !v.SlotFree:
		return idle()
	}
	if why != "" {
		if v.Status.Reason == why {
			return idle()
		}
		st := v.enter(intent.StateReleasing, PhaseOff, why, "machine.releasing", why)
		st.Status.Since = v.Status.Since
		return st
	}
	return v.netboot(intent.StateErasing, "be erased")
}

// eraseAfterClear goes on with a machine that was quarantined, cleared and inspected again: what is there now is what is erased.
func (v MachineView) eraseAfterClear(name string, f *Facts) Step {
	if !v.live() {
		st := v.enter(intent.StateReleasing, PhaseOff, "powered off; its disks are to be erased", "machine.releasing", "inspected again, to be erased")
		st.Action = ActionOff
		st.Status.MachineType, st.Status.Firmware, st.Status.Generation, st.Status.Attempts, st.Accept = name, f.Firmware, v.Release.Generation, 0, f
		return st
	}
	st := v.enter(intent.StateErasing, PhaseErase, "", "machine.erasing", "inspected again; the installer is up and gets its work")
	st.Status.MachineType, st.Status.Firmware, st.Status.Generation, st.Status.Attempts, st.Accept = name, f.Firmware, v.Release.Generation, 1, f
	return st
}

// erasing follows the installer to the receipt. Nothing but a receipt makes the machine available.
func (v MachineView) erasing() Step {
	if v.proven() && v.Release.Generation == v.Status.Generation {
		return v.erased()
	}
	if !v.owes() {
		return v.enter(intent.StateQuarantined, "", "it was to be erased, and by the site's records it need not be", "machine.quarantined", "erasure was called off")
	}
	if v.Status.Phase == PhaseNetboot {
		if v.live() {
			return v.enter(intent.StateErasing, PhaseErase, "", "machine.erasing", "the installer is up and gets its work")
		}
		return v.unreached()
	}
	switch {
	case v.Done != nil && v.Done.Task == v.TaskID():
		return v.enter(intent.StateQuarantined, "", cmp.Or(v.Done.Reason, "the erasure failed"), "erase.failed", v.Done.Reason)
	case v.Now.Sub(v.LastWord) > eraseQuiet:
		return v.late(eraseQuiet, "fell silent while it erased")
	}
	return idle()
}

// eraseFailed ends an attempt of which nobody knows how far it came. Another one erases from the beginning, under another permission.
func (v MachineView) eraseFailed(reason string) Step {
	if v.Status.Attempts >= maxAttempts {
		return v.enter(intent.StateQuarantined, "", reason, "erase.failed", reason)
	}
	return v.enter(intent.StateReleasing, PhaseOff, reason+"; trying again", "machine.overdue", reason+"; trying again")
}

// Writes is MachineView.Writes of a machine by name; ok is false for one that is not declared.
func (c *Controller) Writes(machine string) (b *Binding, ok bool) {
	v, ok := c.viewOf(machine)
	return v.Writes(), ok
}

// Release ends the binding of a machine at an operator's word: it is powered off, and erased before it is given to anybody else. more is
// journaled with it.
func (c *Controller) Release(ctx context.Context, v MachineView, who string, more ...claim.Draft) error {
	b := *v.Binding
	b.Released = true
	r, _ := c.cfg.Journal.Latest(KindBinding, b.Instance)
	err := c.cfg.Journal.Append(ctx, claim.Replicated, append([]claim.Draft{
		b.Ends("operator "+who, r.Epoch),
		{Kind: KindBinding, Key: b.Instance, Epoch: r.Epoch, Body: b},
		Event(v.Name, "", r.Epoch, "machine.releasing", "release asked by "+who, nil),
	}, more...)...)
	if errors.Is(err, claim.ErrWaitingPeer) {
		return nil
	}
	return err
}

// Untouchable says why an operator cannot quarantine the machine now; nil: nothing is under way on it, and nobody's instance runs.
func (v MachineView) Untouchable() error {
	switch s := v.Status.State; {
	case s == intent.StateQuarantined:
		return fmt.Errorf("%s is quarantined already: %s", v.Name, v.Status.Reason)
	case v.Binding != nil && !v.Binding.Released && s != intent.StateBroken: // in maintenance too: what is cleared is installed again
		return fmt.Errorf("%s belongs to %s/%s/%d: `skerry machine release %s` takes it back first", v.Name, v.Binding.Project, v.Binding.Array, v.Binding.Index, v.Name)
	case s == intent.StateRunning:
		return fmt.Errorf("%s is running: `skerry machine release %s` takes it back first", v.Name, v.Name)
	case !resting(v.Status):
		return fmt.Errorf("%s is %s: wait for the end of that, or release it", v.Name, strings.TrimSpace(string(s)+" "+v.Status.Phase))
	}
	return nil
}

// Uncleared says why an operator cannot clear the machine; nil: it is Clearable.
func (v MachineView) Uncleared() error {
	if !v.Clearable() {
		return fmt.Errorf("%s is %s; only a machine that is broken, quarantined or held is cleared", v.Name, v.Status.State)
	}
	return nil
}

// Clearable tells whether an operator may take the machine back into service: nothing else would move it.
func (v MachineView) Clearable() bool {
	switch v.Status.State {
	case intent.StateBroken, intent.StateQuarantined:
		return true
	case intent.StateReleasing:
		return !v.owes() || v.Spec.BMC == nil
	}
	return false
}
