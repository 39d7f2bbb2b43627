package bmc

import (
	"context"
	"strings"
	"unicode"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Firmware is the part of a Controller that deals with what a machine's user may leave behind in its firmware and its controller.
type Firmware interface {
	// BIOS reads what the controller tells about the BIOS settings. Errors: ErrUnsupported (it has none), ErrBusy (it announces them and does
	// not show them now), ErrAuth.
	BIOS(ctx context.Context) (BIOS, error)
	// ResetBIOS asks for the BIOS settings' defaults under the claim; they count from the next start on. EffectNone: a reset was pending
	// already; EffectReadback: one is shown as pending now; EffectAccepted: it was taken, and the controller shows neither. Errors:
	// ErrUnsupported (no such action, or one that asks for a choice), ErrNoEffect (with EffectAccepted: taken, and none is pending), ErrUnknown,
	// ErrFenced, ErrBusy, ErrAuth.
	ResetBIOS(ctx context.Context, c intent.Claim) (intent.Effect, error)
	// ResetController has the controller take its factory settings but for network and accounts, under the claim, and start again: for
	// minutes it does not answer. Nothing shows later that it was done. Errors: ErrUnsupported (it has no such reset, or none that keeps those),
	// ErrFenced, ErrBusy, ErrAuth.
	ResetController(ctx context.Context, c intent.Claim) error
	// Login proves the account: it ends the session and opens a new one. After ErrAuth it is not tried again for a while.
	Login(ctx context.Context) error
	// Accounts returns the accounts that have a name, at most 64, in the controller's order. Errors: ErrUnsupported, ErrAuth, ErrBusy.
	Accounts(ctx context.Context) ([]Account, error)
}

// BIOS is what a controller tells about the BIOS settings.
type BIOS struct {
	Resets  bool // it offers to reset them
	Tells   bool // it tells whether a reset is pending
	Pending bool // one is
}

// Account of a controller.
type Account struct {
	Name string // 1 to 64 printable characters; others are replaced by U+FFFD
	Own  bool   // the one that the Controller logs in with
}

// AccountName returns the Name of an Account for what a controller calls it; empty: the account has none.
func AccountName(s string) string {
	var b strings.Builder
	for n, r := range strings.TrimSpace(strings.TrimRight(s, "\x00")) {
		if n >= maxName {
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// maxName is the octets that are kept of an account's name: IPMI has 16, an iDRAC takes 16, an iLO 39.
const maxName = 64
