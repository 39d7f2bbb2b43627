package override

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// KindOverride is the journal's kind; the key is the override's id, the body a Record.
const KindOverride = "override"

// Record is one override in the journal.
type Record struct {
	Envelope intent.Envelope `json:"envelope"`
	Doc      intent.Override `json:"doc"` // the decoded payload
}

// The states of an override.
const (
	StateLocal     = "local"     // the coordinator does not know it yet
	StateConflict  = "conflict"  // the coordinator changed the same object meanwhile; the site's value stands
	StateAdopted   = "adopted"   // acknowledged, and part of the active intent
	StateDiscarded = "discarded" // acknowledged, and void
)

// Sign makes the document of d.
func Sign(d intent.Override, key ed25519.PrivateKey) (*Record, error) {
	payload, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("cannot encode override %s: %w", d.ID, err)
	}
	env, err := document.Sign(intent.PayloadOverride, payload, key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign override %s: %w", d.ID, err)
	}
	return &Record{Envelope: *env, Doc: d}, nil
}

// State says how far one override got, from the acknowledgements and the active objects (by uid or key).
func State(d intent.Override, active *intent.Catalog, acks map[string]intent.AckBody) string {
	if a, ok := acks[d.ID]; ok {
		if a.Decision == "adopt" {
			return StateAdopted
		}
		return StateDiscarded
	}
	rev := uint64(0)
	if o := active.Get(d.Key); o != nil {
		rev = o.Metadata.Rev
	}
	if before, ok := acks[d.Base.After]; ok && before.Decision == "adopt" && before.Rev == rev {
		return StateLocal // the object went on by the site's own change before this one
	}
	if rev != d.Base.Rev {
		return StateConflict
	}
	return StateLocal
}

// Standing returns the id of the unsettled override that stands over an object now, "" when none does.
func Standing(active *intent.Catalog, acks map[string]intent.AckBody, overrides []intent.Override, k intent.Key) string {
	id := ""
	for _, d := range inOrder(overrides) {
		if st := State(d, active, acks); d.Key == k && (st == StateLocal || st == StateConflict) {
			id = d.ID
		}
	}
	return id
}

// Overlay is the active intent with the unsettled overrides over it.
type Overlay struct {
	Catalog *intent.Catalog
	Deleted map[string]bool   // uids that an override removed, or that only discarded ones made
	Cause   map[string]string // uid -> id of the override that stands over it, or that deleted it
}

// Effective lays unsettled overrides over the active objects, in the order in which they were made; the last one of an
// object stands. The objects of active are shared, never changed.
func Effective(active *intent.Catalog, acks map[string]intent.AckBody, overrides []intent.Override) (Overlay, error) {
	o := Overlay{Catalog: active.Clone(), Deleted: map[string]bool{}, Cause: map[string]string{}}
	void := map[string]bool{} // uids that settled overrides made in vain or removed: true; that the coordinator took over: false
	for _, d := range inOrder(overrides) {
		obj, err := intent.DecodeObject(d.Object)
		if err != nil {
			return o, fmt.Errorf("cannot use override %s: %w", d.ID, err)
		}
		uid := obj.Metadata.UID
		switch State(d, active, acks) {
		case StateAdopted:
			void[uid] = d.Op == intent.OverrideTombstone
			continue
		case StateDiscarded:
			if _, told := void[uid]; d.Op == intent.OverridePut && d.Base.Rev == 0 && !told {
				void[uid] = true
			}
			continue
		}
		if d.Op == intent.OverrideTombstone {
			o.Catalog.Delete(d.Key)
			o.Deleted[uid], o.Cause[uid] = true, d.ID
			continue
		}
		obj.Metadata.Origin = "override"
		o.Catalog.Put(obj)
		o.Cause[uid] = d.ID
		delete(o.Deleted, uid)
	}
	for uid, gone := range void { // the chain may never have named it; then no tombstone will
		if gone && o.Catalog.ByUID(uid) == nil {
			o.Deleted[uid] = true
		}
	}
	return o, nil
}

// inOrder sorts by the order in which the site took them.
func inOrder(ds []intent.Override) []intent.Override {
	out := slices.Clone(ds)
	slices.SortFunc(out, intent.Override.Compare)
	return out
}

// Charge returns the machines by type that a change adds for its project: only what is more than before counts.
func Charge(before, after *intent.Catalog, project, site string) map[string]int {
	was, is := before.Wanted(project, site), after.Wanted(project, site)
	out := map[string]int{}
	for t, n := range is {
		if n > was[t] {
			out[t] = n - was[t]
		}
	}
	return out
}

// Spent sums the charges of a project's unsettled overrides.
func Spent(overrides []intent.Override, project string, active *intent.Catalog, acks map[string]intent.AckBody) map[string]int {
	out := map[string]int{}
	for _, d := range overrides {
		st := State(d, active, acks)
		if d.Key.Scope != project || st == StateAdopted || st == StateDiscarded {
			continue
		}
		for t, n := range d.Charge {
			out[t] += n
		}
	}
	return out
}

// Exceeds names the first machine type whose offline quota the sum exceeds, in order of names; "" when none does.
func Exceeds(q *intent.QuotaSpec, spent, charge map[string]int) string {
	var types []string
	for t := range charge {
		types = append(types, t)
	}
	slices.Sort(types)
	for _, t := range types {
		allowed := 0
		if q != nil {
			allowed = q.Offline.Machines[t]
		}
		if spent[t]+charge[t] > allowed {
			return t
		}
	}
	return ""
}
