package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
)

func TestOverrideRefusals(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.apply(`{"kind":"Site","metadata":{"name":"par1"},"spec":{"region":"eu","zone":"z"}}
{"kind":"Project","metadata":{"name":"paris"},"spec":{"sites":["par1"]}}`)
	keys := s.join("lon1", "a1")
	stranger, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	before := s.everything()
	f := func(want string, k *seal.Keys, doc string, base uint64, change func(*intent.Override)) {
		t.Helper()
		decision, err := s.propose("lon1", k, "lon1-2", doc, base, change)
		if err != nil {
			decision = err.Error()
		}
		if !strings.Contains(decision, want) {
			t.Errorf("decided %q, want %q", decision, want)
		}
	}
	f("not enough valid signatures", stranger, webOfTwo, 1, nil)
	f("another site", keys, webOfTwo, 1, func(d *intent.Override) { d.Site = "par1" })
	f("not the site's to change", keys, webOfTwo, 1, func(d *intent.Override) { d.Key.Name = "other" })
	f("not the site's to change", keys, `{"kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"y"}}`, 1, nil)
	f("not the site's to change", keys, `{"kind":"Network","metadata":{"name":"n","project":"paris","site":"par1"},"spec":{"subnetPool":"x"}}`, 0, nil)
	f("project paris is not at site lon1", keys, `{"kind":"SSHKey","metadata":{"name":"k","project":"paris"},"spec":{"publicKey":"ssh-ed25519 AAAA evil"}}`, 0, nil)
	if !bytes.Equal(before, s.everything()) {
		t.Error("a refused override left something")
	}
	for site, k := range map[string]*seal.Keys{"par1": keys} {
		if _, err := s.propose(site, k, "par1-1", webOfTwo, 1, nil); err == nil || !strings.Contains(err.Error(), "no roster") {
			t.Errorf("a site without agents proposes: %v", err)
		}
	}
}

// Of a machine a site changes maintenance and labels by itself, and nothing else; where the machine was changed here too, a person
// decides, and the site's older value of it never comes back.
func TestMachineOverride(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	keys := s.join("lon1", "a1")
	m1 := func(bmc, more string) string {
		return `{"kind":"Machine","metadata":{"name":"m1","site":"lon1","labels":{"by":"hand"}},"spec":{"bmc":{"address":"` + bmc +
			`","protocol":"redfish","secret":"bmc"},"nics":[{"mac":"52:54:00:88:00:01","address":"10.88.0.21"}]` + more + `}}`
	}
	held := func() (string, bool) {
		t.Helper()
		cat, _ := s.objects.Snapshot()
		m := cat.Get(intent.Key{Kind: intent.KindMachine, Scope: "lon1", Name: "m1"}).Spec.(*intent.MachineSpec)
		return m.BMC.Address, m.Maintenance
	}
	take := func(want, id, doc string, base uint64) {
		t.Helper()
		if got, err := s.propose("lon1", keys, id, doc, base, nil); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", id, got, err, want)
		}
	}
	take("adopt", "lon1-1", m1("10.88.1.1", `,"maintenance":true`), 1)
	if addr, m := held(); addr != "10.88.1.1" || !m {
		t.Errorf("after the change of a site: %s, maintenance %v", addr, m)
	}
	take("conflict", "lon1-2", m1("10.88.1.99", ""), 2) // a site that oversteps
	s.apply(m1("10.88.1.2", `,"maintenance":true`))
	take("conflict", "lon1-3", m1("10.88.1.1", ""), 2) // the controller moved meanwhile
	for _, id := range []string{"lon1-2", "lon1-3"} {
		err := s.backend.Settle(t.Context(), s.admin, "lon1", id, api.DecisionRequest{Decision: "adopt", Reason: "try"})
		if e, ok := errors.AsType[*api.Error](err); !ok || !strings.Contains(e.Error(), "maintenance and labels") {
			t.Errorf("adopted %s: %v", id, err)
		}
		if err := s.backend.Settle(t.Context(), s.admin, "lon1", id, api.DecisionRequest{Decision: "discard", Reason: "set here"}); err != nil {
			t.Errorf("discard %s: %v", id, err)
		}
	}
	if addr, m := held(); addr != "10.88.1.2" || !m {
		t.Errorf("at the end: %s, maintenance %v", addr, m)
	}
}

