package rights

import (
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Request is one thing that is asked. Project and Site are empty for what belongs to none.
type Request struct {
	Verb    intent.Verb
	Kind    intent.Kind
	Project string
	Site    string
}

// grantRow is one row of the authorisation table (trust.md section 8).
type grantRow struct {
	role  string
	verbs []intent.Verb
	kinds func(intent.KindInfo) bool
}

func userKinds(i intent.KindInfo) bool {
	return i.User || i.Kind == intent.KindQuota || i.Kind == intent.KindProject
}
func userWritable(i intent.KindInfo) bool { return i.User }
func catalogKinds(i intent.KindInfo) bool {
	return i.Kind == intent.KindMachineType || i.Kind == intent.KindImage
}

func operatorKinds(i intent.KindInfo) bool { return !i.User && !securityKinds(i) && !accountKinds(i) }

func securityKinds(i intent.KindInfo) bool {
	return i.Kind == intent.KindSecret || i.Kind == intent.KindRole || i.Kind == intent.KindQuota
}

func accountKinds(i intent.KindInfo) bool {
	return i.Kind == intent.KindUser || i.Kind == intent.KindGroup || i.Kind == intent.KindProject
}
func siteKind(i intent.KindInfo) bool    { return i.Kind == intent.KindSite }
func machineKind(i intent.KindInfo) bool { return i.Kind == intent.KindMachine }
func everyKind(intent.KindInfo) bool     { return true }

// grants is the one authorisation table. Default deny: what no row allows is refused.
func grants() []grantRow {
	return []grantRow{
		{"reader", []intent.Verb{intent.VerbRead}, userKinds},
		{"reader", []intent.Verb{intent.VerbRead}, catalogKinds},
		{"member", []intent.Verb{intent.VerbRead}, userKinds},
		{"member", []intent.Verb{intent.VerbRead}, catalogKinds},
		{"member", []intent.Verb{intent.VerbWrite}, userWritable},
		{"owner", []intent.Verb{intent.VerbRead}, userKinds},
		{"owner", []intent.Verb{intent.VerbRead}, catalogKinds},
		{"owner", []intent.Verb{intent.VerbWrite}, userWritable},
		{"operator", []intent.Verb{intent.VerbRead}, everyKind},
		{"operator", []intent.Verb{intent.VerbWrite, intent.VerbUpload}, operatorKinds},
		{"operator", []intent.Verb{intent.VerbToken}, func(i intent.KindInfo) bool { return i.Kind == intent.KindAgent }},
		{"operator", []intent.Verb{intent.VerbPower, intent.VerbRelease, intent.VerbConsole}, machineKind},
		{"security", []intent.Verb{intent.VerbRead}, everyKind},
		{"security", []intent.Verb{intent.VerbWrite}, securityKinds},
		{"security", []intent.Verb{intent.VerbWrite}, accountKinds},
		{"security", []intent.Verb{intent.VerbToken}, func(i intent.KindInfo) bool { return i.Kind == intent.KindUser }},
		{"security", []intent.Verb{intent.VerbRevoke}, func(i intent.KindInfo) bool { return i.Kind == intent.KindAgent || i.Kind == intent.KindUser }},
		{"security", []intent.Verb{intent.VerbAudit}, siteKind},
		{"auditor", []intent.Verb{intent.VerbRead}, everyKind},
		{"auditor", []intent.Verb{intent.VerbAudit}, siteKind},
	}
}

// Allowed tells whether one of the bindings allows r. roles holds the operators' own roles by name and may be nil. A
// binding with a project or a site does not reach objects outside it, nor objects that belong to none, except that catalog
// kinds (machine types, images) may be read by everyone with a binding.
func Allowed(bindings []intent.RoleBinding, roles map[string]*intent.RoleSpec, r Request) bool {
	info, ok := r.Kind.Info()
	if !ok {
		return false
	}
	for _, b := range bindings {
		shared := r.Verb == intent.VerbRead && catalogKinds(info)
		if !shared && ((b.Project != "" && b.Project != r.Project) || (b.Site != "" && b.Site != r.Site)) {
			continue
		}
		if roleAllows(b.Role, roles, r.Verb, info) {
			return true
		}
	}
	return false
}

func roleAllows(role string, roles map[string]*intent.RoleSpec, v intent.Verb, info intent.KindInfo) bool {
	for _, row := range grants() {
		if row.role == role && slices.Contains(row.verbs, v) && row.kinds(info) {
			return true
		}
	}
	own, ok := roles[role]
	if !ok || slices.Contains(intent.BuiltinRoles(), role) {
		return false
	}
	for _, rule := range own.Rules {
		if slices.Contains(rule.Verbs, v) && slices.Contains(rule.Kinds, info.Kind) {
			return true
		}
	}
	return false
}
