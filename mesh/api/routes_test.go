package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
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
		"info":               {roles: all, open: true},
		"whoami":             {roles: all, list: true},
		"apply":              {roles: "member owner", body: `{"objects":[` + docInfra + `]}`},
		"list-proposals":     {roles: all, list: true},
		"settle-proposal":    {body: `{"decision":"adopt","reason":"seen"}`}, // who may write the object: TestSettleIsTheWriters
		"site-status":        {roles: "operator security auditor"},
		"explain-machine":    {roles: "operator security auditor"},
		"list-receipts":      {roles: "operator security auditor"},
		"list-discovered":    {roles: "operator security auditor"},
		"ignore-machine":     {roles: "operator", body: `{"reason":"seen"}`},
		"power-machine":      {roles: "operator", body: `{"action":"on"}`},
		"asset-action":       {roles: "operator", body: `{"action":"verify"}`},
		"clear-machine":      {roles: "operator", body: `{"reason":"seen"}`},
		"quarantine-machine": {roles: "operator", body: `{"reason":"seen"}`},
		"approve-machine":    {roles: "operator", body: `{"reason":"seen"}`},
		"release-machine":    {roles: "operator"},
		"console":            {roles: "operator"},
		"attach-console":     {roles: "operator", body: "bytes"},
		"create-jointoken":   {roles: "operator", body: `{"agent":"a1"}`},
		"create-usertoken":   {roles: "security", body: `{}`},
		"revoke":             {roles: "security", body: `{"kind":"agent","id":"lon1/a9","reason":"stolen"}`},
		"revocations":        {roles: "operator security auditor"},
		"quarantine-agent":   {roles: "security", body: `{"on":true,"reason":"stolen"}`},
		"admit-spare":        {roles: all, open: true, body: `{"payloadType":"x","payload":"AA==","signatures":[]}`},
		"key-status":         {roles: "operator security auditor"},
		"add-trust":          {roles: "security", body: `{"payloadType":"x","payload":"AA==","signatures":[]}`},
		"accept-trust":       {roles: "security", body: `{"digest":"00","site":"lon1"}`},
		"rotate":             {roles: "security", body: `{"what":"agent","site":"lon1","agent":"a9"}`},
		"rotations":          {roles: "operator security auditor"},
		"rotate-secrets":     {roles: "security", body: `{"agent":"a1"}`},
		"secret-status":      {roles: "operator security auditor"},
		"watch":              {roles: all, list: true},
		"traffic":            {roles: all, list: true},
		"top":                {roles: all, list: true},
		"audit":              {roles: "security auditor"},
		"events":             {roles: "operator security auditor"},
		"intent":             {roles: "operator security auditor"},
		"intent-status":      {roles: "operator security auditor"},
		"export-stick":       {roles: "operator security auditor"},
		"import-stick":       {roles: "operator", body: "bytes"},
		"upload-asset":       {roles: "operator", body: "bytes"},
		"begin-upload":       {roles: "operator", body: `{"name":"tiny","class":"image"}`},
		"append-upload":      {roles: "operator", body: "bytes"},
		"publish-upload":     {roles: "operator"},
		"drop-upload":        {roles: "operator"},
		"collect-assets":     {roles: "operator"},
		"get-upload":         {roles: "operator security auditor"},
		"list-uploads":       {roles: "operator security auditor"},
		"list-series":        {roles: all, list: true}, // of whose machines: telemetry.TestSee
		"query-series":       {roles: all, list: true},
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
		intent.KindSwitch:         {staff, "operator"},
		intent.KindSubnetPool:     {staff, "operator"},
		intent.KindAsset:          {staff, "operator"},
		intent.KindImage:          {all, "operator"},
		intent.KindSecret:         {staff, "security"},
		intent.KindProject:        {all, "security"},
		intent.KindUser:           {staff, "security"},
		intent.KindGroup:          {staff, "security"},
		intent.KindRole:           {staff, "security"},
		intent.KindQuota:          {all, "security"},
		intent.KindNetwork:        {all, "member owner"},
		intent.KindInfrastructure: {all, "member owner"},
		intent.KindInstanceArray:  {all, "member owner"},
		intent.KindSSHKey:         {all, "member owner"},
	}
}