// waiting lists what waits for a person, with the reasons cut to their first words.
func (s *scene) waiting() (out []string) {
	s.Helper()
	all, err := s.backend.Proposals(s.Context(), "lon1")
	if err != nil {
		s.Fatal(err)
	}
	for _, p := range all {
		here, there := "none", fmt.Sprint(p.There.Spec.(*intent.InstanceArraySpec).Count)
		if p.Here != nil {
			here = fmt.Sprint(p.Here.Spec.(*intent.InstanceArraySpec).Count)
		}
		out = append(out, fmt.Sprintf("%s %s here %s there %s: %.26s", p.ID, p.Op, here, there, p.Why))
	}
	return out
}

// acks lists the answers in the site's chain.
func (s *scene) acks() (out []string) {
	s.Helper()
	s.sync("lon1")
	for _, e := range s.chain("lon1") {
		if e.Kind != intent.EntryAck {
			continue
		}
		body, err := e.DecodeBody()
		if err != nil {
			s.Fatal(err)
		}
		a := body.(*intent.AckBody)
		out = append(out, fmt.Sprintf("%s %s %d", a.Decision, a.Override, a.Rev))
	}
	return out
}

func (s *scene) settle(id, decision string, dry bool) error {
	return s.backend.Settle(s.Context(), s.admin, "lon1", id, api.DecisionRequest{Decision: decision, Reason: "seen", DryRun: dry})
}

