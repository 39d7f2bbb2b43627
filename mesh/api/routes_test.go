package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// route is one row of the access table: how the route is asked, and which roles pass. Everybody else is refused.
type route struct {
	body  string
	roles string // of newScene's users, separated by spaces; reader, member and owner are of project acme, the rest reach everything
	open  bool   // needs no credential
	list  bool   // answers everybody with what they may see, maybe nothing
}

// routeTable has a row for each operation of the API, by operation id; those of kinds come from kindRoutes.
func routeTable() map[string]route {
	const all = "reader member owner operator security auditor"
	return map[string]route{
		"info":             {roles: all, open: true},
		"whoami":           {roles: all, list: true},
		"apply":            {roles: "member owner", body: `{"objects":[` + docInfra + `]}`},
		"site-status":      {roles: "operator security auditor"},
		"explain-machine":  {roles: "operator security auditor"},
		"power-machine":    {roles: "operator", body: `{"action":"on"}`},
		"clear-machine":    {roles: "operator", body: `{"reason":"seen"}`},
		"release-machine":  {roles: "operator"},
		"create-jointoken": {roles: "operator", body: `{"agent":"a1"}`},
		"create-usertoken": {roles: "security", body: `{}`},
		"revoke":           {roles: "security", body: `{"kind":"agent","id":"lon1/a9","reason":"stolen"}`},
		"revocations":      {roles: "operator security auditor"},
		"quarantine-agent": {roles: "security", body: `{"on":true,"reason":"stolen"}`},
		"admit-spare":      {roles: all, open: true, body: `{"payloadType":"x","payload":"AA==","signatures":[]}`},
		"watch":            {roles: all, list: true},
		"events":           {roles: "operator security auditor"},
		"intent":           {roles: "operator security auditor"},
		"upload-asset":     {roles: "operator", body: "bytes"},
	}
}

// kindTable says for each kind who reads and who writes it (trust.md section 8), as a person read it: not from the code's table.
func kindTable() map[intent.Kind][2]string {
	const all, staff = "reader member owner operator security auditor", "operator security auditor"
	return map[intent.Kind][2]string{
		intent.KindSite:           {staff, "operator"},
		intent.KindAgent:          {staff, "operator"},
		intent.KindMachine:        {staff, "operator"},
		intent.KindMachineType:    {all, "operator"},
		intent.KindSubnetPool:     {staff, "operator"},
		intent.KindAsset:          {staff, "operator"},
		intent.KindImage:          {all, "operator"},
		intent.KindSecret:         {staff, "security"},
		intent.KindProject:        {all, "security"},
		intent.KindUser:           {staff, "security"},
		intent.KindRole:           {staff, "security"},
		intent.KindQuota:          {all, "security"},
		intent.KindNetwork:        {all, "member owner"},
		intent.KindInfrastructure: {all, "member owner"},
		intent.KindInstanceArray:  {all, "member owner"},
		intent.KindSSHKey:         {all, "member owner"},
	}
}

// TestEveryRouteRefuses asks each route of the OpenAPI document as each identity: no credential, a malformed and an unknown one,
// an expired and a revoked token, a revoked user, and each role that the table does not let pass. A route without a row fails.
func TestEveryRouteRefuses(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		} `json:"paths"`
	}
	s := newScene(t)
	raw, err := s.api.OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	rows := routeTable()
	for k, who := range kindTable() {
		info, _ := k.Info()
		one := strings.ToLower(string(k))
		rows["list-"+info.Plural] = route{roles: who[0], list: true}
		rows["get-"+one] = route{roles: who[0]}
		rows["put-"+one] = route{roles: who[1], body: fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":%q,"metadata":{"name":"shop"%s},"spec":{}}`, k, scopeOf(info))}
		rows["delete-"+one] = route{roles: who[1]}
	}
	asked := 0
	for path, ops := range doc.Paths {
		for method, op := range ops {
			r, ok := rows[op.OperationID]
			if !ok {
				t.Errorf("%s %s (%s) has no row in the access table", method, path, op.OperationID)
				continue
			}
			delete(rows, op.OperationID)
			askAll(t, strings.ToUpper(method), path, r)
			asked++
		}
	}
	for id := range rows {
		t.Errorf("the access table has a row %q that no route has", id)
	}
	if asked < 60 {
		t.Errorf("%d routes asked", asked)
	}
}

func scopeOf(info intent.KindInfo) string {
	switch info.Scope {
	case intent.ScopeSite:
		return `,"site":"lon1"`
	case intent.ScopeProject:
		return `,"project":"acme","site":"lon1"`
	default:
		return ""
	}
}

// askAll asks one route as everybody.
func askAll(t *testing.T, method, path string, r route) {
	t.Helper()
	path = strings.NewReplacer("{site}", "lon1", "{machine}", "m1", "{agent}", "a9", "{user}", "member", "{project}", "acme", "{name}", "shop", "{scope}", "lon1").Replace(path)
	if strings.HasSuffix(path, "/intent") {
		path += "?from=1"
	}
	s := newScene(t)
	refused := func(what string, status int, codes ...int) {
		t.Helper()
		if !slices.Contains(codes, status) {
			t.Errorf("%s %s, %s: answered %d, want %v", method, path, what, status, codes)
		}
	}
	if !r.open {
		for what, header := range map[string]string{
			"no credential": "", "a malformed one": "Bearer x", "another scheme": "Basic " + s.tokens["operator"], "an unknown token": "Bearer sku1.00." + strings.Repeat("A", 43),
		} {
			refused(what, s.ask("", method, path, r.body, "Authorization", header).Code, http.StatusUnauthorized)
		}
		for _, role := range strings.Fields(r.roles) {
			s.spoil(role)
			refused("a spoilt token of "+role, s.ask(role, method, path, r.body).Code, http.StatusUnauthorized)
		}
	}
	s = newScene(t)
	for _, role := range intent.BuiltinRoles() {
		if strings.HasSuffix(path, "/watch") {
			continue // never ends for who passes, and that is everybody with a credential: TestWatch
		}
		code := s.ask(role, method, path, r.body).Code
		switch passes := slices.Contains(strings.Fields(r.roles), role); {
		case passes && (code == http.StatusUnauthorized || code == http.StatusForbidden):
			t.Errorf("%s %s as %s: answered %d, and the table lets it pass", method, path, role, code)
		case !passes && r.list:
			refused("as "+role, code, http.StatusOK)
		case !passes && len(s.m.calls)+len(s.m.batches)+len(s.m.revoked) > 0:
			t.Errorf("%s %s as %s reached the backend", method, path, role)
		case !passes:
			refused("as "+role, code, http.StatusForbidden, http.StatusNotFound)
		}
		s.m.calls, s.m.batches, s.m.revoked = nil, nil, nil
	}
}

// spoil makes a role's token worthless, in another way for each: expired, token revoked, user revoked.
func (s *scene) spoil(role string) {
	s.t.Helper()
	id := strings.Split(s.tokens[role], ".")[1]
	switch role {
	case "reader", "operator":
		s.m.change(func(c *intent.Catalog) {
			o := c.Get(intent.Key{Kind: intent.KindUser, Name: role}).Clone()
			at := time.Now().Add(-time.Second)
			o.Spec.(*intent.UserSpec).Tokens[0].Expires = &at
			c.Put(o)
		})
	case "member", "security":
		s.m.revoked = append(s.m.revoked, intent.Revocation{Kind: intent.RevokeToken, ID: id})
	default:
		s.m.revoked = append(s.m.revoked, intent.Revocation{Kind: intent.RevokeUser, ID: role})
	}
}
