package coordinator

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/coordinator/secrets"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/seal"
)

func (s *scene) revoke(kind intent.RevocationKind, id string, dry bool) (*api.RevokeResult, error) {
	return s.backend.Revoke(s.Context(), s.admin, api.RevokeRequest{Kind: string(kind), ID: id, Reason: "stolen", DryRun: dry})
}

// A revoked agent leaves the roster for ever, by name and by key; the site gets a new boot key, sealed to who is left, and the
// answer says what the thief could read. It is so after a restart too.
func TestRevokeAgent(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	a1 := s.join("lon1", "a1")
	a2 := s.join("lon1", "a2")
	s.sync("lon1")
	first := s.told("lon1", "a1", a1)[secrets.BootKey]
	if first == "" || first != s.told("lon1", "a2", a2)[secrets.BootKey] {
		t.Fatalf("the boot key of a1 is %q", first)
	}
	res, err := s.revoke(intent.RevokeAgent, "lon1/a2", true)
	if err != nil || res.Head.Seq != 0 || !cmp.Equal(res.Exposed, []string{"bmc"}) || len(res.Entries) != 2 {
		t.Errorf("the dry run says %+v, %v", res, err)
	}
	head := s.sync("lon1")
	for range 2 { // the same wish again adds nothing
		res, err = s.revoke(intent.RevokeAgent, "lon1/a2", false)
		if err != nil || res.Head.Seq != 1 || !cmp.Equal(res.Exposed, []string{"bmc"}) {
			t.Fatalf("revoke says %+v, %v", res, err)
		}
	}
	for restarted := range 2 {
		if s.object(intent.KindAgent, "lon1", "a2") != nil {
			t.Error("a2 is an object still")
		}
		if s.sync("lon1") == head {
			t.Error("the chain is silent about it")
		}
		if r, err := s.agents.Roster(t.Context(), "lon1"); err != nil || len(r.Agents) != 1 || r.Agents[0].ID != "a1" {
			t.Errorf("the roster has %d agents, %v; want a1 alone", len(r.Agents), err)
		}
		now := s.told("lon1", "a1", a1)[secrets.BootKey]
		if now == first || !strings.HasPrefix(now, "2 ") {
			t.Errorf("a1's boot key is version %.1s, want 2", now)
		}
		if got := s.told("lon1", "a2", a2)[secrets.BootKey]; got != first {
			t.Errorf("a2 reads boot key %q after it was revoked", got)
		}
		if !s.revoker.stream.Has(intent.RevokeAgent, "lon1/a2") || s.view.View().Revoked.Len() != 2 {
			t.Errorf("a2 speaks on: %d revoked", s.view.View().Revoked.Len())
		}
		if restarted == 0 {
			s.restart()
		}
	}
	if got := s.audited("revoke"); !cmp.Equal(got, []string{"admin agent lon1/a2 done stolen", "admin agent lon1/a2 done stolen"}) {
		t.Errorf("the audit chain says %q", got)
	}
	var seqs []uint64
	chain := document.RevocationChain{Writers: s.trust.Body().Writers}
	err = s.revoker.stream.Feed(t.Context(), 1, func(env *intent.Envelope) error {
		b, err := chain.Accept(env)
		if err == nil {
			seqs = append(seqs, b.Seq)
		}
		return err
	})
	if err != nil || !cmp.Equal(seqs, []uint64{1}) {
		t.Errorf("the stream holds %v, %v", seqs, err)
	}
}

// What was revoked does not join again, neither under its name nor with its key.
func TestRevokedDoesNotJoinAgain(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	keys := s.join("lon1", "a2")
	if _, err := s.revoke(intent.RevokeAgent, "lon1/a2", false); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a2", "a3"} {
		if err := s.admit("lon1", id, keys); err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("keys that were revoked join as %s: %v", id, err)
		}
	}
	s.join("lon1", "a3")
}

