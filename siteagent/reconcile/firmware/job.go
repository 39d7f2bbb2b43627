package firmware

import (
	"context"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// Kind is the journal's kind of a Record; the key is the machine.
const Kind = "firmware"

// Act is one step on a machine's firmware, as the journal names it.
type Act string

// The acts: Ask, Restore and Prove.
const (
	ActReset   Act = "bios-reset"
	ActRestore Act = "bmc-reset"
	ActProve   Act = "bios-prove"
)

// Job is one act under the machine's claim.
type Job struct {
	Machine, Address, Task string
	Act                    Act
	Claim                  intent.Claim
	Record                 Record // how far it is
	Last                   bool   // as Ask has it
}

// Do carries the job out. The drafts are what it found: they are to be journaled together with its end, so that a crash before that has it
// done again.
func (b Job) Do(ctx context.Context, j *claim.Journal, ctl bmc.Firmware) (drafts []claim.Draft, result string, err error) {
	r := b.Record
	tell := func(yes bool, kind, other, text string) {
		if !yes {
			kind = other
		}
		ev := intent.Event{Type: kind, Machine: b.Machine, Task: b.Task, Message: text, Epoch: b.Claim.Epoch.String()}
		drafts = append(drafts, claim.Draft{Kind: claim.KindEvent, Epoch: b.Claim.Epoch, Body: ev})
	}
	switch b.Act {
	case ActReset:
		if r, err = Ask(ctx, b.Claim, ctl, r, b.Last); err != nil {
			return nil, "", err
		}
		tell(r.Asked, "bios.reset.asked", "bios.reset.none", r.BIOSText())
	case ActRestore:
		if r, err = Restore(ctx, b.Claim, ctl, r, b.Last); err != nil {
			return nil, "", err
		}
		tell(r.Gone, "bmc.reset.asked", "bmc.reset.none", r.ControllerText())
	default:
		var names []string
		known := Known(j, b.Machine, b.Address)
		if r, names, err = Prove(ctx, ctl, r, known, b.Last); err != nil {
			return nil, "", err
		}
		if r.Asked {
			tell(r.BIOS == Reset, "bios.reset.done", "bios.reset.unproven", r.BIOSText())
		}
		switch {
		case r.Refused != "":
			tell(true, "bmc.login.refused", "", r.AccountsText())
		default:
			tell(len(r.Foreign) > 0, "bmc.accounts.foreign", "bmc.login.proven", r.AccountsText())
		}
		if known == nil && names != nil {
			drafts = append(drafts, Draft(b.Machine, b.Address, names))
		}
	}
	return append(drafts, claim.Draft{Kind: Kind, Key: b.Machine, Epoch: b.Claim.Epoch, Body: r}), r.String(), nil
}
