package firmware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Outcome of a reset of BIOS settings.
type Outcome string

// The outcomes; empty: it is under way.
const (
	Reset     Outcome = "reset"      // proven
	NotProven Outcome = "not proven" // asked for, and nothing shows that it was done
	NotReset  Outcome = "not reset"  // not asked for
)

// Record is how far a released machine's firmware is.
type Record struct {
	Instance   string  `json:"instance"`
	Generation uint64  `json:"generation"` // both of the release
	Asked      bool    `json:"asked,omitempty"`
	Shown      bool    `json:"shown,omitempty"` // the controller showed the reset as pending
	BIOS       Outcome `json:"bios,omitempty"`
	Why        string  `json:"why,omitempty"` // of the outcome
	// Controller is what became of the reset of the controller's own settings; empty: nobody wants it, or it was not asked for yet. Gone: it
	// was asked for, and starts again.
	Controller    Outcome `json:"controller,omitempty"`
	ControllerWhy string  `json:"controllerWhy,omitempty"`
	Gone          bool    `json:"gone,omitempty"`
	// Ended: nothing more is done. Refused is why the controller does not let us in; then the machine may not be given to anybody.
	Ended   bool   `json:"ended,omitempty"`
	Refused string `json:"refused,omitempty"`
	// Foreign are accounts beside ours that were not there before, at most maxForeign; Unlisted is why that is not known.
	Foreign  []string `json:"foreign,omitempty"`
	More     int      `json:"more,omitempty"` // that are left out
	Unlisted string   `json:"unlisted,omitempty"`
}

// maxForeign bounds what an event names: enough to see what it is about.
const maxForeign = 16

// text says in words what became of the settings of what; empty while it is under way.
func (o Outcome) text(what, why string) string {
	said := map[Outcome]string{Reset: "reset to defaults", NotProven: "reset not proven", NotReset: "not reset"}[o]
	if said == "" {
		return ""
	}
	return what + " " + said + ": " + why
}

// BIOSText says in words what became of the BIOS settings.
func (r Record) BIOSText() string {
	return cmp.Or(r.BIOS.text("BIOS", r.Why), "BIOS reset asked for: it counts from the next start on")
}

// AccountsText says in words how its accounts stand.
func (r Record) AccountsText() string {
	var names []string
	for _, name := range r.Foreign {
		names = append(names, strconv.Quote(name))
	}
	text := strings.Join(names, ", ")
	if r.More > 0 {
		text += fmt.Sprintf(" and %d more", r.More)
	}
	switch {
	case r.Refused != "":
		return "controller does not let us in: " + r.Refused
	case !r.Ended:
		return ""
	case r.Unlisted != "" && text == "":
		return "our account logs in; other accounts are not known: " + r.Unlisted
	case r.Unlisted != "":
		return "our account logs in; also there: " + text + "; " + r.Unlisted
	case text != "":
		return "our account logs in; accounts that were not there before: " + text
	}
	return "our account logs in, no new account"
}

// ControllerText says in words what became of the controller's settings; empty: nobody wants them reset.
func (r Record) ControllerText() string { return r.Controller.text("BMC", r.ControllerWhy) }

