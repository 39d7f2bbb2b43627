package api

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
)

var update = flag.Bool("update", false, "rewrite goldens")

// The description is a promise to everybody who generated a client from it.
func TestOpenAPI(t *testing.T) {
	got, err := New(newMemory(), slog.New(slog.DiscardHandler)).OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	golden := filepath.Join("testdata", "openapi.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("OpenAPI moved; when that was meant, run go test ./mesh/api -update and say so in CHANGELOG.md: -want +got\n%s", d)
	}
	s := newScene(t)
	w := s.ask("", http.MethodGet, "/v1/openapi.json", "")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"openapi":"3.1.0"`) {
		t.Errorf("/v1/openapi.json answers %d", w.Code)
	}
	if w := s.ask("", http.MethodGet, "/docs", ""); w.Code != http.StatusNotFound {
		t.Errorf("/docs answers %d: a page that loads foreign scripts", w.Code)
	}
}

// Every kind has its four routes.
func TestEveryKind(t *testing.T) {
	s := newScene(t)
	for _, info := range intent.Kinds() {
		s.want(s.ask("auditor", http.MethodGet, "/v1/"+info.Plural, ""), http.StatusOK, `"items":[`)
		item := CollectionPath(info, "none") + "/none"
		s.want(s.ask("auditor", http.MethodGet, item, ""), http.StatusNotFound, "not-found")
		s.want(s.ask("auditor", http.MethodDelete, item, ""), http.StatusForbidden, "forbidden") // whether it is there or not
		writer := strings.Fields(kindTable()[info.Kind][1])[0]
		item = CollectionPath(info, map[bool]string{true: "acme", false: "lon1"}[info.Scope == intent.ScopeProject]) + "/none"
		s.want(s.ask(writer, http.MethodPut, item, `{}`), http.StatusUnprocessableEntity, "apiVersion")
	}
}

func TestAuthentication(t *testing.T) {
	s := newScene(t)
	s.want(s.ask("", http.MethodGet, "/v1/info", ""), http.StatusOK, `"role":"coordinator"`)
	f := func(header string) {
		t.Helper()
		for _, p := range []string{"/v1/whoami", "/v1/machines", "/v1/watch"} {
			w := s.ask("", http.MethodGet, p, "", "Authorization", header)
			s.want(w, http.StatusUnauthorized, "unauthorized")
		}
	}
	good := s.tokens["reader"]
	f("")
	f(good)
	f("Basic " + good)
	f("Bearer " + good + "A")
	f("Bearer " + good[:len(good)-1])
	f("Bearer sku2" + good[4:])
	f("Bearer sku1.." + strings.Repeat("A", 43))
	f("Bearer " + strings.Repeat(".", 5000))
	f("Bearer " + strings.Replace(good, ".", ".0", 1)) // another id
	w := s.ask("reader", http.MethodGet, "/v1/whoami", "")
	s.want(w, http.StatusOK, `"User":"reader"`)
}

func TestTokenExpires(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	token, half := NewUserToken(time.Hour, now)
	c := intent.NewCatalog(&intent.Object{Kind: intent.KindUser, Metadata: intent.Metadata{Name: "ana"}, Spec: &intent.UserSpec{Tokens: []intent.UserToken{half}}})
	f := func(after time.Duration, ok bool) {
		t.Helper()
		if _, err := Authenticate(c, token, now.Add(after)); (err == nil) != ok {
			t.Errorf("after %s: %v", after, err)
		}
	}
	f(0, true)
	f(time.Hour-time.Second, true)
	f(time.Hour, false)
	f(1000*time.Hour, false)
}

// What somebody may not see is answered as if it were not there; what one may see but not change, as forbidden.
func TestForeignObjects(t *testing.T) {
	s := newScene(t)
	s.want(s.ask("member", http.MethodGet, "/v1/projects/acme/infrastructures/shop", ""), http.StatusOK, `"shop"`)
	s.want(s.ask("member", http.MethodGet, "/v1/projects/evil/infrastructures/lair", ""), http.StatusNotFound, "not-found")
	s.want(s.ask("member", http.MethodDelete, "/v1/projects/evil/infrastructures/lair", ""), http.StatusNotFound, "not-found")
	s.want(s.ask("member", http.MethodPut, "/v1/projects/evil/infrastructures/lair", docOther), http.StatusNotFound, "not-found")
	s.want(s.ask("member", http.MethodPost, "/v1/apply", `{"objects":[`+docInfra+`,`+docOther+`]}`), http.StatusNotFound, "not-found")
	s.want(s.ask("reader", http.MethodPut, "/v1/projects/acme/infrastructures/shop", docInfra), http.StatusForbidden, "skerry whoami")
	s.want(s.ask("member", http.MethodGet, "/v1/sites/lon1/machines/m1", ""), http.StatusNotFound, "not-found")
	s.want(s.ask("operator", http.MethodPut, "/v1/users/member", `{"apiVersion":"skerry/v1","kind":"User","metadata":{"name":"member"},"spec":{"bindings":[{"role":"security"}]}}`), http.StatusForbidden, "forbidden")
	w := s.ask("member", http.MethodGet, "/v1/infrastructures", "")
	s.want(w, http.StatusOK, "shop")
	if strings.Contains(w.Body.String(), "lair") {
		t.Errorf("a list shows a foreign object: %s", w.Body)
	}
	if len(s.m.batches) != 0 {
		t.Errorf("a refused write reached the backend: %+v", s.m.batches)
	}
}

func TestSecretsAreNeverReturned(t *testing.T) {
	s := newScene(t)
	for _, p := range []string{"/v1/secrets", "/v1/sites/lon1/secrets/bmc"} {
		w := s.ask("security", http.MethodGet, p, "")
		s.want(w, http.StatusOK, `"type":"opaque"`)
		if strings.Contains(w.Body.String(), "hunter2") {
			t.Errorf("%s tells a secret: %s", p, w.Body)
		}
	}
	if text := watchUntilSynced(t, s, "security", "?kind=Secret"); strings.Contains(text, "hunter2") || !strings.Contains(text, `"bmc"`) {
		t.Errorf("a watch says %s", text)
	}
}

func TestConditionalWrites(t *testing.T) {
	s := newScene(t)
	const item = "/v1/projects/acme/infrastructures/shop"
	tag := s.ask("member", http.MethodGet, item, "").Header().Get("ETag")
	if tag != `"u-shop.1"` {
		t.Fatalf("ETag is %s", tag)
	}
	s.want(s.ask("member", http.MethodPut, item, docInfra, "If-Match", `"u-shop.7"`), http.StatusPreconditionFailed, "changed meanwhile")
	s.want(s.ask("member", http.MethodPut, item, docInfra, "If-None-Match", "*"), http.StatusPreconditionFailed, "changed meanwhile")
	s.want(s.ask("member", http.MethodPut, item, docInfra, "If-Match", tag), http.StatusOK, `"action":"changed"`)
	s.want(s.ask("member", http.MethodDelete, item, "", "If-Match", tag), http.StatusPreconditionFailed, "changed meanwhile")
	s.want(s.ask("member", http.MethodDelete, item, "", "If-Match", `"u-shop.2"`), http.StatusOK, `"action":"deleted"`)
	s.want(s.ask("member", http.MethodGet, item, ""), http.StatusNotFound, "not-found")
	s.want(s.ask("member", http.MethodPut, item, docInfra, "If-Match", "*"), http.StatusPreconditionFailed, "changed meanwhile")
	s.want(s.ask("member", http.MethodPut, item, docInfra, "If-None-Match", "*"), http.StatusOK, `"action":"created"`)
}

func TestDryRunAndReason(t *testing.T) {
	s := newScene(t)
	const item = "/v1/projects/acme/infrastructures/shop"
	s.want(s.ask("member", http.MethodDelete, item+"?dryRun=true&reason=spring", ""), http.StatusOK, `"action":"deleted"`)
	s.want(s.ask("member", http.MethodGet, item, ""), http.StatusOK, "shop")
	s.want(s.ask("member", http.MethodPost, "/v1/apply?dryRun=true", `{"objects":[`+docInfra+`]}`), http.StatusOK, `"action":"changed"`)
	if b := s.m.batches; len(b) != 2 || !b[0].DryRun || b[0].Reason != "spring" || !b[1].DryRun || len(b[1].Put) != 1 {
		t.Errorf("the backend got %+v", b)
	}
	s.want(s.ask("member", http.MethodDelete, item+"?dryrun=true", ""), http.StatusUnprocessableEntity, "dryrun") // a typing error must not delete
	s.want(s.ask("member", http.MethodGet, item, ""), http.StatusOK, "shop")
}

func TestBadBodies(t *testing.T) {
	s := newScene(t)
	const item = "/v1/projects/acme/infrastructures/shop"
	f := func(body string, status int, text string) {
		t.Helper()
		s.want(s.ask("member", http.MethodPut, item, body), status, text)
	}
	f(strings.Replace(docInfra, `"spec":{}`, `"spec":{"colour":"red"}`, 1), 422, "spec.colour")
	f(strings.Replace(docInfra, `"shop"`, `"Shop"`, 1), 422, "metadata.name")
	f(strings.Replace(docInfra, `"shop"`, `"other"`, 1), 422, "make them agree")
	f(`[`, 422, "ends too early")
	f(strings.Repeat(" ", intent.MaxObjectSize+1), 413, "")
	s.want(s.ask("member", http.MethodPost, "/v1/apply", `{"objects":[],"more":1}`), 422, "unknown field")
	w := s.ask("member", http.MethodPost, "/v1/apply", `{"objects":[`+docInfra+`,`+strings.Replace(docInfra, `"spec":{}`, `"spec":{"x":1}`, 1)+`]}`)
	s.want(w, 422, `"name":"shop"`) // the object is named
	s.want(w, 422, "spec.x")
	s.want(s.ask("member", http.MethodPost, "/v1/apply", strings.Repeat(" ", maxBatch+1)), 413, "")
	if len(s.m.batches) != 0 {
		t.Errorf("bad input reached the backend: %+v", s.m.batches)
	}
}

// An error that is not the caller's is a 500 with its words; one with a type keeps it.
func TestBackendErrors(t *testing.T) {
	s := newScene(t)
	f := func(err error, status int, text string) {
		t.Helper()
		s.m.fail = err
		s.want(s.ask("operator", http.MethodPut, "/v1/sites/lon1", docSite), status, text)
		s.want(s.ask("operator", http.MethodGet, "/v1/sites/lon1/status", ""), status, text)
		s.want(s.ask("operator", http.MethodGet, "/v1/sites/lon1/events", ""), status, text)
		s.want(s.ask("operator", http.MethodGet, "/v1/sites/lon1/intent?from=1", ""), status, text)
	}
	f(errBroken, 500, "the disk is on fire")
	f(ErrElsewhere, 409, "--context")
	f(ErrUnreachable, 503, "ask an agent of the site")
	f(ErrFull, 507, "free space")
	f(Refuse("no"), 409, "refused")
}

func TestActions(t *testing.T) {
	s := newScene(t)
	const m1 = "/v1/sites/lon1/machines/m1/"
	f := func(role, method, path, body string, status int, call string) {
		t.Helper()
		s.m.calls = nil
		w := s.ask(role, method, path, body)
		if w.Code != status {
			t.Errorf("%s %s by %s answers %d %s, want %d", method, path, role, w.Code, w.Body, status)
		}
		if got := strings.Join(s.m.calls, "; "); got != call {
			t.Errorf("%s %s by %s called %q, want %q", method, path, role, got, call)
		}
	}
	f("operator", "POST", m1+"power", `{"action":"cycle"}`, 200, "power lon1 m1 cycle by operator")
	f("auditor", "POST", m1+"power", `{"action":"status"}`, 200, "power lon1 m1 status by auditor")
	f("auditor", "POST", m1+"power", `{"action":"off"}`, 403, "")
	f("member", "POST", m1+"power", `{"action":"off"}`, 404, "")
	f("operator", "POST", m1+"power", `{"action":"explode"}`, 422, "")
	f("operator", "POST", m1+"power", `{"action":"on","force":true}`, 422, "")
	f("operator", "POST", m1+"release", "", 204, "release lon1 m1 by operator")
	f("security", "POST", m1+"release", "", 403, "")
	f("operator", "POST", m1+"clear", `{"reason":"disk swapped"}`, 204, "clear lon1 m1 disk swapped by operator")
	f("operator", "POST", m1+"clear", `{"reason":""}`, 422, "")
	f("security", "POST", m1+"clear", `{"reason":"disk swapped"}`, 403, "")
	f("operator", "GET", m1+"explain", "", 200, "explain lon1 m1")
	f("member", "GET", m1+"explain", "", 404, "")
	f("operator", "GET", "/v1/sites/lon1/status", "", 200, "status lon1")
	f("member", "GET", "/v1/sites/lon1/status", "", 404, "")
	f("operator", "POST", "/v1/sites/lon1/jointokens", `{"agent":"a1","ttl":"1h"}`, 200, "jointoken lon1 a1 1h by operator")
	f("security", "POST", "/v1/sites/lon1/jointokens", `{"agent":"a1"}`, 403, "")
	f("security", "POST", "/v1/users/member/tokens", `{}`, 200, "usertoken member  by security")
	f("operator", "POST", "/v1/users/member/tokens", `{}`, 403, "")
	f("member", "POST", "/v1/users/member/tokens", `{}`, 404, "")
	f("operator", "PUT", "/v1/assets/tiny/content?class=boot", "bytes", 201, "upload tiny boot 5 by operator")
	f("operator", "PUT", "/v1/assets/tiny/content", "bytes", 201, "upload tiny image 5 by operator")
	f("operator", "PUT", "/v1/assets/Tiny/content", "bytes", 422, "")
	f("member", "PUT", "/v1/assets/tiny/content", "bytes", 404, "")
	f("operator", "GET", "/v1/sites/lon1/events?machine=m1&since=2026-01-02T03:04:05Z", "", 200, "events lon1 m1 false 2026-01-02T03:04:05Z")
	f("operator", "GET", "/v1/sites/lon1/events?since=yesterday", "", 422, "")
	f("member", "GET", "/v1/sites/lon1/events", "", 404, "")
	f("member", "GET", "/v1/sites/lon1/intent?from=1", "", 404, "")
	f("operator", "GET", "/v1/sites/lon1/intent?from=0", "", 422, "")
	f("operator", "GET", "/v1/sites/lon1/intent?from=1&wait=x", "", 422, "")
	f("operator", "GET", "/v1/watch?kind=Planet", "", 422, "")
}

// watchUntilSynced returns the lines of a watch up to "synced".
func watchUntilSynced(t *testing.T, s *scene, role, query string) string {
	t.Helper()
	srv := httptest.NewServer(s.api)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sc, done := watch(ctx, t, srv.URL, s.tokens[role], query)
	defer done()
	var b strings.Builder
	for sc.Scan() {
		b.WriteString(sc.Text() + "\n")
		if strings.Contains(sc.Text(), `"synced"`) {
			return b.String()
		}
	}
	t.Fatalf("the watch ended before it was synced: %s", b.String())
	return ""
}

func watch(ctx context.Context, t *testing.T, url, token, query string) (*bufio.Scanner, func()) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/watch"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return bufio.NewScanner(res.Body), func() { res.Body.Close() }
}

func TestWatch(t *testing.T) {
	s := newScene(t)
	srv := httptest.NewServer(s.api)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sc, done := watch(ctx, t, srv.URL, s.tokens["member"], "?kind=Infrastructure")
	defer done()
	next := func() string {
		t.Helper()
		if !sc.Scan() {
			t.Fatalf("the watch ended: %v", sc.Err())
		}
		var c Change
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if c.Object == nil {
			return c.Type
		}
		return c.Type + " " + c.Object.Key().String()
	}
	var got []string
	got = append(got, next(), next())
	s.m.change(func(c *intent.Catalog) { // a foreign change and one of another kind stay unseen
		c.Put(object(t, strings.Replace(docOther, `{}`, `{"description":"deep"}`, 1)))
		c.Put(object(t, docMachine))
		o := object(t, strings.Replace(docInfra, "shop", "shop2", 1))
		c.Put(o)
	})
	got = append(got, next())
	s.m.change(func(c *intent.Catalog) { c.Delete(object(t, docInfra).Key()) })
	got = append(got, next())
	if d := cmp.Diff([]string{"put Infrastructure acme/shop", "synced", "put Infrastructure acme/shop2", "delete Infrastructure acme/shop"}, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestIntentFeedWaits(t *testing.T) {
	s := newScene(t)
	s.m.feed = []*intent.Envelope{{PayloadType: "one"}, {PayloadType: "two"}}
	w := s.ask("operator", http.MethodGet, "/v1/sites/lon1/intent?from=2", "")
	if w.Code != 200 || strings.Count(w.Body.String(), "\n") != 1 || !strings.Contains(w.Body.String(), "two") {
		t.Errorf("from=2 answers %d %s", w.Code, w.Body)
	}
	if w := s.ask("operator", http.MethodGet, "/v1/sites/lon1/intent?from=3&wait=1ms", ""); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("nothing new answers %d %s", w.Code, w.Body)
	}
	srv := httptest.NewServer(s.api)
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/sites/lon1/intent?from=3&wait=20s", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.tokens["operator"])
	answer := make(chan string, 1)
	go func() {
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	s.m.change(func(*intent.Catalog) { s.m.feed = append(s.m.feed, &intent.Envelope{PayloadType: "three"}) })
	if got := <-answer; !strings.Contains(got, "three") {
		t.Errorf("the long poll answers %q", got)
	}
}
