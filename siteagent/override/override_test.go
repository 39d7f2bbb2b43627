package override

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

func array(name string, rev uint64, count int) *intent.Object {
	return &intent.Object{
		APIVersion: "skerry/v1", Kind: intent.KindInstanceArray,
		Metadata: intent.Metadata{Name: name, Project: "shop", Site: "lon1", UID: "uid-" + name, Rev: rev},
		Spec:     &intent.InstanceArraySpec{Infrastructure: "web", Count: count, MachineType: "small", Image: "debian"},
	}
}

// change is an override of o that was made minute minutes after noon, when the active object had revision base.
func change(t testing.TB, id string, minute int, base uint64, op intent.OverrideOp, o *intent.Object) intent.Override {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return intent.Override{
		Site: "lon1", Agent: "a1", ID: id, Time: time.Date(2026, 11, 2, 12, minute, 0, 0, time.UTC), Base: intent.OverrideBase{Rev: base},
		Op: op, Key: o.Key(), Object: raw, Charge: map[string]int{"small": 2},
	}
}

func counts(c *intent.Catalog) map[string]int {
	m := map[string]int{}
	for _, o := range c.List(intent.KindInstanceArray) {
		m[o.Metadata.Name] = o.Spec.(*intent.InstanceArraySpec).Count
	}
	return m
}

func TestEffective(t *testing.T) {
	web := array("web", 3, 2)
	f := func(name string, want map[string]int, acks map[string]string, ds ...intent.Override) Overlay {
		t.Helper()
		as := map[string]intent.AckBody{}
		for id, d := range acks {
			as[id] = intent.AckBody{Override: id, Decision: d}
		}
		active := intent.NewCatalog(web)
		o, err := Effective(active, as, ds)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, counts(o.Catalog)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if counts(active)["web"] != 2 || web.Metadata.Origin != "" {
			t.Errorf("%s: the active intent was changed", name)
		}
		return o
	}
	five, one := array("web", 4, 5), array("web", 4, 1)
	o1, o2 := change(t, "o1", 1, 3, intent.OverridePut, five), change(t, "o2", 2, 3, intent.OverridePut, one)
	gone := change(t, "o3", 3, 3, intent.OverrideTombstone, web)
	back := change(t, "o4", 4, 3, intent.OverridePut, five)
	stale := change(t, "o5", 5, 2, intent.OverridePut, five)

	f("none", map[string]int{"web": 2}, nil)
	o := f("one", map[string]int{"web": 5}, nil, o1)
	if got := o.Catalog.Get(web.Key()).Metadata.Origin; got != "override" || o.Cause["uid-web"] != "o1" {
		t.Errorf("origin %q, cause %v", got, o.Cause)
	}
	f("the last one stands", map[string]int{"web": 1}, nil, o2, o1)
	f("discarded", map[string]int{"web": 2}, map[string]string{"o1": "discard"}, o1)
	fresh := change(t, "o6", 1, 0, intent.OverridePut, array("db", 1, 1))
	more := change(t, "o7", 2, 0, intent.OverridePut, array("db", 2, 3))
	dropped := change(t, "o8", 3, 0, intent.OverrideTombstone, array("db", 2, 3))
	f("a new object", map[string]int{"web": 2, "db": 1}, nil, fresh)
	for _, c := range []struct {
		name string
		acks map[string]string
		ds   []intent.Override
		want bool
	}{
		{"what was made here and is discarded ends", map[string]string{"o6": "discard"}, []intent.Override{fresh}, true},
		{"a later change of it that waits keeps it", map[string]string{"o6": "discard"}, []intent.Override{fresh, more}, false},
		{"that one discarded, too", map[string]string{"o6": "discard", "o7": "discard"}, []intent.Override{fresh, more}, true},
		{"adopted, and its change discarded: the chain says what is", map[string]string{"o6": "adopt", "o7": "discard"}, []intent.Override{fresh, more}, false},
		{"discarded, and its removal adopted", map[string]string{"o6": "discard", "o8": "adopt"}, []intent.Override{fresh, dropped}, true},
		{"a change of what the coordinator made ends nothing", map[string]string{"o9": "discard"}, []intent.Override{change(t, "o9", 1, 2, intent.OverridePut, array("db", 3, 1))}, false},
	} {
		want := map[string]int{"web": 2}
		if c.name == "a later change of it that waits keeps it" {
			want["db"] = 3
		}
		if o := f(c.name, want, c.acks, c.ds...); o.Deleted["uid-db"] != c.want {
			t.Errorf("%s: deleted %v, want %v", c.name, o.Deleted["uid-db"], c.want)
		}
	}
	f("adopted: the active intent has it by itself", map[string]int{"web": 2}, map[string]string{"o1": "adopt"}, o1)
	f("the earlier one settled", map[string]int{"web": 1}, map[string]string{"o1": "adopt"}, o1, o2)
	f("in conflict it still stands", map[string]int{"web": 5}, nil, stale)
	if o := f("tombstone", map[string]int{}, nil, gone); !o.Deleted["uid-web"] || o.Cause["uid-web"] != "o3" { // its machine is held, not erased at once
		t.Error("a tombstone does not say what it deleted")
	}
	if o := f("tombstone discarded", map[string]int{"web": 2}, map[string]string{"o3": "discard"}, gone); o.Deleted["uid-web"] {
		t.Error("a discarded tombstone still deletes")
	}
	if o := f("put after tombstone", map[string]int{"web": 5}, nil, gone, back); o.Deleted["uid-web"] {
		t.Error("deleted, though it is back")
	}
}

