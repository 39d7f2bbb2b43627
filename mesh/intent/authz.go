package intent

import "slices"

// Verb is what somebody wants to do to objects of a kind.
type Verb string

// The verbs. Power, Explain and Release are machine verbs of a users' instance.
const (
	VerbRead    Verb = "read"
	VerbWrite   Verb = "write" // create, update, delete
	VerbPower   Verb = "power"
	VerbRelease Verb = "release"
	VerbToken   Verb = "token"  // make join or user tokens
	VerbUpload  Verb = "upload" // asset bytes
	VerbRevoke  Verb = "revoke" // take an identity away: revocation for ever, quarantine at a site
	VerbAudit   Verb = "audit"  // read the audit chains, of one site or of all; asked of kind Site
)

func verbNames() []string {
	return []string{string(VerbRead), string(VerbWrite), string(VerbPower), string(VerbRelease)}
}

// Request is one thing that is asked. Project and Site are empty for what belongs to none.
type Request struct {
	Verb    Verb
	Kind    Kind
	Project string
	Site    string
}

// grantRow is one row of the authorisation table (trust.md section 8).
type grantRow struct {
	role  string
	verbs []Verb
	kinds func(KindInfo) bool
}

func userKinds(i KindInfo) bool     { return i.User || i.Kind == KindQuota || i.Kind == KindProject }
func userWritable(i KindInfo) bool  { return i.User }
func catalogKinds(i KindInfo) bool  { return i.Kind == KindMachineType || i.Kind == KindImage }
func operatorKinds(i KindInfo) bool { return !i.User && !securityKinds(i) && !accountKinds(i) }
func securityKinds(i KindInfo) bool {
	return i.Kind == KindSecret || i.Kind == KindRole || i.Kind == KindQuota
}

func accountKinds(i KindInfo) bool {
	return i.Kind == KindUser || i.Kind == KindGroup || i.Kind == KindProject
}
func siteKind(i KindInfo) bool    { return i.Kind == KindSite }
func machineKind(i KindInfo) bool { return i.Kind == KindMachine }
func everyKind(KindInfo) bool     { return true }

// grants is the one authorisation table. Default deny: what no row allows is refused.
func grants() []grantRow {
	return []grantRow{
		{"reader", []Verb{VerbRead}, userKinds},
		{"reader", []Verb{VerbRead}, catalogKinds},
		{"member", []Verb{VerbRead}, userKinds},
		{"member", []Verb{VerbRead}, catalogKinds},
		{"member", []Verb{VerbWrite}, userWritable},
		{"owner", []Verb{VerbRead}, userKinds},
		{"owner", []Verb{VerbRead}, catalogKinds},
		{"owner", []Verb{VerbWrite}, userWritable},
		{"operator", []Verb{VerbRead}, everyKind},
		{"operator", []Verb{VerbWrite, VerbUpload}, operatorKinds},
		{"operator", []Verb{VerbToken}, func(i KindInfo) bool { return i.Kind == KindAgent }},
		{"operator", []Verb{VerbPower, VerbRelease}, machineKind},
		{"security", []Verb{VerbRead}, everyKind},
		{"security", []Verb{VerbWrite}, securityKinds},
		{"security", []Verb{VerbWrite}, accountKinds},
		{"security", []Verb{VerbToken}, func(i KindInfo) bool { return i.Kind == KindUser }},
		{"security", []Verb{VerbRevoke}, func(i KindInfo) bool { return i.Kind == KindAgent || i.Kind == KindUser }},
		{"security", []Verb{VerbAudit}, siteKind},
		{"auditor", []Verb{VerbRead}, everyKind},
		{"auditor", []Verb{VerbAudit}, siteKind},
	}
}

// BuiltinRoles lists the roles of the table, in order of reach.
func BuiltinRoles() []string {
	return []string{"reader", "member", "owner", "operator", "security", "auditor"}
}

// Allowed tells whether one of the bindings allows r. roles holds the operators' own roles by name and may be nil. A
// binding with a project or a site does not reach objects outside it, nor objects that belong to none, except that catalog
// kinds (machine types, images) may be read by everyone with a binding.
func Allowed(bindings []RoleBinding, roles map[string]*RoleSpec, r Request) bool {
	info, ok := r.Kind.Info()
	if !ok {
		return false
	}
	for _, b := range bindings {
		shared := r.Verb == VerbRead && catalogKinds(info)
		if !shared && ((b.Project != "" && b.Project != r.Project) || (b.Site != "" && b.Site != r.Site)) {
			continue
		}
		if roleAllows(b.Role, roles, r.Verb, info) {
			return true
		}
	}
	return false
}

func roleAllows(role string, roles map[string]*RoleSpec, v Verb, info KindInfo) bool {
	for _, row := range grants() {
		if row.role == role && slices.Contains(row.verbs, v) && row.kinds(info) {
			return true
		}
	}
	own, ok := roles[role]
	if !ok || slices.Contains(BuiltinRoles(), role) {
		return false
	}
	for _, rule := range own.Rules {
		if slices.Contains(rule.Verbs, v) && slices.Contains(rule.Kinds, info.Kind) {
			return true
		}
	}
	return false
}
