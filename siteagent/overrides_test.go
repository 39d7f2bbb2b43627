package siteagent

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/auditlog"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/override"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/state"
)

// cutOffSite is a site that may be changed by itself: project acme with three small machines offline.
func cutOffSite(t *testing.T) (*sitetest.Author, *overrides) {
	t.Helper()
	a, o, _ := cutOffStore(t)
	return a, o
}

// cutOffStore is cutOffSite with its store.
func cutOffStore(t *testing.T) (*sitetest.Author, *overrides, *state.DB) {
	t.Helper()
	a := sitetest.NewAuthor(t)
	r, db := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	if err := r.SeedRoster(intent.RosterAgent{ID: "a1", State: intent.StateAgent}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	log := slog.New(slog.DiscardHandler)
	j, err := claim.OpenJournal(db, a.Site, "a1", log)
	if err != nil {
		t.Fatal(err)
	}
	o := &overrides{w: effective.New(r, j), self: "a1", sign: func() ed25519.PrivateKey { return a.Writer }, claims: claim.NewClaims(db, "a1", "boot", alone{}, nil, log), log: log}
	o.audit = auditlog.New(auditlog.Config{Journal: j, Site: a.Site, Self: "a1", Sign: func() ed25519.PrivateKey { return a.Writer }, Live: func() []string { return nil }, Log: log})
	doc := func(kind, meta, spec string) string {
		return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":%q,"metadata":{%s,"generation":1},"spec":%s}`, kind, meta, spec)
	}
	receive(t, o, a.Put(
		sitetest.SiteDoc, sitetest.MachineTypeDoc("small", 1), sitetest.AssetDoc("tiny"), sitetest.ImageDoc,
		doc("Project", `"name":"acme","uid":"pr1"`, `{"sites":["lon1"]}`),
		doc("Quota", `"name":"q","project":"acme","site":"lon1","uid":"q1"`, `{"machines":{"small":9},"offline":{"machines":{"small":3}}}`),
		doc("Infrastructure", `"name":"shop","project":"acme","site":"lon1","uid":"inf1"`, `{}`),
		sitetest.ArrayDoc("web", 1, 1),
	))
	return a, o, db
}

// alone is the sight of a site with one agent.
type alone struct{}

func (alone) Members() (uint64, []claim.Member) {
	return 1, []claim.Member{{ID: "a1", Alive: true}}
}

// TestOverrides: a site that is cut off takes users' changes within the offline quota, journals who made them, and binds the
// coordinator to nothing.
func TestOverrides(t *testing.T) {
	a, o := cutOffSite(t)
	by := api.Caller{User: "ana", Token: "k3p9", Via: "token:k3p9"}
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
		return o.w.Now().Overlay.Catalog.Get(sitetest.Object(t, sitetest.ArrayDoc("web", 1, 1)).Key()).Spec.(*intent.InstanceArraySpec).Count
	}
	put := func(docs ...string) api.Batch {
		var batch api.Batch
		for _, d := range docs {
			batch.Put = append(batch.Put, sitetest.Object(t, d))
		}
		return batch
	}
	refused("an operator's kind", apply(put(sitetest.MachineTypeDoc("large", 1))), http.StatusConflict)
	refused("another site", apply(put(strings.ReplaceAll(sitetest.ArrayDoc("far", 1, 1), `"site":"lon1"`, `"site":"par1"`))), http.StatusConflict)
	refused("beyond the offline quota", apply(put(sitetest.ArrayDoc("web", 1, 5))), http.StatusConflict)
	refused("one part of a batch beyond it", apply(put(sitetest.ArrayDoc("web", 1, 3), sitetest.ArrayDoc("db", 1, 2))), http.StatusConflict)
	machine := func(serial, more string) string {
		return `{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m1","site":"lon1"},"spec":{"serial":"` + serial + `","nics":[{"mac":"52:54:00:88:00:01"}]` + more + `}}`
	}
	refused("a new machine", apply(put(machine("SN1", ""))), http.StatusConflict)
	receive(t, o, a.Put(strings.Replace(machine("SN1", ""), `"site":"lon1"`, `"site":"lon1","uid":"mm1","generation":1`, 1)))
	refused("a machine's serial number", apply(put(machine("SN2", ""))), http.StatusConflict)
	refused("a machine deleted", apply(api.Batch{Delete: []intent.Key{sitetest.Object(t, machine("SN1", "")).Key()}}), http.StatusConflict)
	if got := count(); got != 1 || len(o.pending()) != 0 {
		t.Fatalf("refused, and yet count %d, pending %d", got, len(o.pending()))
	}
	dry := put(sitetest.ArrayDoc("web", 1, 3))
	dry.DryRun = true
	if err := apply(dry); err != nil || count() != 1 {
		t.Fatalf("dry run: %v, count %d", err, count())
	}
	if err := apply(put(sitetest.ArrayDoc("web", 1, 3))); err != nil || count() != 3 {
		t.Fatalf("within the quota: %v, count %d", err, count())
	}
	refused("the rest of the quota and one more", apply(put(sitetest.ArrayDoc("db", 1, 2))), http.StatusConflict)
	if err := apply(put(sitetest.ArrayDoc("db", 1, 1))); err != nil {
		t.Fatalf("the rest of the quota: %v", err)
	}
	if err := apply(put(machine("SN1", `,"maintenance":true`))); err != nil {
		t.Fatalf("maintenance: %v", err)
	}
	if m, _, _ := intent.Lookup[*intent.MachineSpec](o.w.Now().Overlay.Catalog, intent.KindMachine, "lon1", "m1"); m == nil || !m.Maintenance {
		t.Errorf("machine %+v, want maintenance", m)
	}
	receive(t, o, a.Entry(intent.EntryAck, intent.AckBody{Override: o.pending()[2].Doc.ID, Decision: "discard"}))
	made := map[string]int{}
	if err := o.w.Journal.Events(nil, func(e intent.Event) error { made[e.Type]++; return nil }); err != nil || made["override.made"] != 3 {
		t.Errorf("events %v, %v; want three override.made", made, err)
	}
	pending := o.pending()
	if len(pending) != 2 || pending[0].Doc.Author.User != "ana" || pending[0].Doc.Base.Rev != 1 || pending[1].Doc.Prev != pending[0].Envelope.Digest().String() {
		t.Fatalf("pending %+v", pending)
	}
	states := func() map[string]string {
		out := map[string]string{}
		for _, r := range o.reports() {
			if r.Object.Kind == intent.KindMachine {
				continue
			}
			out[r.Object.Name] = r.State
		}
		return out
	}
	receive(t, o, a.Put(sitetest.ArrayDoc("web", 2, 2))) // the coordinator changes the same array
	if d := cmp.Diff(map[string]string{"web": override.StateConflict, "db": override.StateLocal}, states()); d != "" || count() != 3 {
		t.Fatalf("count %d (the site's value stands), states:\n%s", count(), d)
	}
	receive(t, o, a.Entry(intent.EntryAck, intent.AckBody{Override: pending[0].Doc.ID, Decision: "discard"}))
	if d := cmp.Diff(map[string]string{"web": override.StateDiscarded, "db": override.StateLocal}, states()); d != "" || count() != 2 {
		t.Fatalf("discarded: count %d, states:\n%s", count(), d)
	}
	if err := apply(put(sitetest.ArrayDoc("web", 1, 4))); err != nil { // what was discarded is free again
		t.Errorf("after the discard: %v", err)
	}
}

func receive(t *testing.T, o *overrides, env *intent.Envelope) {
	t.Helper()
	if n, err := o.w.Receive(t.Context(), []*intent.Envelope{env}); n != 1 || err != nil || o.w.State().Rejected != "" {
		t.Fatalf("Receive = %d, %v, %s", n, err, o.w.State().Rejected)
	}
}