func TestState(t *testing.T) {
	active := intent.NewCatalog(array("web", 3, 2))
	f := func(want string, d intent.Override, decision string) {
		t.Helper()
		acks := map[string]intent.AckBody{}
		if decision != "" {
			acks[d.ID] = intent.AckBody{Override: d.ID, Decision: decision}
		}
		if got := State(d, active, acks); got != want {
			t.Errorf("State(base %d, ack %q) = %s, want %s", d.Base.Rev, decision, got, want)
		}
	}
	web, db := array("web", 4, 5), array("db", 1, 1)
	f(StateLocal, change(t, "o", 1, 3, intent.OverridePut, web), "")
	f(StateConflict, change(t, "o", 1, 2, intent.OverridePut, web), "")
	f(StateAdopted, change(t, "o", 1, 2, intent.OverridePut, web), "adopt")
	f(StateDiscarded, change(t, "o", 1, 3, intent.OverridePut, web), "discard")
	f(StateLocal, change(t, "o", 1, 0, intent.OverridePut, db), "")
	f(StateConflict, change(t, "o", 1, 7, intent.OverridePut, db), "") // the coordinator removed it meanwhile
}

func TestQuota(t *testing.T) {
	before, after := intent.NewCatalog(array("web", 1, 2), array("db", 1, 3)), intent.NewCatalog(array("web", 2, 6), array("db", 2, 1))
	if d := cmp.Diff(map[string]int{"small": 2}, Charge(before, after, "shop", "lon1")); d != "" {
		t.Errorf("four more here, two fewer there: %s", d)
	}
	for name, got := range map[string]map[string]int{
		"fewer": Charge(after, before, "shop", "lon1"), "another project": Charge(before, after, "bank", "lon1"), "another site": Charge(before, after, "shop", "par1"),
	} {
		if len(got) > 0 {
			t.Errorf("%s is charged %v", name, got)
		}
	}
	f := func(want string, q *intent.QuotaSpec, spent, charge int) {
		t.Helper()
		if got := Exceeds(q, map[string]int{"small": spent}, map[string]int{"small": charge}); got != want {
			t.Errorf("Exceeds(%v, %d spent, %d more) = %q, want %q", q, spent, charge, got, want)
		}
	}
	q := &intent.QuotaSpec{Machines: map[string]int{"small": 99}, Offline: intent.OfflineQuota{Machines: map[string]int{"small": 3}}}
	f("", q, 0, 3)
	f("", q, 2, 1)
	f("small", q, 2, 2)
	f("small", nil, 0, 1) // no quota, nothing offline
	web := array("web", 2, 5)
	ds := []intent.Override{change(t, "o1", 1, 1, intent.OverridePut, web), change(t, "o2", 2, 9, intent.OverridePut, web), change(t, "o3", 3, 1, intent.OverridePut, web)}
	acks := map[string]intent.AckBody{"o3": {Override: "o3", Decision: "discard"}}
	if got := Spent(ds, "shop", before, acks); got["small"] != 4 {
		t.Errorf("spent %v; what is local or in conflict counts, what is settled does not", got)
	}
	if got := Spent(ds, "bank", before, acks); len(got) > 0 {
		t.Errorf("another project spent %v", got)
	}
}

