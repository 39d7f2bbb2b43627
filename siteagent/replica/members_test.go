package replica_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// The effective roster: who counts, and under which generation.
func TestEffective(t *testing.T) {
	roster := &intent.RosterBody{Generation: 7, Agents: []intent.RosterAgent{
		{ID: "a1", Rank: 1, State: "agent", TLS: [][]byte{[]byte("k1")}},
		{ID: "a2", Rank: 0, State: "agent", TLS: [][]byte{[]byte("k2")}},
		{ID: "a3", Rank: 2, State: "agent", TLS: [][]byte{[]byte("k3")}},
		{ID: "s1", Rank: 0, State: "spare"},
		{ID: "s2", Rank: 4, State: "spare"},
	}}
	on := func(n uint64) replica.Order { return replica.Order{N: n, On: true} }
	var admitted map[string]replica.Admission
	f := func(want string, generation uint64, orders map[string]replica.Order, revoked ...intent.Revocation) {
		t.Helper()
		got := replica.Effective("lon1", "a9", roster, (&trust.RevocationSet{}).With(revoked), replica.Decisions{Quarantined: orders, Admitted: admitted})
		var ids []string
		for _, a := range got.Agents {
			ids = append(ids, a.ID)
		}
		if strings.Join(ids, " ") != want || got.Generation != generation {
			t.Errorf("%v, %v: %v of generation %d, want %s of %d", orders, revoked, ids, got.Generation, want, generation)
		}
	}
	f("a1 a2 a3", 7, nil)
	f("a1 a3", 8, map[string]replica.Order{"a2": on(1)})
	f("a1 a2 a3", 9, map[string]replica.Order{"a2": {N: 2}}) // let back: the generation does not fall
	f("a3", 9, map[string]replica.Order{"a2": on(1), "a1": on(1)})
	f("a2", 10, map[string]replica.Order{"a2": on(1), "a1": on(1), "a3": on(1)}) // nobody left: the lowest rank stays, never a spare
	f("a1 a2", 7, nil, intent.Revocation{Kind: intent.RevokeAgent, ID: "lon1/a3"})
	f("a1 a2 a3", 7, nil, intent.Revocation{Kind: intent.RevokeAgent, ID: "par1/a3"})
	f("a1 a2", 7, nil, intent.Revocation{Kind: intent.RevokeSPKI, ID: intent.DigestOf([]byte("k3")).Hex()})
	f("a1", 9, map[string]replica.Order{"a1": on(1), "a3": on(1)}, intent.Revocation{Kind: intent.RevokeAgent, ID: "lon1/a2"}) // who is revoked does not come back so

	admitted = map[string]replica.Admission{"s1": {Replaces: "a2", Addr: []string{"10.0.0.9:7444"}}}
	f("a1 a3 s1", 8, nil)
	f("a1 a3 s1", 9, map[string]replica.Order{"a2": on(1)})
	f("a1 a2 a3", 9, map[string]replica.Order{"s1": on(1)}) // a spare that is cut off replaces nobody
	f("a1 a2 a3", 8, nil, intent.Revocation{Kind: intent.RevokeAgent, ID: "lon1/s1"})
	f("a1 a3 s1", 8, nil, intent.Revocation{Kind: intent.RevokeAgent, ID: "lon1/a2"})
	admitted["s2"] = replica.Admission{Replaces: "a2"} // two for one: the lower id
	f("a1 a3 s1", 9, nil)
	admitted["s2"] = replica.Admission{Replaces: "a1"}
	f("a3 s1 s2", 9, nil)
	admitted["a3"] = replica.Admission{Replaces: "a1"} // no spare
	delete(admitted, "s2")
	f("a1 a3 s1", 9, nil)
	delete(admitted, "a3")

	// The coordinator took it: the admission is done, and who has the name a2 now counts again.
	roster.Agents[3].State = "agent"
	f("a1 a2 a3 s1", 8, nil)
}

// revocation signs one document of the stream after head.
func revocation(a *sitetest.Author, head *intent.Head, names ...string) *intent.Envelope {
	b := intent.RevocationBody{Header: document.Follow(*head, intent.StreamRevocation, 1, a.Trust.Issued)}
	for _, n := range names {
		b.Entries = append(b.Entries, intent.Revocation{Kind: intent.RevokeUser, ID: n, Reason: "left"})
	}
	env := a.Sign(intent.PayloadRevocation, b, a.Writer)
	*head = intent.Head{Epoch: b.Epoch, Seq: b.Seq, Hash: env.Digest()}
	return env
}

