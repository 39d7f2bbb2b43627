package ipmi

// Fault is the name of a way to misbehave.
type Fault string

// The faults that are built.
const (
	NoSuite17       Fault = "ipmi-no-suite-17" // as Debian's ipmi_sim
	OnlySuite0      Fault = "only-suite-0"     // answers every suite with no algorithm at all
	TwoKeys         Fault = "two-keys"         // a key of its own (Kg) beside the password
	Lossy           Fault = "lossy"            // every third packet is lost, in either direction
	Duplicates      Fault = "duplicates"       // every answer comes twice
	Forged          Fault = "forged"           // before each answer of a session comes one that is neither encrypted nor authentic
	NodeBusy        Fault = "node-busy"        // two commands of three are refused
	PowerStale      Fault = "power-stale"      // the old power state is shown for a while
	EnableReverts   Fault = "enable-reverts"   // override accepted, then undone
	NoCourtesy      Fault = "no-courtesy"      // boot options but the flags are refused
	SessionFull     Fault = "session-full"     // there is no room for a session
	SessionLeak     Fault = "session-leak"     // Close Session says yes and frees nothing
	Wedged          Fault = "wedged"           // no answer to anything
	Forgets         Fault = "forgets"          // every seventh answer is the last of its session, as after the controller's own reset
	Lockout3        Fault = "lockout-3"        // three wrong passwords lock the account
	PasswordIgnored Fault = "password-ignored" // a new password is accepted, the one before goes on to count
	PasswordPolicy  Fault = "password-policy"  // a new password is refused
	PasswordLost    Fault = "password-lost"    // the password is changed, the answer to it never comes
	SDRLoops        Fault = "sdr-loops"        // the last sensor's record names the first as the next one
	SDRCancels      Fault = "sdr-cancels"      // every eighth request for a record says that the reservation is gone
	GUIDReversed    Fault = "guid-reversed"    // the GUID's octets as the specification has them, not as SMBIOS has them
)

// Faults returns all faults that are built.
func Faults() []Fault {
	return []Fault{
		NoSuite17, OnlySuite0, TwoKeys, Lossy, Duplicates, Forged, NodeBusy, PowerStale, EnableReverts, NoCourtesy, SessionFull, SessionLeak, Wedged, Forgets, Lockout3,
		PasswordIgnored, PasswordPolicy, PasswordLost, SDRLoops, SDRCancels, GUIDReversed,
	}
}