// TestEveryRouteRefuses is experiment F20: each route of the OpenAPI document as each identity, by token and by client certificate.
// Refused are: no credential, a malformed and an unknown one; of every role that passes, one that expired, one that was revoked, and
// a revoked user; the same role in another project and at another site; each other role. Each refusal reaches the audit log and not
// the backend. A route without a row fails.
func TestEveryRouteRefuses(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		} `json:"paths"`
	}
	f := newForeigners(t)
	raw, err := f.api.OpenAPI()
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
		rows["put-"+one] = route{roles: who[1], body: shopOf(info)}
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
			f.askAll(strings.ToUpper(method), path, r)
			asked++
		}
	}
	for id := range rows {
		t.Errorf("the access table has a row %q that no route has", id)
	}
	if asked < 60 {
		t.Errorf("%d routes asked", asked)
	}
	t.Logf("%d routes, %d requests of which %d were refused", asked, f.requests, f.refusals)
}

// shopOf is the document that a route of the kind is asked with. Those of projects are good: the site that they are of stands in them.
func shopOf(info intent.KindInfo) string {
	scope := map[intent.Scope]string{intent.ScopeSite: `,"site":"lon1"`, intent.ScopeProject: `,"project":"acme"`}[info.Scope]
	if info.Scope == intent.ScopeProject && info.NeedSite {
		scope += `,"site":"lon1"`
	}
	spec := map[intent.Kind]string{
		intent.KindNetwork: `{"subnetPool":"boot"}`, intent.KindSSHKey: `{"publicKey":"ssh-ed25519 AAAA ana"}`, intent.KindQuota: `{"offline":{}}`,
		intent.KindInstanceArray: `{"infrastructure":"shop","count":1,"machineType":"small","image":"tiny"}`,
	}[info.Kind]
	if spec == "" {
		spec = "{}"
	}
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":%q,"metadata":{"name":"shop"%s},"spec":%s}`, info.Kind, scope, spec)
}

// foreigners is a scene with, of each role, a user who is fine, and those who are not: NAME-WHY.
type foreigners struct {
	*scene
	catalog  *intent.Catalog
	revoked  []intent.Revocation
	requests int
	refusals int
}

func newForeigners(t *testing.T) *foreigners {
	t.Helper()
	f := &foreigners{scene: newScene(t)}
	past := time.Now().Add(-time.Second)
	f.m.change(func(c *intent.Catalog) {
		for _, info := range intent.Kinds() {
			if info.Scope == intent.ScopeProject {
				c.Put(object(t, shopOf(info)))
			}
		}
		for _, role := range intent.BuiltinRoles() {
			own := c.Get(intent.Key{Kind: intent.KindUser, Name: role}).Spec.(*intent.UserSpec).Bindings[0]
			add := func(why string, b intent.RoleBinding) (string, *intent.UserSpec) {
				o := f.user(role+"-"+why, b)
				c.Put(o)
				return o.Metadata.Name, o.Spec.(*intent.UserSpec)
			}
			_, expired := add("expired", own)
			expired.Tokens[0].Expires, expired.Keys[0].Expires = &past, &past
			name, revoked := add("revoked", own)
			f.revoked = append(f.revoked, intent.Revocation{Kind: intent.RevokeToken, ID: revoked.Tokens[0].ID},
				intent.Revocation{Kind: intent.RevokeSPKI, ID: intent.DigestOf(f.certs[name].RawSubjectPublicKeyInfo).Hex()})
			name, _ = add("gone", own)
			f.revoked = append(f.revoked, intent.Revocation{Kind: intent.RevokeUser, ID: name})
			add("project", intent.RoleBinding{Role: role, Project: "evil"})
			add("site", intent.RoleBinding{Role: role, Project: own.Project, Site: "par1"})
		}
	})
	f.user("stranger") // keeps token and key, and stands in no catalog
	f.catalog = f.m.c
	return f
}

// as sends one request by token or by certificate.
func (f *foreigners) as(user, by, method, path, body string) *httptest.ResponseRecorder {
	f.t.Helper()
	f.m.mu.Lock()
	f.m.c, f.m.calls, f.m.batches, f.m.notes, f.m.revoked = f.catalog, nil, nil, nil, slices.Clone(f.revoked)
	f.m.mu.Unlock()
	f.requests++
	if by == "token" {
		return f.ask(user, method, path, body)
	}
	return f.send(f.show(user, newRequest(method, path, body)))
}

