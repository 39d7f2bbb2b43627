package reconcile

import (
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile/firmware"
)

// The phases of a machine that is erased, and of which the firmware is to be as it was.
const (
	PhaseReset  = "bios-reset"  // the defaults of its BIOS settings are asked for
	PhaseSettle = "bios-settle" // was powered on to take them, and to show that it still boots from the network
	PhaseProve  = "bios-prove"  // what the controller shows is read, and its account proven
	PhaseReturn = "bmc-return"  // the controller's own settings were reset; it starts again
)

const (
	settingsLimit   = 3 * time.Minute  // until a controller shows what becomes of BIOS settings: some hide them for a minute
	controllerRest  = 2 * time.Minute  // one that was told to start again is left alone: some answer for a minute until they go
	controllerLimit = 15 * time.Minute // without any word of the controller
)

// reset returns the firmware's record, if it is about the last release.
func (v MachineView) reset() firmware.Record {
	if r := v.Firmware; r != nil && v.Release != nil && r.Instance == v.Release.Instance && r.Generation == v.Release.Generation {
		return *r
	}
	return firmware.Record{Instance: v.Release.Instance, Generation: v.Release.Generation}
}

// erased is a machine with a receipt: its firmware is dealt with before it is available.
func (v MachineView) erased() Step {
	r := v.reset()
	switch {
	case r.Ended && r.Refused != "":
		why := r.AccountsText()
		return v.enter(intent.StateQuarantined, "", why, "machine.quarantined", why)
	case r.Ended:
		return v.given(r)
	case v.Spec.BMC == nil:
		r.BIOS, r.Why = firmware.NotReset, "it has no controller"
		return v.given(r)
	}
	switch v.Status.Phase {
	case PhaseReset:
		switch {
		case r.Asked && v.Assets != "": // a boot slot it has: it was erased in it
			return idle()
		case r.Asked:
			st := v.netboot(intent.StateErasing, "take the defaults of its BIOS settings")
			st.Status.Phase = PhaseSettle
			return st
		case r.BIOS != "": // nothing was asked for: no start is needed
			return v.enter(intent.StateErasing, PhaseProve, "", "", "")
		}
		return v.ask(ActionReset, "to reset its BIOS settings")
	case PhaseSettle:
		switch {
		case v.live():
			return v.enter(intent.StateErasing, PhaseProve, "", "", "")
		case v.silent() == "":
			return idle()
		case v.Status.Attempts < maxAttempts:
			return v.enter(intent.StateErasing, PhaseReset, "", "machine.overdue", v.silent()+" after its BIOS was reset; trying again")
		}
		why := "does not reach the installer any more since its BIOS was reset"
		return v.enter(intent.StateQuarantined, "", why, "machine.quarantined", why)
	case PhaseProve, PhaseReturn:
		switch t := v.Types[v.Status.MachineType]; {
		case v.Status.Phase == PhaseReturn && v.stay() < controllerRest:
			return idle()
		case v.Status.Phase == PhaseProve && r.Gone:
			return v.enter(intent.StateErasing, PhaseReturn, "", "", "")
		case t != nil && t.ResetBMC && r.Controller == "":
			return v.ask(ActionRestore, "to reset its settings")
		}
		return v.ask(ActionProve, "to prove its account")
	}
	st := v.enter(intent.StateErasing, PhaseReset, "", "machine.erasing", "erased; its BIOS settings are to be reset")
	st.Status.Attempts = 0
	return st
}

// ask has the controller asked in the phase that the machine is in, until it answers or was silent for too long.
func (v MachineView) ask(a Action, what string) Step {
	if v.stay() > controllerLimit {
		why := fmt.Sprintf("its controller was not reached within %s %s", controllerLimit, what)
		return v.enter(intent.StateQuarantined, "", why, "machine.quarantined", why)
	}
	return Step{Changed: true, Action: a, Status: v.Status}
}

// given is a machine that leaves the last of its erasure.
func (v MachineView) given(r firmware.Record) Step {
	st := v.enter(intent.StateAvailable, "", "", "machine.available", fmt.Sprintf("%d disks erased, receipt %s/%d; %s", v.Erased.Disks, v.Erased.Agent, v.Erased.Seq, r))
	st.Status.Instance, st.Status.InstanceUID, st.Status.Project, st.Status.Attempts = "", "", "", 0
	if !r.Clean() {
		st.Status.Reason = r.String()
	}
	return st
}
