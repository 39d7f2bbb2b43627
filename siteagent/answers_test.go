package siteagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/override"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// TestDeathBetweenStageAndActivate: an agent that died after it kept an entry and before it used it uses it when it starts,
// also when nothing new ever comes.
func TestDeathBetweenStageAndActivate(t *testing.T) {
	a, dir := newAuthor(t), t.TempDir()
	s, db := openTestSite(t, dir, a)
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.put(siteDoc)}); err != nil {
		t.Fatal(err)
	}
	env := a.put(machineTypeDoc("small", 1))
	s.mu.Lock()
	e, err := s.chain.Accept(env)
	if err != nil {
		t.Fatal(err)
	}
	wire, err := document.Encode(env)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.stage([]*intent.Entry{e}, [][]byte{wire}); err != nil {
		t.Fatal(err)
	}
	s.mu.Unlock()
	if st := s.State(); names(s)["small"] || st.Staged != a.head {
		t.Fatalf("staged %v, objects %v", st.Staged, names(s))
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = openTestSite(t, dir, a)
	defer db.Close()
	if st := s.State(); st.Head != a.head || !names(s)["small"] || db.Recovering() {
		t.Errorf("active %v of %v, objects %v, recovering %v", st.Head, a.head, names(s), db.Recovering())
	}
}

