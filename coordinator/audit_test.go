package coordinator

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// chains verifies every chain that the coordinator gives out as `skerry audit verify` does, and returns their records.
func (s *scene) auditChains(site string) map[string][]intent.AuditRecord {
	s.Helper()
	out := map[string][]intent.AuditRecord{}
	var c document.AuditChain
	var keys []ed25519.PublicKey
	err := s.backend.Audit(s.Context(), site, func(l api.AuditLine) error {
		switch {
		case l.Chain != nil:
			c, keys = document.AuditChain{Site: l.Chain.Site, Agent: l.Chain.Agent, Chain: l.Chain.Chain}, nil
			out[c.String()] = nil
			for _, der := range l.Chain.Keys {
				k, err := document.ParseKey(der)
				if err != nil {
					return err
				}
				keys = append(keys, k)
			}
		case l.Head != nil:
			h, err := document.OpenAuditHead(l.Head, keys)
			if err != nil {
				return err
			}
			return c.Sealed(h)
		default:
			r, err := c.Accept(l.Record)
			if err != nil {
				return err
			}
			out[c.String()] = append(out[c.String()], *r)
		}
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// audited returns the coordinator's own records with the verb, one a line.
func (s *scene) audited(verb string) (out []string) {
	s.Helper()
	for _, r := range s.auditChains("")["c1"] {
		if r.Verb == verb {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.User, r.Object, r.Result, r.Reason)))
		}
	}
	return out
}