// TestSettledLeavesNoTrace: whatever was overridden, once everything is acknowledged the active intent stands as it is, and
// nothing of it counts as deleted; the order in which the journal lists overrides does not matter.
func TestSettledLeavesNoTrace(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		names := []string{"web", "db", "cache"}
		var objects []*intent.Object
		for _, n := range names[:rapid.IntRange(0, 3).Draw(rt, "active")] {
			objects = append(objects, array(n, uint64(rapid.IntRange(1, 3).Draw(rt, "rev")), rapid.IntRange(0, 4).Draw(rt, "count")))
		}
		active := intent.NewCatalog(objects...)
		var ds []intent.Override
		settled, acks := map[string]intent.AckBody{}, map[string]intent.AckBody{}
		for i := range rapid.IntRange(0, 6).Draw(rt, "overrides") {
			o := array(rapid.SampledFrom(names).Draw(rt, "name"), 9, rapid.IntRange(0, 9).Draw(rt, "new count"))
			op := rapid.SampledFrom([]intent.OverrideOp{intent.OverridePut, intent.OverrideTombstone}).Draw(rt, "op")
			d := change(t, fmt.Sprintf("o%d", i), rapid.IntRange(0, 3).Draw(rt, "minute"), uint64(rapid.IntRange(0, 3).Draw(rt, "base")), op, o)
			ds = append(ds, d)
			settled[d.ID] = intent.AckBody{Override: d.ID, Decision: rapid.SampledFrom([]string{"adopt", "discard"}).Draw(rt, "decision")}
			if rapid.Bool().Draw(rt, "acked") {
				acks[d.ID] = settled[d.ID]
			}
		}
		one, err := Effective(active, acks, ds)
		if err != nil {
			rt.Fatal(err)
		}
		two, err := Effective(active, acks, rapid.Permutation(ds).Draw(rt, "order"))
		if err != nil {
			rt.Fatal(err)
		}
		if d := cmp.Diff(counts(one.Catalog), counts(two.Catalog)) + cmp.Diff(one.Deleted, two.Deleted) + cmp.Diff(one.Cause, two.Cause); d != "" {
			rt.Fatalf("another order, another site:\n%s", d)
		}
		end, err := Effective(active, settled, ds)
		if err != nil {
			rt.Fatal(err)
		}
		if d := cmp.Diff(counts(active), counts(end.Catalog)); d != "" || len(end.Cause) > 0 {
			rt.Fatalf("all is settled, and there is still %v:\n%s", end.Cause, d)
		}
		for uid := range end.Deleted {
			if active.ByUID(uid) != nil {
				rt.Fatalf("all is settled, and %s of the active intent is deleted", uid)
			}
		}
	})
}

func TestSignOpen(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := change(t, "lon1-1", 1, 3, intent.OverridePut, array("web", 4, 5))
	rec, err := Sign(d, private)
	if err != nil {
		t.Fatal(err)
	}
	open := func(keys ...ed25519.PublicKey) ([]byte, error) { // as the coordinator does
		return document.Open(&rec.Envelope, intent.PayloadOverride, keys, 1)
	}
	payload, err := open(other, public)
	if err != nil {
		t.Fatal(err)
	}
	got := intent.Override{}
	if err := intent.DecodeStrict(payload, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(d, got); d != "" {
		t.Fatal(d)
	}
	if _, err := open(other); err == nil {
		t.Fatal("somebody else's key opens it")
	}
	rec.Envelope.Payload[20] ^= 1
	if _, err := open(public); err == nil {
		t.Fatal("a changed override opens")
	}
}

// A second change of one object stands on the first: once that is adopted it is no conflict, and what the coordinator changed is.
func TestSecondChange(t *testing.T) {
	first := change(t, "o1", 1, 1, intent.OverridePut, array("web", 2, 2))
	second := change(t, "o2", 2, 1, intent.OverridePut, array("web", 3, 3))
	second.Base.After = "o1"
	both := []intent.Override{first, second}
	f := func(rev uint64, acks map[string]intent.AckBody, want, standing string) {
		t.Helper()
		active := intent.NewCatalog(array("web", rev, 1))
		if got := State(second, active, acks); got != want {
			t.Errorf("at version %d, %v: %s, want %s", rev, acks, got, want)
		}
		if got := Standing(active, acks, both, first.Key); got != standing {
			t.Errorf("at version %d, %v: %q stands, want %q", rev, acks, got, standing)
		}
	}
	adopted := map[string]intent.AckBody{"o1": {Override: "o1", Decision: "adopt", Rev: 2}}
	f(1, nil, StateLocal, "o2")
	f(2, adopted, StateLocal, "o2")
	f(3, adopted, StateConflict, "o2")
	f(2, nil, StateConflict, "o2") // the coordinator's own change
	f(1, map[string]intent.AckBody{"o1": {Override: "o1", Decision: "discard"}}, StateLocal, "o2")
	f(3, map[string]intent.AckBody{"o1": adopted["o1"], "o2": {Override: "o2", Decision: "adopt", Rev: 3}}, StateAdopted, "")
}

// What was made later stands, also where the agent that took it has a clock that lies behind its peer's.
func TestLaterStandsWhateverTheClock(t *testing.T) {
	first := change(t, "o1", 50, 1, intent.OverridePut, array("web", 2, 2))
	first.Turn = intent.NextTurn(nil)
	second := change(t, "o2", 1, 1, intent.OverridePut, array("web", 3, 3))
	second.Base.After, second.Turn = "o1", intent.NextTurn([]intent.Override{first})
	active, both := intent.NewCatalog(array("web", 1, 1)), []intent.Override{first, second}
	if got := Standing(active, nil, both, first.Key); got != "o2" {
		t.Errorf("%s stands, want o2", got)
	}
	o, err := Effective(active, nil, both)
	if err != nil || counts(o.Catalog)["web"] != 3 {
		t.Errorf("%v, %v, want 3", counts(o.Catalog), err)
	}
	evil := first
	evil.Turn = math.MaxUint64
	if n := intent.NextTurn([]intent.Override{evil}); n == 0 || n != intent.NextTurn([]intent.Override{evil, first}) {
		t.Errorf("the turn after the highest is %d", n)
	}
}