// cutOffSite is a site that may be changed by itself: project acme with three small machines offline.
func cutOffSite(t *testing.T) (*bench, *overrides) {
	t.Helper()
	b := newBench(t)
	doc := func(kind, meta, spec string) string {
		return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":%q,"metadata":{%s,"generation":1},"spec":%s}`, kind, meta, spec)
	}
	env := b.author.put(
		doc("Project", `"name":"acme","uid":"pr1"`, `{"sites":["lon1"]}`),
		doc("Quota", `"name":"q","project":"acme","site":"lon1","uid":"q1"`, `{"machines":{"small":9},"offline":{"machines":{"small":3}}}`),
		doc("Infrastructure", `"name":"shop","project":"acme","site":"lon1","uid":"inf1"`, `{}`),
		arrayDoc("web", 1, 1),
	)
	if n, err := b.site.Receive(t.Context(), []*intent.Envelope{env}); n != 1 || err != nil || b.site.State().Rejected != "" {
		t.Fatalf("Receive = %d, %v, %s", n, err, b.site.State().Rejected)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	return b, &overrides{w: b.world, self: "a1", sign: b.author.writer, claims: claim.NewClaims(b.site.db, "a1", "boot", alone{}, nil, log), log: log}
}

func arrayDoc(name string, rev, count int) string {
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"InstanceArray","metadata":{"name":%q,"project":"acme","site":"lon1","uid":%q,"generation":%d},
		"spec":{"infrastructure":"shop","count":%d,"machineType":"small","image":"tiny"}}`, name, "ia-"+name, rev, count)
}

func object(t *testing.T, doc string) *intent.Object {
	t.Helper()
	o, err := intent.DecodeObject([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestOverrides: a site that is cut off takes users' changes within the offline quota, journals who made them, and binds the
// coordinator to nothing.
func TestOverrides(t *testing.T) {
	b, o := cutOffSite(t)
	by := api.Caller{User: "ana", Token: "k3p9"}
	apply := func(batch api.Batch) error {
		_, err := o.apply(t.Context(), by, batch)
		return err
	}
	refused := func(what string, err error, status int) {
		t.Helper()
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Status != status {
			t.Errorf("%s: %v, want status %d", what, err, status)
		}
	}
	count := func() int {
		return b.world.now().overlay.Catalog.Get(object(t, arrayDoc("web", 1, 1)).Key()).Spec.(*intent.InstanceArraySpec).Count
	}
	put := func(docs ...string) api.Batch {
		var batch api.Batch
		for _, d := range docs {
			batch.Put = append(batch.Put, object(t, d))
		}
		return batch
	}
	refused("an operator's kind", apply(put(machineTypeDoc("large", 1))), http.StatusConflict)
	refused("another site", apply(put(strings.ReplaceAll(arrayDoc("far", 1, 1), `"site":"lon1"`, `"site":"par1"`))), http.StatusConflict)
	refused("beyond the offline quota", apply(put(arrayDoc("web", 1, 5))), http.StatusConflict)
	refused("one part of a batch beyond it", apply(put(arrayDoc("web", 1, 3), arrayDoc("db", 1, 2))), http.StatusConflict)
	if got := count(); got != 1 || len(o.pending()) != 0 {
		t.Fatalf("refused, and yet count %d, pending %d", got, len(o.pending()))
	}
	dry := put(arrayDoc("web", 1, 3))
	dry.DryRun = true
	if err := apply(dry); err != nil || count() != 1 {
		t.Fatalf("dry run: %v, count %d", err, count())
	}
	if err := apply(put(arrayDoc("web", 1, 3))); err != nil || count() != 3 {
		t.Fatalf("within the quota: %v, count %d", err, count())
	}
	refused("the rest of the quota and one more", apply(put(arrayDoc("db", 1, 2))), http.StatusConflict)
	if err := apply(put(arrayDoc("db", 1, 1))); err != nil {
		t.Fatalf("the rest of the quota: %v", err)
	}
	made := map[string]int{}
	if err := b.journal.Events(nil, func(e intent.Event) error { made[e.Type]++; return nil }); err != nil || made["override.made"] != 2 {
		t.Errorf("events %v, %v; want two override.made", made, err)
	}
	pending := o.pending()
	if len(pending) != 2 || pending[0].Doc.Author.User != "ana" || pending[0].Doc.Base.Rev != 1 || pending[1].Doc.Prev != pending[0].Envelope.Digest().String() {
		t.Fatalf("pending %+v", pending)
	}
	states := func() map[string]string {
		out := map[string]string{}
		for _, r := range o.reports() {
			out[r.Object.Name] = r.State
		}
		return out
	}
	receive(t, b, b.author.put(arrayDoc("web", 2, 2))) // the coordinator changes the same array
	if d := cmp.Diff(map[string]string{"web": override.StateConflict, "db": override.StateLocal}, states()); d != "" || count() != 3 {
		t.Fatalf("count %d (the site's value stands), states:\n%s", count(), d)
	}
	receive(t, b, b.author.entry(intent.EntryAck, intent.AckBody{Override: pending[0].Doc.ID, Decision: "discard"}))
	if d := cmp.Diff(map[string]string{"web": override.StateDiscarded, "db": override.StateLocal}, states()); d != "" || count() != 2 {
		t.Fatalf("discarded: count %d, states:\n%s", count(), d)
	}
	if err := apply(put(arrayDoc("web", 1, 4))); err != nil { // what was discarded is free again
		t.Errorf("after the discard: %v", err)
	}
}

func receive(t *testing.T, b *bench, env *intent.Envelope) {
	t.Helper()
	if n, err := b.site.Receive(t.Context(), []*intent.Envelope{env}); n != 1 || err != nil || b.site.State().Rejected != "" {
		t.Fatalf("Receive = %d, %v, %s", n, err, b.site.State().Rejected)
	}
}

// TestSameFactsEverywhere: promise 9. Two agents with the same chain and each other's journals answer DHCP from the same
// facts, whichever of them learnt what first.
func TestSameFactsEverywhere(t *testing.T) {
	one, two := newBench(t), newBench(t)
	two.site.mu.Lock()
	one.site.mu.Lock()
	two.site.objects, two.site.roster = one.site.objects, one.site.roster
	one.site.mu.Unlock()
	two.site.mu.Unlock()
	for i := range 40 {
		doc := strings.NewReplacer(`"m1"`, fmt.Sprintf(`"n%d"`, i), testMAC, fmt.Sprintf("52:54:00:99:00:%02x", i), testUUID, "", "SN-M1", "", `,"address":"10.88.0.21"`, "").Replace(machineDoc)
		env := one.author.put(doc)
		receive(t, one, env)
		two.site.mu.Lock()
		o := object(t, doc)
		two.site.objects[o.Metadata.UID] = o
		two.site.bump()
		two.site.mu.Unlock()
	}
	one.add(reconcile.KindAccepted, "n7", intent.Epoch{Generation: 1, N: 1}, reconcile.Facts{UUID: testUUID})
	records, err := one.journal.Range("a1", 1, claim.MaxPull)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if two.journal, err = claim.OpenJournal(two.site.db, "lon1", "a2", log); err != nil {
		t.Fatal(err)
	}
	if _, err := two.journal.Receive("a1", records); err != nil {
		t.Fatal(err)
	}
	two.world.journal, two.server.w = two.journal, two.world
	answers := func(b *bench) map[string]string {
		f, err := b.server.facts()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, h := range f.Hosts {
			out[h.MAC.String()] = fmt.Sprintf("%s %s %s", h.Name, h.Addr, h.UUID)
		}
		return out
	}
	want := answers(one)
	for range 5 { // maps have another order each time
		if d := cmp.Diff(want, answers(two)); d != "" || len(want) != 41 {
			t.Fatalf("%d hosts, and the agents differ:\n%s", len(want), d)
		}
	}
	byAddr := map[string]string{}
	for mac, a := range want {
		addr := strings.Fields(a)[1]
		if other := byAddr[addr]; other != "" {
			t.Errorf("%s is given to %s and %s", addr, mac, other)
		}
		byAddr[addr] = mac
	}
}

// TestPermissionOnlyByTheOwner: an agent that does not own the machine signs nothing; it asks the owner, and says busy while
// nobody owns it.
func TestPermissionOnlyByTheOwner(t *testing.T) {
	b := newBench(t)
	id := b.writing()
	owner, asked := "a2", ""
	b.inst.owner = func(string) string { return owner }
	b.inst.forward = func(_ context.Context, to, session string, _ install.PermissionRequest) (install.PermissionEnvelope, error) {
		asked = to + " " + session
		return install.PermissionEnvelope{}, install.ErrBusy
	}
	if _, err := b.inst.Permit(t.Context(), id, hardware("DISK-1")); !errors.Is(err, install.ErrBusy) || asked != "a2 "+id {
		t.Errorf("%v, asked %q", err, asked)
	}
	owner, asked = "", ""
	if _, err := b.inst.Permit(t.Context(), id, hardware("DISK-1")); !errors.Is(err, install.ErrBusy) || asked != "" {
		t.Errorf("nobody owns it: %v, asked %q", err, asked)
	}
	if _, ok := b.journal.Latest(reconcile.KindPermission, "m1"); ok {
		t.Error("a permission was made by an agent that does not own the machine")
	}
}

// TestTokensDie: a boot token is good until its window ends, a session until the next one or the end of its binding.
func TestTokensDie(t *testing.T) {
	b := newBench(t)
	w := reconcile.Window{Machine: "m1", MAC: testMAC, Nonce: "old", Opened: time.Now().Add(-time.Hour), Until: time.Now().Add(-time.Minute)}
	b.add(reconcile.KindWindow, "m1", intent.Epoch{Generation: 1, N: 1}, w)
	sg, err := b.inst.signers()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.hello(sg.boot(w), "boot-1"); !errors.Is(err, install.ErrToken) {
		t.Errorf("a window that has ended: %v", err)
	}
	s, err := b.hello(b.window("n1"), "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	next, err := b.hello(b.window("n2"), "boot-2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.inst.Progress(t.Context(), s.ID, install.Progress{}); !errors.Is(err, install.ErrSession) {
		t.Errorf("the session of an earlier boot: %v", err)
	}
	for _, id := range []string{"", ".", "..", "m1", "m1.x.y", next.ID + "x", strings.Repeat("a", 4096), "m2" + next.ID[2:]} {
		if _, err := b.inst.Progress(t.Context(), id, install.Progress{}); !errors.Is(err, install.ErrSession) {
			t.Errorf("session %.40q: %v", id, err)
		}
	}
}
