package rights

import (
	"slices"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
)

func TestAllowed(t *testing.T) {
	// What each role may do to kinds of each sort; everything that is not listed is refused.
	sorts := map[string]intent.Kind{"user": intent.KindInstanceArray, "catalog": intent.KindImage, "hardware": intent.KindMachine, "agent": intent.KindAgent, "quota": intent.KindQuota, "secret": intent.KindSecret, "role": intent.KindRole, "account": intent.KindUser, "project": intent.KindProject}
	want := map[string]map[string][]intent.Verb{
		"reader":   {"user": {intent.VerbRead}, "catalog": {intent.VerbRead}, "quota": {intent.VerbRead}, "project": {intent.VerbRead}},
		"member":   {"user": {intent.VerbRead, intent.VerbWrite}, "catalog": {intent.VerbRead}, "quota": {intent.VerbRead}, "project": {intent.VerbRead}},
		"owner":    {"user": {intent.VerbRead, intent.VerbWrite}, "catalog": {intent.VerbRead}, "quota": {intent.VerbRead}, "project": {intent.VerbRead}},
		"operator": {"catalog": {intent.VerbWrite, intent.VerbUpload}, "hardware": {intent.VerbWrite, intent.VerbUpload, intent.VerbPower, intent.VerbRelease, intent.VerbConsole}, "agent": {intent.VerbWrite, intent.VerbUpload, intent.VerbToken}},
		"security": {"quota": {intent.VerbWrite}, "secret": {intent.VerbWrite}, "role": {intent.VerbWrite}, "account": {intent.VerbWrite, intent.VerbToken}, "project": {intent.VerbWrite}},
		"auditor":  {},
	}
	for _, role := range intent.BuiltinRoles() {
		everything := slices.Contains([]string{"operator", "security", "auditor"}, role)
		for sort, kind := range sorts {
			for _, v := range []intent.Verb{intent.VerbRead, intent.VerbWrite, intent.VerbPower, intent.VerbRelease, intent.VerbToken, intent.VerbUpload, intent.VerbConsole, "fly"} {
				may := slices.Contains(want[role][sort], v) || (everything && v == intent.VerbRead)
				if got := Allowed([]intent.RoleBinding{{Role: role}}, nil, Request{Verb: v, Kind: kind, Project: "acme", Site: "lon1"}); got != may {
					t.Errorf("%s %s %s = %v, want %v", role, v, kind, got, may)
				}
			}
		}
	}
}

func TestAllowedScope(t *testing.T) {
	roles := map[string]*intent.RoleSpec{"netter": {Rules: []intent.Rule{{Verbs: []intent.Verb{intent.VerbWrite}, Kinds: []intent.Kind{intent.KindNetwork}}}}, "operator": {Rules: []intent.Rule{{Verbs: []intent.Verb{intent.VerbWrite}, Kinds: []intent.Kind{intent.KindQuota}}}}}
	f := func(b intent.RoleBinding, r Request, want bool) {
		t.Helper()
		if got := Allowed([]intent.RoleBinding{b}, roles, r); got != want {
			t.Errorf("%+v %+v = %v, want %v", b, r, got, want)
		}
	}
	acme := intent.RoleBinding{Role: "member", Project: "acme"}
	f(acme, Request{intent.VerbWrite, intent.KindNetwork, "acme", "lon1"}, true)
	f(acme, Request{intent.VerbWrite, intent.KindNetwork, "evil", "lon1"}, false)
	f(acme, Request{intent.VerbRead, intent.KindNetwork, "", ""}, false)
	f(acme, Request{intent.VerbRead, intent.KindImage, "", ""}, true) // the catalog is for everyone with a binding
	f(acme, Request{intent.VerbWrite, intent.KindImage, "", ""}, false)
	lon := intent.RoleBinding{Role: "operator", Site: "lon1"}
	f(lon, Request{intent.VerbWrite, intent.KindMachine, "", "lon1"}, true)
	f(lon, Request{intent.VerbWrite, intent.KindMachine, "", "par1"}, false)
	f(lon, Request{intent.VerbWrite, intent.KindImage, "", ""}, false) // shared things are beyond one site
	f(lon, Request{intent.VerbRead, intent.KindMachine, "", "par1"}, false)
	f(intent.RoleBinding{Role: "netter"}, Request{intent.VerbWrite, intent.KindNetwork, "acme", "lon1"}, true)
	f(intent.RoleBinding{Role: "netter"}, Request{intent.VerbRead, intent.KindNetwork, "acme", "lon1"}, false)
	f(intent.RoleBinding{Role: "operator"}, Request{intent.VerbWrite, intent.KindQuota, "acme", "lon1"}, false) // own roles never widen a built-in one
	f(intent.RoleBinding{Role: "ghost"}, Request{intent.VerbRead, intent.KindNetwork, "acme", "lon1"}, false)
	f(intent.RoleBinding{Role: "auditor"}, Request{intent.VerbRead, "Planet", "", ""}, false)
	if Allowed(nil, roles, Request{intent.VerbRead, intent.KindImage, "", ""}) {
		t.Error("without a binding somebody may read")
	}
}
