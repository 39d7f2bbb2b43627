package bmc

import (
	"fmt"
	"slices"
)

// Fault is the name of a way to misbehave: a quirk seen on a real controller (boot.md section 4 names where).
type Fault string

// The faults that are built.
const (
	ModeReverts     Fault = "mode-reverts"     // mode accepted, then undone
	EnableReverts   Fault = "enable-reverts"   // override accepted, then undone
	ModeRefused     Fault = "mode-refused"     // 400 if the mode is sent
	ModeResend      Fault = "mode-resend"      // 400 unless the mode is sent with every override
	OnceIgnored     Fault = "once-ignored"     // a one-time override is consumed, the disk boots all the same
	ETagRequired    Fault = "etag-required"    // 428 without If-Match
	ETagBare        Fault = "etag-bare"        // 412 unless If-Match is the ETag without quotes
	ETagIgnored     Fault = "etag-ignored"     // a stale If-Match is accepted
	SessionCap8     Fault = "session-cap-8"    // the ninth login is refused
	SessionLeak     Fault = "session-leak"     // DELETE says 204 and frees nothing
	LoginSlow       Fault = "login-slow"       // a login takes 2.7 s
	PostLocked      Fault = "post-locked"      // no changes for a while after each start
	NodeBusy        Fault = "node-busy"        // two writes of three are refused
	Storm503        Fault = "storm-503"        // every other request is 503
	PowerStale      Fault = "power-stale"      // the old power state is shown for a while
	VendorEmpty     Fault = "vendor-empty"     // the service root names no vendor
	ResetNoValues   Fault = "reset-no-values"  // the reset action lists no allowed values
	Lockout3        Fault = "lockout-3"        // three wrong passwords lock the account
	PasswordIgnored Fault = "password-ignored" // a new password is accepted, the one before goes on to count
	PasswordPolicy  Fault = "password-policy"  // 400 unless the password has a special character
	PasswordDenied  Fault = "password-denied"  // 403: the account may not change it
	PasswordLogout  Fault = "password-logout"  // a change of password ends every session
	PasswordLost    Fault = "password-lost"    // the password is changed, the answer to it never comes
	BIOSIgnored     Fault = "bios-ignored"     // a reset of the BIOS settings is accepted, nothing happens
	BIOSNoReset     Fault = "bios-no-reset"    // the BIOS settings have no reset
	BIOSSilent      Fault = "bios-silent"      // it does not tell whether a reset is pending
	BIOSParameter   Fault = "bios-parameter"   // 400 unless the reset names the ResetType that the ActionInfo lists
	BIOSVanishes    Fault = "bios-vanishes"    // the BIOS settings are 404 for a while after a reset was asked for
	BIOSLost        Fault = "bios-lost"        // a reset of the BIOS settings is taken, the answer to it never comes
	ManagerAll      Fault = "manager-all"      // the controller's own reset keeps nothing
	ManagerForgets  Fault = "manager-forgets"  // it says that it keeps the accounts, and has the factory's password after it
)

// Faults returns all faults that are built.
func Faults() []Fault {
	return []Fault{
		ModeReverts, EnableReverts, ModeRefused, ModeResend, OnceIgnored, ETagRequired, ETagBare, ETagIgnored, SessionCap8,
		SessionLeak, LoginSlow, PostLocked, NodeBusy, Storm503, PowerStale, VendorEmpty, ResetNoValues, Lockout3,
		PasswordIgnored, PasswordPolicy, PasswordDenied, PasswordLogout, PasswordLost,
		BIOSIgnored, BIOSNoReset, BIOSSilent, BIOSParameter, BIOSVanishes, BIOSLost, ManagerAll, ManagerForgets,
	}
}

// SetFaults replaces the set of active faults. Errors: an unknown name, and then nothing changed.
func (b *BMC) SetFaults(fs ...Fault) error {
	set := map[Fault]bool{}
	for _, f := range fs {
		if !slices.Contains(Faults(), f) {
			return fmt.Errorf("cannot set fault %q: not known", f)
		}
		set[f] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults, b.count = set, 0
	return nil
}

func (b *BMC) has(f Fault) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.faults[f]
}