// refused wants that the last request was refused, reached nobody and is in the audit log.
func (f *foreigners) refused(what, who string, w *httptest.ResponseRecorder, codes ...int) {
	f.t.Helper()
	f.refusals++
	if !slices.Contains(codes, w.Code) {
		f.t.Errorf("%s: answered %d %s, want %v", what, w.Code, w.Body, codes)
	}
	if f.reached() {
		f.t.Errorf("%s: reached the backend: %v", what, f.m.calls)
	}
	if len(f.m.notes) != 1 || f.m.notes[0].Result != intent.AuditRefused || (who != "" && f.m.notes[0].User != who) {
		f.t.Errorf("%s: the audit log has %+v, want one refusal of %q", what, f.m.notes, who)
	}
}

func (f *foreigners) reached() bool {
	return len(f.m.calls)+len(f.m.batches) > 0 || len(f.m.revoked) != len(f.revoked)
}

// askAll asks one route as everybody.
func (f *foreigners) askAll(method, path string, r route) {
	f.t.Helper()
	path = strings.NewReplacer("{site}", "lon1", "{machine}", "m1", "{agent}", "a9", "{user}", "member", "{project}", "acme", "{name}", "shop", "{scope}", map[bool]string{true: "acme", false: "lon1"}[strings.Contains(path, "/projects/{scope}")]).Replace(path)
	watch := strings.HasSuffix(path, "/watch") // never ends for who passes, and that is everybody with a credential: TestWatch
	if strings.HasSuffix(path, "/intent") {
		path += "?from=1"
	}
	if strings.HasSuffix(path, "/top") {
		path += "?count=1"
	}
	if path == "/v1/audit" {
		path += "?site=lon1"
	}
	at := func(what, by string) string { return fmt.Sprintf("%s %s, %s by %s", method, path, what, by) }
	if !r.open {
		f.refused(at("nobody", "nothing"), "", f.as("", "certificate", method, path, r.body), http.StatusUnauthorized)
		for _, header := range []string{"Bearer x", "Basic " + f.tokens["operator"]} {
			f.as("", "token", "GET", "/v1/info", "") // resets
			f.refused(at("a malformed header", "token"), "", f.send(newRequest(method, path, r.body, "Authorization", header)), http.StatusUnauthorized)
		}
		for _, by := range []string{"token", "certificate"} {
			f.refused(at("a stranger", by), "", f.as("stranger", by, method, path, r.body), http.StatusUnauthorized)
			for _, role := range strings.Fields(r.roles) {
				f.refused(at(role+"-expired", by), "", f.as(role+"-expired", by, method, path, r.body), http.StatusUnauthorized)
				f.refused(at(role+"-revoked", by), role+"-revoked", f.as(role+"-revoked", by, method, path, r.body), http.StatusUnauthorized)
				f.refused(at(role+"-gone", by), role+"-gone", f.as(role+"-gone", by, method, path, r.body), http.StatusUnauthorized)
			}
		}
	}
	if watch {
		return
	}
	for _, by := range []string{"token", "certificate"} {
		for _, role := range intent.BuiltinRoles() {
			w := f.as(role, by, method, path, r.body)
			switch passes := slices.Contains(strings.Fields(r.roles), role); {
			case passes && (w.Code == http.StatusUnauthorized || w.Code == http.StatusForbidden):
				f.t.Errorf("%s: answered %d, and the table lets it pass", at(role, by), w.Code)
			case !passes && r.list && w.Code != http.StatusOK:
				f.t.Errorf("%s: answered %d", at(role, by), w.Code)
			case !passes && !r.list:
				f.refused(at(role, by), role, w, http.StatusForbidden, http.StatusNotFound)
			}
			for _, why := range []string{"project", "site"} {
				f.elsewhere(method, path, r, role+"-"+why, by)
			}
		}
	}
}

// elsewhere asks as somebody whose role is one of another project or site: nothing of ours is done or shown.
func (f *foreigners) elsewhere(method, path string, r route, who, by string) {
	f.t.Helper()
	what := fmt.Sprintf("%s %s, %s by %s", method, path, who, by)
	w := f.as(who, by, method, path, r.body)
	switch {
	case r.open, strings.HasSuffix(path, "/whoami"): // which says who asks, and no more
	case r.list:
		body := w.Body.String()
		for _, ours := range []string{`"name":"shop"`, `"name":"acme"`, `"project":"acme"`, `"name":"m1"`, `"name":"bmc"`} {
			if w.Code != http.StatusOK || strings.Contains(body, ours) {
				f.t.Errorf("%s: answered %d and shows %s", what, w.Code, ours)
			}
		}
	case shared(path) && method == http.MethodGet: // everybody with a role may read the catalog; there is no such object
		if w.Code != http.StatusNotFound {
			f.t.Errorf("%s: answered %d", what, w.Code)
		}
	default:
		f.refused(what, who, w, http.StatusForbidden, http.StatusNotFound)
	}
}