// Revocations act on receipt: across a gap, on both sides of a fork, and after a restart. Nothing takes one back, and a copy of
// the store from before one is found out by the marks.
func TestRevocationsOnlyGrow(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	old := t.TempDir()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	var head intent.Head
	docs := []*intent.Envelope{revocation(a, &head, "ana"), revocation(a, &head, "ben", "eve"), revocation(a, &head, "kim")}
	fork := intent.Head{Epoch: 1, Seq: 1, Hash: docs[0].Digest()}
	forked := revocation(a, &fork, "zoe")
	stranger := sitetest.NewAuthor(t)
	f := func(want error, seq uint64, users string, envs ...*intent.Envelope) {
		t.Helper()
		if err := s.AddRevocations(envs); !errors.Is(err, want) {
			t.Errorf("AddRevocations: %v, want %v", err, want)
		}
		var got []string
		for _, e := range s.Revocations().Entries() {
			got = append(got, e.ID)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != users || s.RevocationHead().Seq != seq {
			t.Errorf("%v are revoked at %d, want %s at %d", got, s.RevocationHead().Seq, users, seq)
		}
	}
	var none intent.Head
	f(document.ErrSigner, 0, "", revocation(stranger, &none, "root"))
	f(nil, 1, "ana", docs[0])
	f(nil, 1, "ana kim", docs[2]) // a gap: it acts, the head waits
	f(nil, 2, "ana ben eve kim", docs[1])
	f(document.ErrFork, 2, "ana ben eve kim zoe", forked)
	f(nil, 3, "ana ben eve kim zoe", docs[2]) // nothing new, and the head moves all the same
	f(nil, 3, "ana ben eve kim zoe", docs[0], docs[2])
	sent := map[string]bool{}
	if err := s.RevocationFeed(2, func(env *intent.Envelope) error { sent[env.Digest().Hex()] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{docs[1].Digest().Hex(): true, docs[2].Digest().Hex(): true, forked.Digest().Hex(): true}
	if d := cmp.Diff(want, sent); d != "" {
		t.Errorf("what peers are given from 2 on, with both sides of the fork: -want +got\n%s", d)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	f(nil, 3, "ana ben eve kim zoe")
	if db.Recovering() {
		t.Error("recovering after a plain restart")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	// The store of before, with the marks of today.
	for _, m := range []string{"marks.a", "marks.b"} {
		b, err := os.ReadFile(dir + "/" + m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(old+"/"+m, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, db = sitetest.OpenReplica(t, old, a, "a1")
	defer db.Close()
	if !db.Recovering() || s.Level() {
		t.Error("a copy from before the revocations is not recovering")
	}
	f(nil, 2, "ana ben eve", docs[:2]...)
	if s.Level() {
		t.Error("level with the marks at document 2: the head moved to 3 without being marked")
	}
	f(nil, 3, "ana ben eve kim", docs...)
	if !s.Level() {
		t.Error("not level with the marks after the stream came again")
	}
}

// Documents that are stored, below the head, beyond a gap or of a fork, are not written again, and say what they said.
func TestRevocationsCameAgain(t *testing.T) {
	a := sitetest.NewAuthor(t)
	s, db := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	defer db.Close()
	var head intent.Head
	docs := []*intent.Envelope{revocation(a, &head, "ana"), revocation(a, &head, "ben"), revocation(a, &head, "eve"), revocation(a, &head, "kim")}
	fork := intent.Head{Epoch: 1, Seq: 1, Hash: docs[0].Digest()}
	forked := revocation(a, &fork, "zoe")
	for again := range 2 {
		before := db.MaxVersion()
		for i, env := range []*intent.Envelope{docs[0], docs[1], docs[3], forked} {
			if err := s.AddRevocations([]*intent.Envelope{env}); errors.Is(err, document.ErrFork) != (env == forked) || err != nil && env != forked {
				t.Errorf("time %d, document %d: %v", again, i, err)
			}
		}
		if wrote := db.MaxVersion() != before; wrote != (again == 0) {
			t.Errorf("time %d: written %v", again, wrote)
		}
	}
	if n := s.Revocations().Len(); n != 4 {
		t.Errorf("%d are revoked", n)
	}
}

// Orders of the site survive a restart; only a higher one replaces one.
func TestOrdersKept(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	roster := intent.RosterBody{Generation: 3, Agents: []intent.RosterAgent{{ID: "a1", State: "agent"}, {ID: "a2", State: "agent", Rank: 1}}}
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Entry(intent.EntryRoster, roster)}); err != nil {
		t.Fatal(err)
	}
	f := func(n uint64, on, changed bool, want string) {
		t.Helper()
		got, err := s.Obey(replica.Decisions{Quarantined: map[string]replica.Order{"a2": {N: n, On: on}}})
		if err != nil || got != changed {
			t.Errorf("Obey(%d, %v) = %v, %v; want %v", n, on, got, err, changed)
		}
		r := s.State().Roster
		if d := fmt.Sprintf("%d agents, generation %d", len(r.Agents), r.Generation); d != want {
			t.Errorf("after order %d: %s, want %s", n, d, want)
		}
	}
	f(1, true, true, "1 agents, generation 4")
	f(1, false, false, "1 agents, generation 4") // at a tie the one that is on counts
	f(1, true, false, "1 agents, generation 4")
	f(2, false, true, "2 agents, generation 5")
	f(2, true, true, "1 agents, generation 5")
	for i, first := range []bool{true, false} { // the first admission of a spare stands
		got, err := s.Obey(replica.Decisions{Admitted: map[string]replica.Admission{"s1": {Replaces: fmt.Sprint("a", 2-i)}}})
		if err != nil || got != first || s.Decisions().Admitted["s1"].Replaces != "a2" {
			t.Errorf("admission %d: %v, %v, %+v", i, got, err, s.Decisions())
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	defer db.Close()
	f(2, false, false, "1 agents, generation 6")
	if n := len(s.State().Signed.Agents); n != 2 {
		t.Errorf("the signed roster has %d agents, want 2 as published", n)
	}
}