// Each write is in the chain with who did it, in the same commit; the chain goes on over a restart, and its heads hold.
func TestWritesAreAudited(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	if err := s.audit.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.backend.JoinToken(t.Context(), s.admin, "lon1", api.JoinTokenRequest{Agent: "a7"}); err != nil {
		t.Fatal(err)
	}
	s.restart()
	s.join("lon1", "a1")
	if _, err := s.revoke(intent.RevokeAgent, "lon1/a1", false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.audit.Seal(t.Context()); err != nil { // the second time there is nothing to sign
			t.Fatal(err)
		}
	}
	rs := s.auditChains("")["c1"]
	var got []string
	for _, r := range rs {
		got = append(got, fmt.Sprintf("%s by %s, %d objects", r.Verb, strings.Split(r.Via, ":")[0], len(r.Did)))
	}
	want := "apply by token, 11 objects\ntoken by token, 0 objects\napply by join token, 1 objects\nrevoke by token, 0 objects\napply by revocation, 1 objects"
	if strings.Join(got, "\n") != want {
		t.Errorf("the chain holds\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	if d := rs[0].Did[0]; d.Object.String() != "Site lon1" || d.Action != "created" || rs[0].User != "admin" {
		t.Errorf("the first record is %+v", rs[0])
	}
	heads := 0
	err := s.store.Range(t.Context(), "audithead/", "", func(store.Entry) error { heads++; return nil })
	if err != nil || heads != 2 {
		t.Errorf("%d heads, %v; want 2", heads, err)
	}
}

// A write that does not happen leaves no record, and a record that cannot be kept stops the write.
func TestNoWriteWithoutRecord(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	before := len(s.auditChains("")["c1"])
	batch := api.Batch{Delete: []intent.Key{{Kind: intent.KindProject, Name: "acme"}}}
	if _, err := s.backend.Apply(t.Context(), s.admin, batch); err == nil {
		t.Fatal("a project that is in use was deleted")
	}
	if n := len(s.auditChains("")["c1"]); n != before {
		t.Errorf("%d records after a refused batch, %d before", n, before)
	}
	err := s.audit.Write(t.Context(), intent.AuditRecord{Verb: "x"}, func(line store.Commit) error {
		// Somebody else writes the chain meanwhile: two processes of one id.
		if _, err := s.store.Commit(t.Context(), store.Commit{Put: map[string][]byte{"auditstate/-/c1": []byte(`{}`)}}); err != nil {
			t.Fatal(err)
		}
		_, err := s.store.Commit(t.Context(), auditlog.Merge(store.Commit{Put: map[string][]byte{"marker": []byte("1")}}, line))
		return err
	})
	if _, gerr := s.store.Get(t.Context(), "marker"); !errors.Is(err, store.ErrConflict) || !errors.Is(gerr, store.ErrAbsent) {
		t.Errorf("a chain that another process writes: %v; the write: %v", err, gerr)
	}
}

// A refusal is kept in the audit log, within a bound so that strangers cannot fill the store: joins, handshakes, requests.
func TestRefusalsAreAudited(t *testing.T) {
	s := found1(t)
	s.apply(`{"kind":"User","metadata":{"name":"ana"},"spec":{"bindings":[{"role":"auditor"}]}}`)
	for range 500 {
		s.refused(t.Context(), "192.0.2.1:4711", "join", errors.New("token not accepted"))
	}
	if n := len(s.audited("join")); n == 0 || n > 100 {
		t.Errorf("%d records of 500 refused joins", n)
	}
	tok, err := s.backend.UserToken(t.Context(), s.admin, "ana", api.UserTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.serverFor(tok.Token).Apply(t.Context(), []json.RawMessage{[]byte(`{"apiVersion":"skerry/v1","kind":"Role","metadata":{"name":"r"},"spec":{"rules":[{"verbs":["read"],"kinds":["Network"]}]}}`)}, false, ""); err == nil {
		t.Fatal("an auditor made a role")
	}
	if got := s.audited(http.MethodPost); len(got) != 1 || got[0] != "ana /v1/apply refused the caller's roles do not allow it" {
		t.Errorf("the refused request is %q", got)
	}
}

// siteLog is an agent's chain as a test brings it up.
type siteLog struct {
	*scene
	agent string
	key   ed25519.PrivateKey
	chain document.AuditChain
	raws  []json.RawMessage
	ends  []document.AuditChain
}

func (l *siteLog) add(n int) *siteLog {
	l.Helper()
	for range n {
		raw, err := l.chain.Next(intent.AuditRecord{Time: time.Now(), User: "ana", Via: "token:k3p9", Verb: "power on", Result: intent.AuditDone})
		if err != nil {
			l.Fatal(err)
		}
		l.raws, l.ends = append(l.raws, raw), append(l.ends, l.chain)
	}
	return l
}

// bundle is the records from to to (from 1), under a head that names the last.
func (l *siteLog) bundle(from, to int) intent.AuditBundle {
	l.Helper()
	env, err := l.ends[to-1].Seal(l.key, time.Now())
	if err != nil {
		l.Fatal(err)
	}
	return intent.AuditBundle{Agent: l.agent, Chain: l.chain.Chain, Records: l.raws[from-1 : to], Head: env}
}

func (l *siteLog) clone() *siteLog {
	c := *l
	c.raws, c.ends = append([]json.RawMessage(nil), l.raws...), append([]document.AuditChain(nil), l.ends...)
	return &c
}

// The chains of a site join the coordinator's, whoever carries them, once they are sealed by their agent; what is missing or forked
// is told and never taken.
func TestSiteChainsJoin(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	k1, k2 := s.join("lon1", "a1"), s.join("lon1", "a2")
	log := func(chain string) *siteLog {
		return &siteLog{scene: s, agent: "a1", key: k1.Sign, chain: document.AuditChain{Site: "lon1", Agent: "a1", Chain: chain}}
	}
	l := log("one").add(6)
	join := func(what, from string, b intent.AuditBundle, want error) {
		t.Helper()
		err := s.audit.Join(t.Context(), "lon1", from, b)
		if (want == nil) != (err == nil) || want != nil && want != errAny && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	count := func(want int) {
		t.Helper()
		if n := len(s.auditChains("lon1")["lon1/a1"]); n != want {
			t.Errorf("%d records of lon1/a1, want %d", n, want)
		}
	}
	join("the first two", "a1", l.bundle(1, 2), nil)
	join("the same again", "a1", l.bundle(1, 2), nil)
	join("an overlap, by a peer", "a2", l.bundle(2, 3), nil)
	count(3)

	foreign := l.bundle(4, 4)
	foreign.Head = l.clone().sealedBy(k2.Sign, 4)
	join("sealed by another agent", "a2", foreign, document.ErrSignature)
	early := l.bundle(4, 5)
	early.Head = l.bundle(4, 4).Head
	join("a head of another record", "a1", early, document.ErrUnsealed)
	altered := l.bundle(4, 4)
	altered.Records = []json.RawMessage{bytes.Replace(altered.Records[0], []byte("ana"), []byte("bob"), 1)}
	join("an altered record", "a1", altered, document.ErrUnsealed)
	moved := l.bundle(4, 4)
	moved.Agent = "a2"
	join("in another's name", "a1", moved, document.ErrSignature)
	join("nothing", "a1", intent.AuditBundle{Agent: "a1", Chain: "one", Head: l.bundle(1, 1).Head}, errAny)
	join("a gap, by a peer", "a2", l.bundle(5, 6), auditlog.ErrBroken)
	count(3)
	join("and the chain goes on", "a1", l.bundle(4, 4), nil)
	count(4)

	fork := log("one")
	fork.raws, fork.ends, fork.chain = l.clone().raws[:3], l.clone().ends[:3], l.ends[2]
	fork.add(2)
	join("a fork", "a1", fork.bundle(4, 5), auditlog.ErrBroken)
	join("the true one after it", "a1", l.bundle(5, 6), auditlog.ErrBroken)
	count(4)
	if got := s.audited("audit.join"); len(got) != 3 || got[1] != "a1 chain lon1/a1/one refused it forked at record 4" {
		t.Errorf("the coordinator's own chain says %q", got)
	}
	places, err := s.audit.Places(t.Context(), "lon1")
	if err != nil || len(places) != 1 || places[0].Seq != 4 || places[0].Broken != "it forked at record 4" {
		t.Errorf("places are %+v, %v", places, err)
	}
	if n := s.audit.Broken(t.Context()); n != 1 {
		t.Errorf("the gauge shows %d broken chains", n)
	}
	if !bytes.Contains(s.everything(), []byte("auditfork/lon1/a1/one/0000000000000004={")) {
		t.Error("the other record is not kept")
	}

	two := log("two").add(3)
	join("a new chain", "a1", two.bundle(1, 1), nil)
	join("a gap in its own", "a1", two.bundle(3, 3), auditlog.ErrBroken)
	s.restart()
	join("a third", "a1", log("three").add(2).bundle(1, 2), nil)

	if _, err := s.revoke(intent.RevokeAgent, "lon1/a2", false); err != nil {
		t.Fatal(err)
	}
	gone := &siteLog{scene: s, agent: "a2", key: k2.Sign, chain: document.AuditChain{Site: "lon1", Agent: "a2", Chain: "x"}}
	join("of a revoked agent", "a1", gone.add(1).bundle(1, 1), document.ErrSignature)
}

func (l *siteLog) sealedBy(k ed25519.PrivateKey, at int) *intent.Envelope {
	l.Helper()
	env, err := l.ends[at-1].Seal(k, time.Now())
	if err != nil {
		l.Fatal(err)
	}
	return env
}

// errAny stands for every error.
var errAny = errors.New("any")

// Two coordinators of one id on one store write one chain: who was slower writes again, and neither's record is lost.
func TestTwoWritersOneChain(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	rival := auditlog.New(auditlog.Config{Store: s.store, ID: "c1", Signer: s.audit.Signer, Writers: s.audit.Writers, Now: time.Now, Keys: s.signKeys, Log: s.cfg.Logger})
	before, races := len(s.auditChains("")["c1"]), 0
	err := s.audit.Write(t.Context(), intent.AuditRecord{Verb: "mine"}, func(line store.Commit) error {
		if races++; races <= 3 {
			if _, err := rival.Commit(t.Context(), intent.AuditRecord{Verb: "theirs"}, store.Commit{}); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.store.Commit(t.Context(), line)
		return err
	})
	if err != nil || races != 4 {
		t.Fatalf("%d attempts, %v", races, err)
	}
	var got []string
	for _, r := range s.auditChains("")["c1"][before:] {
		got = append(got, r.Verb)
	}
	if strings.Join(got, " ") != "theirs theirs theirs mine" {
		t.Errorf("the chain ends with %q", got)
	}
	// A condition of the write itself that does not hold is no race.
	tries := 0
	err = s.audit.Write(t.Context(), intent.AuditRecord{Verb: "never"}, func(store.Commit) error { tries++; return store.ErrConflict })
	if !errors.Is(err, store.ErrConflict) || tries != 1 {
		t.Errorf("%d tries, %v", tries, err)
	}
}