func shared(path string) bool {
	return strings.HasPrefix(path, "/v1/images/") || strings.HasPrefix(path, "/v1/machinetypes/")
}

// A token and a certificate at once must name the same user; either that is no good spoils both.
func TestTwoCredentials(t *testing.T) {
	f := newForeigners(t)
	ask := func(token, cert string) *httptest.ResponseRecorder {
		t.Helper()
		f.as("", "token", "GET", "/v1/info", "") // resets
		return f.send(f.show(cert, newRequest(http.MethodGet, "/v1/whoami", "", "Authorization", "Bearer "+f.tokens[token])))
	}
	f.want(ask("member", "member"), http.StatusOK, `"User":"member"`)
	f.want(ask("member", "member"), http.StatusOK, `"Via":"token:`)
	f.want(ask("member", ""), http.StatusOK, `"Key":""`)
	for _, c := range [][2]string{{"member", "security"}, {"security", "member"}, {"stranger", "member"}, {"member", "stranger"}, {"member-expired", "member-expired"}, {"member", "member-revoked"}} {
		f.refused("token of "+c[0]+", certificate of "+c[1], "", ask(c[0], c[1]), http.StatusUnauthorized)
	}
	for _, o := range f.catalog.List(intent.KindUser) { // one good, the other revoked
		if o.Metadata.Name != "member" {
			continue
		}
		spec := o.Spec.(*intent.UserSpec)
		spki, err := spec.Keys[0].SPKI()
		if err != nil {
			t.Fatal(err)
		}
		f.revoked = append(f.revoked, intent.Revocation{Kind: intent.RevokeSPKI, ID: spki.Hex()})
	}
	f.refused("a good token with a revoked key", "member", ask("member", "member"), http.StatusUnauthorized)
	f.want(ask("member", ""), http.StatusOK, `"User":"member"`)
}

// A group's bindings count like the user's own, for each of its members and nobody else.
func TestGroupBindings(t *testing.T) {
	s := newScene(t)
	s.m.change(func(c *intent.Catalog) { c.Put(s.user("ana")) })
	get := func() *httptest.ResponseRecorder {
		return s.ask("ana", http.MethodGet, "/v1/projects/acme/infrastructures/shop", "")
	}
	s.want(get(), http.StatusNotFound, "not-found")
	s.m.change(func(c *intent.Catalog) {
		c.Put(object(t, `{"apiVersion":"skerry/v1","kind":"Group","metadata":{"name":"shop"},"spec":{"members":["bob"],"bindings":[{"role":"member","project":"acme"}]}}`))
	})
	s.want(get(), http.StatusNotFound, "not-found")
	s.m.change(func(c *intent.Catalog) {
		c.Put(object(t, `{"apiVersion":"skerry/v1","kind":"Group","metadata":{"name":"shop"},"spec":{"members":["bob","ana"],"bindings":[{"role":"member","project":"acme"}]}}`))
	})
	s.want(get(), http.StatusOK, `"name":"shop"`)
	s.want(s.ask("ana", http.MethodGet, "/v1/whoami", ""), http.StatusOK, `"role":"member"`)
}

// Every use of an emergency key is noted before the request is answered, whatever becomes of it.
func TestBreakGlassIsNoted(t *testing.T) {
	s := newScene(t)
	s.m.change(func(c *intent.Catalog) {
		o := s.user("bg", intent.RoleBinding{Role: "operator", Site: "lon1"}, intent.RoleBinding{Role: "security", Site: "lon1"})
		spec := o.Spec.(*intent.UserSpec)
		spec.Tokens, spec.BreakGlass = nil, true
		c.Put(o)
	})
	for _, path := range []string{"/v1/sites/lon1/machines/m1", "/v1/users/member"} {
		s.m.notes = nil
		s.send(s.show("bg", newRequest(http.MethodGet, path, "")))
		if len(s.m.notes) == 0 || s.m.notes[0].Verb != intent.AuditBreakGlass || s.m.notes[0].Object != "GET "+path || s.m.notes[0].User != "bg" {
			t.Errorf("%s: noted %+v", path, s.m.notes)
		}
	}
}

