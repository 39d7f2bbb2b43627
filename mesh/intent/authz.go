package intent

// Verb is what somebody wants to do to objects of a kind.
type Verb string

// The verbs. Power, Explain and Release are machine verbs of a users' instance.
const (
	VerbRead    Verb = "read"
	VerbWrite   Verb = "write" // create, update, delete
	VerbPower   Verb = "power"
	VerbRelease Verb = "release"
	VerbConsole Verb = "console" // see and use a machine's console, which may show secrets
	VerbToken   Verb = "token"   // make join or user tokens
	VerbUpload  Verb = "upload"  // asset bytes
	VerbRevoke  Verb = "revoke"  // take an identity away: revocation for ever, quarantine at a site
	VerbAudit   Verb = "audit"   // read the audit chains, of one site or of all; asked of kind Site
)

func verbNames() []string {
	return []string{string(VerbRead), string(VerbWrite), string(VerbPower), string(VerbRelease)}
}

// BuiltinRoles lists the roles of the table, in order of reach.
func BuiltinRoles() []string {
	return []string{"reader", "member", "owner", "operator", "security", "auditor"}
}
