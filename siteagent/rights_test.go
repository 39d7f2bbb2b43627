package siteagent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/holdings"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// siteAPI is the API of an agent over the intent of a site that is cut off, without machines.
type siteAPI struct {
	*testing.T
	author  *sitetest.Author
	o       *overrides
	api     *api.API
	tokens  map[string]string
	certs   map[string]*x509.Certificate
	revoked intent.Head
}

func newSiteAPI(t *testing.T) *siteAPI {
	t.Helper()
	a, o, db := cutOffStore(t)
	b := &backend{
		info: api.Info{Role: "site", ID: "a1", Site: "lon1"}, w: o.w, db: db, over: o, audit: o.audit, floor: trust.NewFloor(time.Time{}, time.Time{}, nil),
		cutOff: func(context.Context) bool { return true }, assets: func() map[intent.Digest]holdings.Status { return nil },
	}
	return &siteAPI{T: t, author: a, o: o, api: api.New(b, slog.New(slog.DiscardHandler)), tokens: map[string]string{}, certs: map[string]*x509.Certificate{}}
}

// user makes the document of a user, and keeps the other halves of token and key.
func (s *siteAPI) user(name, bindings string, ttl time.Duration) string {
	s.Helper()
	now := time.Now()
	token, half := api.NewUserToken(max(ttl, 0), now)
	key := intent.UserKey{}
	if ttl != 0 {
		at := now.Add(ttl).UTC()
		half.Expires, key.Expires = &at, &at
	}
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		s.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, priv)
	if err != nil {
		s.Fatal(err)
	}
	if s.certs[name], err = x509.ParseCertificate(der); err != nil {
		s.Fatal(err)
	}
	s.tokens[name] = token
	key.Public = base64.StdEncoding.EncodeToString(s.certs[name].RawSubjectPublicKeyInfo)
	t, err1 := json.Marshal(half)
	k, err2 := json.Marshal(key)
	if err1 != nil || err2 != nil {
		s.Fatal(err1, err2)
	}
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"User","metadata":{"name":%q,"uid":"u-%s","generation":1},"spec":{"tokens":[%s],"keys":[%s],"bindings":[%s]}}`, name, name, t, k, bindings)
}

func (s *siteAPI) ask(user, by, method, path, body string) *httptest.ResponseRecorder {
	s.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.TLS = &tls.ConnectionState{}
	switch {
	case user == "":
	case by == "token":
		r.Header.Set("Authorization", "Bearer "+s.tokens[user])
	default:
		r.TLS.PeerCertificates = []*x509.Certificate{s.certs[user]}
	}
	w := httptest.NewRecorder()
	s.api.ServeHTTP(w, r)
	return w
}

func (s *siteAPI) revoke(entries ...intent.Revocation) {
	s.Helper()
	body := intent.RevocationBody{Header: document.Follow(s.revoked, intent.StreamRevocation, 1, time.Now()), Entries: entries}
	env := s.author.Sign(intent.PayloadRevocation, body, s.author.Writer)
	s.revoked = intent.Head{Epoch: 1, Seq: body.Seq, Hash: env.Digest()}
	if err := s.o.w.AddRevocations([]*intent.Envelope{env}); err != nil {
		s.Fatal(err)
	}
}

// records returns the agent's audit chain, verified.
func (s *siteAPI) records() (out []intent.AuditRecord) {
	s.Helper()
	var c document.AuditChain
	err := s.o.audit.Audit(s.Context(), nil, func(l api.AuditLine) error {
		if l.Chain != nil {
			c = document.AuditChain{Site: l.Chain.Site, Agent: l.Chain.Agent, Chain: l.Chain.Chain}
			return nil
		}
		r, err := c.Accept(l.Record)
		if err == nil {
			out = append(out, *r)
		}
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// The site's own rows of F20, offline: who may change a project's things here may, by token and by certificate; everybody else is
// refused, and both is in the agent's chain.
func TestSiteRights(t *testing.T) {
	s := newSiteAPI(t)
	const member = `{"role":"member","project":"acme","site":"lon1"}`
	receive(t, s.o, s.author.Put(
		s.user("ana", member, 0), s.user("bob", "", 0), s.user("late", member, -time.Second), s.user("robbed", member, 0), s.user("gone", member, 0),
		s.user("evil", `{"role":"member","project":"evil"}`, 0), s.user("par", `{"role":"member","project":"acme","site":"par1"}`, 0), s.user("reader", `{"role":"reader","project":"acme"}`, 0),
		`{"apiVersion":"skerry/v1","kind":"Group","metadata":{"name":"shop","uid":"g1","generation":1},"spec":{"members":["bob"],"bindings":[`+member+`]}}`,
	))
	s.revoke(intent.Revocation{Kind: intent.RevokeToken, ID: strings.Split(s.tokens["robbed"], ".")[1]}, intent.Revocation{Kind: intent.RevokeUser, ID: "gone"},
		intent.Revocation{Kind: intent.RevokeSPKI, ID: intent.DigestOf(s.certs["robbed"].RawSubjectPublicKeyInfo).Hex()})
	path, count := "/v1/projects/acme/instancearrays/web", 1
	change := func(user, by string, want ...int) {
		t.Helper()
		before := len(s.records())
		count = 3 - count // another content each time
		w := s.ask(user, by, http.MethodPut, path, strings.NewReplacer(`"uid":"ia-web",`, "").Replace(sitetest.ArrayDoc("web", 1, count)))
		if !slices.Contains(want, w.Code) {
			t.Errorf("%s by %s: answered %d %s, want %v", user, by, w.Code, w.Body, want)
		}
		rs := s.records()
		if len(rs) != before+1 {
			t.Fatalf("%s by %s: %d records, %d before", user, by, len(rs), before)
		}
		last := rs[len(rs)-1]
		switch {
		case w.Code == http.StatusOK && (last.Verb != "override" || last.User != user || !strings.HasPrefix(last.Via, map[string]string{"token": "token:", "certificate": "key:"}[by]) || len(last.Did) != 1):
			t.Errorf("%s by %s: the record is %+v", user, by, last)
		case w.Code != http.StatusOK && (last.Result != intent.AuditRefused || last.Object != path):
			t.Errorf("%s by %s: the record is %+v", user, by, last)
		}
		if w.Code != http.StatusOK {
			count = 3 - count
		}
	}
	for _, by := range []string{"token", "certificate"} {
		change("ana", by, http.StatusOK)
		change("bob", by, http.StatusOK)
		change("reader", by, http.StatusForbidden)
		change("par", by, http.StatusForbidden, http.StatusNotFound)
		change("evil", by, http.StatusForbidden, http.StatusNotFound)
		for _, who := range []string{"late", "robbed", "gone"} {
			change(who, by, http.StatusUnauthorized)
		}
	}
	change("", "nothing", http.StatusUnauthorized)

	// A record of the intent gone, and with it the key: the view of who may shake hands follows.
	admits := func() bool {
		return s.o.w.View().Admits(trust.Identity{Kind: trust.User, ID: "ana", SPKI: trust.SPKIOf(s.certs["ana"])})
	}
	if !admits() {
		t.Error("ana's key does not open a connection")
	}
	receive(t, s.o, s.author.Entry(intent.EntryTombstone, intent.TombstoneBody{Objects: []intent.TombstoneObject{{Kind: intent.KindUser, UID: "u-ana", Rev: 2}}}))
	if admits() {
		t.Error("ana's key opens a connection after she is gone")
	}
	change("ana", "certificate", http.StatusUnauthorized)
}

// An emergency key works with nobody above, for both of its roles, at its site; each use raises the alarm.
func TestBreakGlass(t *testing.T) {
	s := newSiteAPI(t)
	doc := s.user("bg-lon1", `{"role":"operator","site":"lon1"},{"role":"security","site":"lon1"}`, 0)
	i, j := strings.Index(doc, `"tokens"`), strings.Index(doc, `"keys"`)
	receive(t, s.o, s.author.Put(doc[:i]+`"breakGlass":true,`+doc[j:]))
	if w := s.ask("bg-lon1", "certificate", http.MethodGet, "/v1/sites/lon1/subnetpools/none", ""); w.Code != http.StatusNotFound {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	if w := s.ask("bg-lon1", "certificate", http.MethodGet, "/v1/audit", ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), intent.AuditBreakGlass) {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	if u := s.o.audit.Emergencies(); len(u) != 1 || u[0].User != "bg-lon1" || u[0].What != "GET /v1/audit" || s.o.audit.Uses() != 2 {
		t.Errorf("uses %+v, %d counted", u, s.o.audit.Uses())
	}
}