// A watch ends when the credential that began it is revoked.
func TestWatchEndsWithItsCredential(t *testing.T) {
	s := newScene(t)
	for _, by := range []string{"token", "certificate"} {
		r := s.show("", newRequest(http.MethodGet, "/v1/watch", "", "Authorization", "Bearer "+s.tokens["auditor"]))
		kind, id := intent.RevokeToken, strings.Split(s.tokens["auditor"], ".")[1]
		if by == "certificate" {
			r = s.show("security", newRequest(http.MethodGet, "/v1/watch", ""))
			kind, id = intent.RevokeSPKI, intent.DigestOf(s.certs["security"].RawSubjectPublicKeyInfo).Hex()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // far above one round
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.send(r.WithContext(ctx))
		}()
		s.m.mu.Lock()
		s.m.revoked = append(s.m.revoked, intent.Revocation{Kind: kind, ID: id})
		s.m.mu.Unlock()
		s.m.change(func(*intent.Catalog) {})
		select {
		case <-done:
		case <-ctx.Done():
			t.Errorf("a watch by %s goes on", by)
		}
		cancel()
	}
}

// Refusals are bounded per identity, and what is not kept is counted.
func TestAuditBound(t *testing.T) {
	var b AuditBound
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	admitted := func(who string, n int) (kept int, missed uint64) {
		for range n {
			m, ok := b.Admit(who, now)
			if ok {
				kept++
				missed += m
			}
		}
		return kept, missed
	}
	if kept, missed := admitted("", 1000); kept != auditBurst || missed != 0 {
		t.Errorf("kept %d, missed %d", kept, missed)
	}
	if kept, _ := admitted("ana", 5); kept != 5 {
		t.Errorf("a stranger's flood hides %d of ana's 5", 5-kept)
	}
	now = now.Add(auditEvery)
	if kept, missed := admitted("", 10); kept != 1 || missed != 1000-auditBurst {
		t.Errorf("after a minute: kept %d, missed %d", kept, missed)
	}
	now = now.Add(-time.Hour) // a clock that jumps back neither fills nor locks
	if kept, _ := admitted("", 10); kept != 0 {
		t.Errorf("a jump back lets %d pass", kept)
	}
	now = now.Add(2 * time.Hour)
	for i := range 2 * maxBound {
		b.Admit(fmt.Sprint(i), now)
	}
	if len(b.of) > maxBound+1 {
		t.Errorf("%d identities remembered", len(b.of))
	}
}

func TestAuditList(t *testing.T) {
	s := newScene(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	line := func(agent, user string, seq uint64, after time.Duration) AuditLine {
		b, err := json.Marshal(intent.AuditRecord{Site: "lon1", Agent: agent, Chain: "c", Seq: seq, Time: at.Add(after), User: user, Verb: "power on", Result: intent.AuditDone})
		if err != nil {
			t.Fatal(err)
		}
		return AuditLine{Record: b}
	}
	head := AuditLine{Head: &intent.Envelope{PayloadType: intent.PayloadAudit}}
	s.m.chains = []AuditLine{{Chain: &AuditChain{Agent: "a1"}}, line("a1", "ana", 1, 0), line("a1", "bob", 2, 2*time.Second), head, {Chain: &AuditChain{Agent: "a2"}}, line("a2", "ana", 1, time.Second)}
	f := func(query string, want ...string) {
		t.Helper()
		w := s.ask("auditor", http.MethodGet, "/v1/audit"+query, "")
		var got []string
		for l := range strings.Lines(w.Body.String()) {
			var a AuditLine
			var r intent.AuditRecord
			if json.Unmarshal([]byte(l), &a) == nil && json.Unmarshal(a.Record, &r) == nil {
				got = append(got, fmt.Sprintf("%s %d %s", r.Agent, r.Seq, r.User))
				continue
			}
			got = append(got, map[bool]string{true: "head", false: "chain"}[a.Head != nil])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q gives %q, want %q", query, got, want)
		}
	}
	f("", "a1 1 ana", "a2 1 ana", "a1 2 bob")
	f("?user=ana", "a1 1 ana", "a2 1 ana")
	f("?since=2026-01-02T03:04:06Z", "a2 1 ana", "a1 2 bob")
	f("?proofs=true", "chain", "a1 1 ana", "a1 2 bob", "head", "chain", "a2 1 ana")
	s.want(s.ask("auditor", http.MethodGet, "/v1/audit?since=yesterday", ""), http.StatusUnprocessableEntity, "RFC 3339")
}