// String is all three.
func (r Record) String() string {
	parts := []string{r.BIOSText(), r.ControllerText(), r.AccountsText()}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

// Clean tells that the record holds nothing that an operator should know before the machine is given away.
func (r Record) Clean() bool {
	return r.BIOS == Reset && r.Controller == "" && len(r.Foreign) == 0 && r.Refused == ""
}

// Ask asks for the defaults of the BIOS settings under the claim. last: it is not tried again, and what stands in the way is the outcome.
// An error means that it should be tried again. Asked again, it finds out what the controller knows by then.
func Ask(ctx context.Context, c intent.Claim, ctl bmc.Firmware, r Record, last bool) (Record, error) {
	eff, err := ctl.ResetBIOS(ctx, c)
	if err == nil && eff == intent.EffectAccepted {
		// Some hide their settings while they work on them: those that show them again in time say more.
		if _, herr := ctl.BIOS(ctx); errors.Is(herr, bmc.ErrBusy) && !last {
			return r, herr
		}
	}
	switch {
	case err == nil:
		r.Asked, r.Shown = true, eff != intent.EffectAccepted
	case errors.Is(err, bmc.ErrNoEffect):
		r.Asked, r.Why = true, "its controller took the reset, and showed none as pending"
	case errors.Is(err, bmc.ErrUnsupported):
		r.BIOS, r.Why = NotReset, noReset(err)
	case errors.Is(err, bmc.ErrFenced), ctx.Err() != nil, !last:
		return r, err
	case errors.Is(err, bmc.ErrUnknown):
		r.Asked, r.Why = true, fmt.Sprintf("its controller did not answer: %.300v", err)
	case errors.Is(err, bmc.ErrBusy): // perhaps because it took one before, of which this record knows nothing
		r.BIOS, r.Why = NotProven, fmt.Sprintf("%.300v", err)
	default:
		r.BIOS, r.Why = NotReset, fmt.Sprintf("%.300v", err)
	}
	return r, nil
}

// noReset says why there is no reset in a user's words; the driver's are behind it.
func noReset(err error) string {
	return fmt.Sprintf("its controller offers no reset (%.200v)", err)
}

// Prove says what became of a reset that was asked for, now that the machine has started, logs in anew, and compares the accounts with known,
// the names from before; nil: there is no list. names are those there now, nil where they cannot be listed. As with Ask, an error means
// that it should be tried again, and last that it will not be, but for a login that nobody answers: its caller says how long that may last.
func Prove(ctx context.Context, ctl bmc.Firmware, r Record, known []string, last bool) (_ Record, names []string, err error) {
	if err := ctl.Login(ctx); err != nil {
		if !errors.Is(err, bmc.ErrAuth) && !errors.Is(err, bmc.ErrPin) || ctx.Err() != nil {
			return r, nil, err // one that starts again may take its time; a refusal is not tried again: controllers lock accounts
		}
		r.Ended, r.Refused = true, fmt.Sprintf("%.300v", err)
		if r.BIOS == "" {
			r.BIOS, r.Why = NotProven, "its controller cannot be asked"
		}
		return r, nil, nil
	}
	if r.BIOS == "" {
		if r, err = taken(ctx, ctl, r, last); err != nil {
			return r, nil, err
		}
	}
	all, err := ctl.Accounts(ctx)
	switch {
	case err != nil && !errors.Is(err, bmc.ErrUnsupported) && !last || ctx.Err() != nil:
		return r, nil, err
	case err != nil:
		r.Unlisted = fmt.Sprintf("%.200v", err)
	default:
		if known == nil {
			r.Unlisted = "there is no list from before"
		}
		names = []string{}
		for _, a := range all {
			names = append(names, a.Name)
			switch {
			case a.Own || slices.Contains(known, a.Name):
			case len(r.Foreign) == maxForeign:
				r.More++
			default:
				r.Foreign = append(r.Foreign, a.Name)
			}
		}
	}
	r.Ended = true
	return r, names, nil
}

// Restore says what became of a reset of the BIOS settings, as Prove does, and has the controller take its own settings back: after that it
// may not know any more what it showed before.
func Restore(ctx context.Context, c intent.Claim, ctl bmc.Firmware, r Record, last bool) (_ Record, err error) {
	if r.BIOS == "" {
		if r, err = taken(ctx, ctl, r, last); err != nil {
			return r, err
		}
	}
	err = ctl.ResetController(ctx, c)
	switch {
	case err == nil:
		r.Controller, r.ControllerWhy, r.Gone = NotProven, "its controller took it and started again, and does not tell what it did", true
	case errors.Is(err, bmc.ErrUnsupported):
		r.Controller, r.ControllerWhy = NotReset, fmt.Sprintf("its controller offers none that keeps network and accounts (%.200v)", err)
	case errors.Is(err, bmc.ErrFenced), ctx.Err() != nil, !last:
		return r, err
	default:
		r.Controller, r.ControllerWhy = NotReset, fmt.Sprintf("%.300v", err)
	}
	return r, nil
}

// taken finds out whether a reset was taken at the start.
func taken(ctx context.Context, ctl bmc.Firmware, r Record, last bool) (Record, error) {
	r.BIOS = NotProven
	if !r.Shown {
		if r.Why == "" {
			r.Why = "its controller took it, and does not tell whether it was done"
		}
		return r, nil
	}
	b, err := ctl.BIOS(ctx)
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case (err != nil || b.Pending) && !last:
		r.BIOS = ""
		return r, errors.Join(err, errors.New("the reset is pending still, or cannot be read"))
	case err != nil:
		r.Why = fmt.Sprintf("it cannot be read after the start: %.200v", err)
	case b.Pending:
		r.Why = "its controller shows it as pending still, after a start"
	case !b.Tells:
		r.Why = "its controller does not tell any more whether it is pending"
	default:
		r.BIOS, r.Why = Reset, "its controller showed it as pending, and after a start no more"
	}
	return r, nil
}