// A revoked token and a revoked user are refused by the API at once, others are not; what does not exist is not revoked.
func TestRevokeUserAndToken(t *testing.T) {
	s := found1(t)
	s.apply(`{"kind":"User","metadata":{"name":"ana"},"spec":{"bindings":[{"role":"auditor"}]}}`)
	token := func() (string, string) {
		t.Helper()
		r, err := s.backend.UserToken(t.Context(), s.admin, "ana", api.UserTokenRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Token, strings.Split(r.Token, ".")[1]
	}
	one, id := token()
	two, _ := token()
	asks := func(token string) error {
		_, err := s.serverFor(token).Whoami(t.Context())
		return err
	}
	f := func(kind intent.RevocationKind, id string, want error) {
		t.Helper()
		if _, err := s.revoke(kind, id, false); !errors.Is(err, want) {
			t.Errorf("revoke %s %s: %v, want %v", kind, id, err, want)
		}
	}
	f(intent.RevokeToken, "nosuch", api.ErrNotFound)
	f(intent.RevokeUser, "nosuch", api.ErrNotFound)
	f(intent.RevokeAgent, "lon1/nosuch", api.ErrNotFound)
	if _, err := s.revoke(intent.RevokeSPKI, "ABC", false); err == nil {
		t.Error("a key that is no hash is revoked")
	}
	f(intent.RevokeToken, id, nil)
	if asks(one) == nil || asks(two) != nil {
		t.Errorf("with one token revoked: %v and %v", asks(one), asks(two))
	}
	f(intent.RevokeUser, "ana", nil)
	if asks(two) == nil || asks(s.token) != nil {
		t.Errorf("with the user revoked: %v; the administrator: %v", asks(two), asks(s.token))
	}
}

// A spare waits in the roster and is told the secrets; its admission makes it an agent and takes out whom it replaced, once.
func TestSpareIsSeated(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	s.join("lon1", "a2")
	keys, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	ans, err := s.grant(join.Grant{Site: "lon1", Agent: "s1", Spare: true}, keys)
	if err != nil {
		t.Fatal(err)
	}
	if ans.Roster.State != intent.StateSpare || len(ans.Peers) != 2 {
		t.Errorf("the spare is rostered as %q with %d peers", ans.Roster.State, len(ans.Peers))
	}
	s.sync("lon1")
	if got := s.told("lon1", "s1", keys)["bmc"]; !strings.Contains(got, password) {
		t.Errorf("the spare is told %q", got)
	}
	roster := func() string {
		t.Helper()
		s.sync("lon1")
		r, err := s.agents.Roster(t.Context(), "lon1")
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, a := range r.Agents {
			out = append(out, a.ID+":"+a.State)
		}
		return strings.Join(out, " ")
	}
	if got := roster(); got != "a1:agent a2:agent s1:spare" {
		t.Errorf("roster %s", got)
	}
	admission := func(by *seal.Keys) *intent.Envelope {
		t.Helper()
		a := intent.Admission{Site: "lon1", Spare: "s1", Replaces: "a2", Addr: []string{"10.99.1.19:7444"}, Boot: []string{"10.88.0.19"}}
		env, err := document.Sign(intent.PayloadAdmission, marshal(t, a), by.Sign)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	stranger, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.backend.Admit(t.Context(), "lon1", admission(stranger)); err == nil {
		t.Error("a stranger's admission is taken")
	}
	if err := s.backend.Admit(t.Context(), "par1", admission(keys)); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("at a site without agents: %v", err)
	}
	s.backend.connected = func(site, agent string) bool { return site == "lon1" && agent == "a2" }
	if err := s.backend.Admit(t.Context(), "lon1", admission(keys)); err == nil || !strings.Contains(err.Error(), "connected") {
		t.Errorf("a lost kit takes the place of an agent that is connected: %v", err)
	}
	if got := roster(); got != "a1:agent a2:agent s1:spare" {
		t.Errorf("roster %s", got)
	}
	s.backend.connected = func(string, string) bool { return false }
	said := func(a2 intent.AgentReport) bool {
		t.Helper()
		a2.ID = "a2"
		if err := s.objects.setReport(t.Context(), "lon1", intent.Report{Agent: "a1", Agents: []intent.AgentReport{{ID: "a1", Alive: "yes"}, a2}}, s.objects.now()); err != nil {
			t.Fatal(err)
		}
		return s.objects.sees("lon1", "a2")
	}
	if said(intent.AgentReport{Alive: "yes", Barred: "in quarantine"}) || said(intent.AgentReport{Alive: "no"}) || !said(intent.AgentReport{Alive: "yes"}) {
		t.Error("who is alive as the site says, and counts there, is another one")
	}
	if err := s.backend.Admit(t.Context(), "lon1", admission(keys)); err == nil || !strings.Contains(err.Error(), "connected") {
		t.Errorf("a lost kit takes the place of an agent that is alive, as its site says: %v", err)
	}
	now := s.objects.now
	s.objects.now = func() time.Time { return now().Add(reportCounts) }
	for range 2 {
		if err := s.backend.Admit(t.Context(), "lon1", admission(keys)); err != nil {
			t.Fatal(err)
		}
		if got := roster(); got != "a1:agent s1:agent" {
			t.Errorf("roster %s", got)
		}
	}
	if spec := s.object(intent.KindAgent, "lon1", "s1").Spec.(*intent.AgentSpec); spec.Management != "10.99.1.19:7444" || spec.Spare {
		t.Errorf("the object of the spare is %+v", spec)
	}
	if _, err := s.grant(join.Grant{Site: "lon1", Agent: "a1", Spare: true}, stranger); err == nil {
		t.Error("an agent's name is given to a spare")
	}
}