// What does not fit is kept with both values and its reason, told again or not, also over a restart, and settled by a person, once:
// the site's value becomes ours, or ours stands and the site is told.
func TestConflictIsSettled(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	keys := s.join("lon1", "a1")
	count := func(n int) string { return strings.Replace(webOfTwo, `"count":2`, fmt.Sprintf(`"count":%d`, n), 1) }
	for range 2 {
		for id, c := range map[string]struct {
			doc  string
			base uint64
		}{"lon1-1": {count(2), 0}, "lon1-2": {count(0), 7}, "lon1-3": {count(3), 1}} { // unknown to the site, changed here, over the quota
			if got, err := s.propose("lon1", keys, id, c.doc, c.base, nil); err != nil || got != "conflict" {
				t.Errorf("%s is decided %q, %v", id, got, err)
			}
		}
		s.restart()
	}
	want := []string{
		"lon1-1 put here 1 there 2: the object is at version 1", "lon1-2 put here 1 there 0: the object is at version 1", "lon1-3 put here 1 there 3: the objects do not fit; no",
	}
	if d := cmp.Diff(want, s.waiting()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if err := s.settle("lon1-9", "adopt", false); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("what does not wait is settled: %v", err)
	}
	if err := s.settle("lon1-3", "adopt", false); err == nil {
		t.Error("a value over the quota is adopted")
	}
	for _, d := range []string{"adopt", "discard"} {
		if err := s.settle("lon1-1", d, true); err != nil {
			t.Errorf("dry run of %s: %v", d, err)
		}
	}
	if n := len(s.waiting()); n != 3 {
		t.Errorf("after dry runs %d wait, want 3", n)
	}
	if err := errors.Join(s.settle("lon1-1", "adopt", false), s.settle("lon1-2", "discard", false), s.settle("lon1-3", "discard", false)); err != nil {
		t.Fatal(err)
	}
	if got := s.object(intent.KindInstanceArray, "acme", "web").Spec.(*intent.InstanceArraySpec).Count; got != 2 {
		t.Errorf("the adopted value is %d, want 2", got)
	}
	for id, answer := range map[string]string{"lon1-1": "adopt", "lon1-2": "discard"} { // the site asks again before it heard
		if got, err := s.propose("lon1", keys, id, count(2), 0, nil); err != nil || got != answer {
			t.Errorf("told again, %s is answered %q, %v", id, got, err)
		}
	}
	if d := cmp.Diff([]string{"adopt lon1-1 2", "discard lon1-2 0", "discard lon1-3 0"}, s.acks()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if n := len(s.waiting()); n != 0 {
		t.Errorf("%d wait still", n)
	}
	audited := fmt.Sprint(s.audited("override.discard"))
	if !strings.Contains(audited, "lon1-2") || !strings.Contains(audited, "admin") {
		t.Errorf("the audit log says %s", audited)
	}
}

// A site that changed one object twice is adopted twice: the second change stands on its own first, not on ours.
func TestSecondChangeFollowsTheFirst(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	keys := s.join("lon1", "a1")
	f := func(id, doc, after, want string, op intent.OverrideOp) {
		t.Helper()
		got, err := s.propose("lon1", keys, id, doc, 1, func(d *intent.Override) { d.Base.After, d.Op = after, op })
		if err != nil || got != want {
			t.Errorf("%s is decided %q, %v; want %q", id, got, err, want)
		}
	}
	none := strings.Replace(webOfTwo, `"count":2`, `"count":0`, 1)
	f("lon1-1", webOfTwo, "", "adopt", intent.OverridePut)
	f("lon1-2", none, "lon1-1", "adopt", intent.OverridePut)
	f("lon1-3", webOfTwo, "lon1-2", "adopt", intent.OverrideTombstone)
	f("lon1-4", webOfTwo, "lon1-3", "adopt", intent.OverridePut) // made again after it was deleted
	s.apply(none)
	f("lon1-5", webOfTwo, "lon1-4", "conflict", intent.OverridePut) // we changed it meanwhile
	f("lon1-6", webOfTwo, "lon1-5", "conflict", intent.OverridePut) // and what stands on that waits too
	if d := cmp.Diff([]string{"adopt lon1-1 2", "adopt lon1-2 3", "adopt lon1-3 0", "adopt lon1-4 1"}, s.acks()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// What an agent signed that is no agent any more is adopted by nobody but a person.
func TestRevokedAgentsOverrideWaits(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	keys := s.join("lon1", "a2")
	if _, err := s.revoke(intent.RevokeAgent, "lon1/a2", false); err != nil {
		t.Fatal(err)
	}
	s.sync("lon1")
	if got, err := s.propose("lon1", keys, "lon1-1", webOfTwo, 1, nil); err != nil || got != "conflict" {
		t.Fatalf("decided %q, %v", got, err)
	}
	if d := cmp.Diff([]string{"lon1-1 put here 1 there 2: agent a2, which signed it,"}, s.waiting()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if err := s.settle("lon1-1", "adopt", false); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"adopt lon1-1 2"}, s.acks()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// TestOverdraftIsReported: two agents of a site that did not hear each other each take what the offline quota has. Both changes
// stand, and the audit log says so, once, whatever is told again.
func TestOverdraftIsReported(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.apply(`{"kind":"Quota","metadata":{"name":"lon1","project":"acme","site":"lon1"},"spec":{"machines":{"small":9},"offline":{"machines":{"small":1}}}}`)
	keys := map[string]*seal.Keys{"a1": s.join("lon1", "a1"), "a2": s.join("lon1", "a2")}
	add := func(agent, name string, base uint64) {
		t.Helper()
		doc := strings.NewReplacer(`"name":"web"`, `"name":"`+name+`"`, `"count":2`, `"count":1`).Replace(webOfTwo)
		got, err := s.propose("lon1", keys[agent], "lon1-"+name, doc, 0, func(d *intent.Override) {
			d.Agent, d.Base.Seq, d.Charge = agent, base, map[string]int{"small": 1}
		})
		if err != nil || got != "adopt" {
			t.Fatalf("%s: %q, %v", name, got, err)
		}
	}
	overdrafts := func() (out []string) {
		t.Helper()
		for _, chain := range s.auditChains("") {
			for _, r := range chain {
				if r.Verb == "quota.overdraft" {
					out = append(out, r.Object+": "+r.Reason)
				}
			}
		}
		return out
	}
	s.sync("lon1")
	chain := s.chain("lon1")
	base := chain[len(chain)-1].Seq
	add("a1", "x", base)
	if got := overdrafts(); len(got) > 0 {
		t.Fatalf("one within the quota: %v", got)
	}
	for range 2 {
		add("a2", "y", base)
		s.restart()
	}
	want := []string{"Project acme at lon1: 2 machines of type small were taken offline, 1 are allowed: lon1-x of a1, lon1-y of a2"}
	if d := cmp.Diff(want, overdrafts()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	s.sync("lon1")
	chain = s.chain("lon1")
	add("a1", "z", chain[len(chain)-1].Seq) // it knew the answers to both
	if got := overdrafts(); len(got) != 1 {
		t.Errorf("after one that knew: %v", got)
	}
}

// TestAdoptedStaysTheSame: an array that was made at the site and here under one name is two arrays. The one that is adopted keeps
// its uid, and so the machines that it has; the other one gets a tombstone.
func TestAdoptedStaysTheSame(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	keys := s.join("lon1", "a1")
	ours := s.object(intent.KindInstanceArray, "acme", "web").Metadata.UID
	got, err := s.propose("lon1", keys, "lon1-1", webOfTwo, 0, func(d *intent.Override) {
		d.Object = []byte(strings.Replace(string(d.Object), ours, "0123456789abcdef", 1))
	})
	if err != nil || got != "conflict" {
		t.Fatalf("%q, %v", got, err)
	}
	if err := s.settle("lon1-1", "adopt", false); err != nil {
		t.Fatal(err)
	}
	if o := s.object(intent.KindInstanceArray, "acme", "web"); o.Metadata.UID != "0123456789abcdef" || o.Spec.(*intent.InstanceArraySpec).Count != 2 {
		t.Fatalf("the catalog has %s", marshal(t, o))
	}
	s.restart()
	s.sync("lon1")
	var said []string
	for _, e := range s.chain("lon1") {
		body, err := e.DecodeBody()
		if err != nil {
			t.Fatal(err)
		}
		switch b := body.(type) {
		case *intent.TombstoneBody:
			for _, o := range b.Objects {
				if o.UID == ours {
					said = append(said, "tombstone")
				}
			}
		case *intent.PutBody:
			for _, o := range b.Objects {
				if o.UID == "0123456789abcdef" {
					said = append(said, "put")
				}
			}
		case *intent.AckBody:
			said = append(said, fmt.Sprintf("%s %d", b.Decision, b.Rev))
		}
	}
	if d := cmp.Diff([]string{"tombstone", "put", "adopt 1"}, said); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// Both agents of a site bring a change at once. The one that comes second finds the object moved by the first, and no conflict: it is
// the same change, and nothing is left waiting for a person.
func TestToldByTwoAtOnce(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	keys := s.join("lon1", "a1")
	real, once := s.desk.Catalog, false
	s.desk.Catalog = func() *intent.Catalog {
		if !once { // the other one is faster, right after this one looked for a decision
			once = true
			if got, err := s.propose("lon1", keys, "lon1-1", webOfTwo, 1, nil); err != nil || got != "adopt" {
				t.Errorf("the first: %q, %v", got, err)
			}
		}
		return real()
	}
	got, err := s.propose("lon1", keys, "lon1-1", webOfTwo, 1, nil)
	if err != nil || got != "adopt" {
		t.Errorf("the second: %q, %v", got, err)
	}
	if w := s.waiting(); len(w) > 0 {
		t.Errorf("%v waits", w)
	}
}
