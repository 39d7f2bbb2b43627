package reconcile

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

func array(name, machineType string, count int) *intent.Object {
	return &intent.Object{
		APIVersion: "skerry/v1", Kind: intent.KindInstanceArray,
		Metadata: intent.Metadata{Name: name, Project: "shop", Site: "lon1", UID: "uid-" + name},
		Spec:     &intent.InstanceArraySpec{Infrastructure: "web", Count: count, MachineType: machineType, Image: "debian"},
	}
}

func siteView(majority bool, arrays ...*intent.Object) InstanceView {
	return InstanceView{
		Catalog: intent.NewCatalog(arrays...), Bindings: map[string]Binding{}, Majority: majority, Deleted: map[string]bool{},
		Cause: func(string) string { return "intent 1.2" },
	}
}

// carry does what the tasks ask for and returns the view after it.
func carry(v InstanceView, tasks []BindTask) InstanceView {
	now := map[string]Binding{}
	for uid, b := range v.Bindings {
		now[uid] = b
	}
	for _, t := range tasks {
		now[t.Binding.Instance] = t.Binding
	}
	v.Bindings = now
	return v
}

func drawView(t *rapid.T) InstanceView {
	var arrays []*intent.Object
	for i := range rapid.IntRange(0, 3).Draw(t, "arrays") {
		arrays = append(arrays, array(fmt.Sprintf("a%d", i), rapid.SampledFrom([]string{"small", "big"}).Draw(t, "type"), rapid.IntRange(0, 4).Draw(t, "count")))
	}
	v := siteView(rapid.Bool().Draw(t, "majority"), arrays...)
	for i := range rapid.IntRange(0, 6).Draw(t, "machines") {
		v.Candidates = append(v.Candidates, Candidate{Name: fmt.Sprintf("m%d", i), Type: rapid.SampledFrom([]string{"small", "big"}).Draw(t, "machine type")})
	}
	return v
}

// drawHistory lets a site live: bindings made, then arrays shrunk, grown, removed with or without a tombstone.
func drawHistory(t *rapid.T) InstanceView {
	v := drawView(t)
	for range rapid.IntRange(0, 3).Draw(t, "steps") {
		v = carry(v, PlanInstances(v))
		var arrays []*intent.Object
		for _, o := range v.Catalog.List(intent.KindInstanceArray) {
			switch rapid.SampledFrom([]string{"keep", "count", "absent", "tombstone"}).Draw(t, "change") {
			case "keep":
				arrays = append(arrays, o)
			case "count":
				s := o.Spec.(*intent.InstanceArraySpec)
				arrays = append(arrays, array(o.Metadata.Name, s.MachineType, rapid.IntRange(0, 4).Draw(t, "new count")))
			case "tombstone":
				v.Deleted[o.Metadata.UID] = true
			}
		}
		v.Catalog = intent.NewCatalog(arrays...)
		v.Majority = rapid.Bool().Draw(t, "majority")
	}
	return v
}

func TestPlanInstancesLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawHistory(t)
		tasks := PlanInstances(v)
		for range 3 { // maps have another order each time
			if d := cmp.Diff(tasks, PlanInstances(v)); d != "" {
				t.Fatalf("another order, another plan:\n%s", d)
			}
		}
		after := carry(v, tasks)
		owner := map[string]string{}
		for uid, b := range after.Bindings {
			if b.Released {
				continue
			}
			if other := owner[b.Machine]; other != "" {
				t.Fatalf("%s is given to %s and %s", b.Machine, other, uid)
			}
			owner[b.Machine] = uid
		}
		for _, task := range tasks {
			if task.Release {
				checkRelease(t, v, task)
			} else {
				checkBind(t, v, task)
			}
		}
		after.Candidates = nil // what was given is no longer available
		if again := PlanInstances(after); len(again) > 0 {
			t.Fatalf("carried out, and asked again: %+v", again)
		}
	})
}

func checkBind(t *rapid.T, v InstanceView, task BindTask) {
	b, old := task.Binding, v.Bindings[task.Binding.Instance]
	if old.Instance != "" && !old.Released {
		t.Fatalf("%s had %s and gets %s: bindings are sticky", b.Instance, old.Machine, b.Machine)
	}
	if b.Generation != old.Generation+1 {
		t.Fatalf("generation %d follows %d", b.Generation, old.Generation)
	}
	want := v.Catalog.ByUID(b.ArrayUID).Spec.(*intent.InstanceArraySpec).MachineType
	var fit []string
	for _, c := range v.Candidates {
		if c.Type == want {
			fit = append(fit, c.Name)
		}
		if c.Name == b.Machine && c.Type != want {
			t.Fatalf("%s of type %s for an array of %s", c.Name, c.Type, want)
		}
	}
	if !v.Majority && b.Machine != claim.Rendezvous(b.Instance, fit)[0] {
		t.Fatalf("without a majority %s took %s, not the first of its order", b.Instance, b.Machine)
	}
}

func checkRelease(t *rapid.T, v InstanceView, task BindTask) {
	b := task.Binding
	o := v.Catalog.ByUID(b.ArrayUID)
	smaller := o != nil && b.Index >= o.Spec.(*intent.InstanceArraySpec).Count
	if !smaller && !(o == nil && v.Deleted[b.ArrayUID]) {
		t.Fatalf("%s/%d gives %s back without tombstone or smaller count", b.Array, b.Index, b.Machine)
	}
}

func TestPlanInstances(t *testing.T) {
	three := []Candidate{{Name: "m2", Type: "small"}, {Name: "m1", Type: "small"}, {Name: "m3", Type: "big"}}
	t.Run("fills by name", func(t *testing.T) {
		v := siteView(true, array("web", "small", 3))
		v.Candidates = three
		var got []string
		for _, task := range PlanInstances(v) {
			got = append(got, fmt.Sprintf("%d:%s", task.Binding.Index, task.Binding.Machine))
		}
		if d := cmp.Diff([]string{"0:m1", "1:m2"}, got); d != "" {
			t.Fatal(d)
		}
	})
	t.Run("absence releases nothing", func(t *testing.T) {
		v := siteView(true, array("web", "small", 1))
		v.Candidates = three
		v = carry(v, PlanInstances(v))
		v.Catalog = intent.NewCatalog()
		if got := PlanInstances(v); len(got) > 0 {
			t.Fatalf("got %+v", got)
		}
		v.Deleted["uid-web"] = true
		if got := PlanInstances(v); len(got) != 1 || !got[0].Release || !got[0].Binding.Released {
			t.Fatalf("got %+v", got)
		}
	})
	t.Run("a tombstone of an array that is there again", func(t *testing.T) {
		v := siteView(true, array("web", "small", 1))
		v.Candidates = three
		v = carry(v, PlanInstances(v))
		v.Deleted["uid-web"] = true // an override removed it, the active intent has it again
		if got := PlanInstances(v); len(got) > 0 {
			t.Fatalf("got %+v", got)
		}
	})
}

// TestTaken: what was planned is compared with the bindings at the moment of writing.
func TestTaken(t *testing.T) {
	b := Binding{Instance: "i1", Machine: "m1", Generation: 2}
	past := Binding{Instance: "i1", Machine: "m0", Generation: 1, Released: true}
	f := func(name string, release, want bool, now ...Binding) {
		t.Helper()
		m := map[string]Binding{}
		for _, x := range now {
			m[x.Instance] = x
		}
		if got := (BindTask{Binding: b, Release: release, Was: b.Generation - 1}).taken(m, nil); (got != "") != want {
			t.Errorf("%s: taken = %q, want taken %v", name, got, want)
		}
	}
	other := Binding{Instance: "i2", Machine: "m1", Generation: 1}
	f("free", false, false, past)
	f("instance has one", false, true, Binding{Instance: "i1", Machine: "m7", Generation: 1})
	f("instance had two since", false, true, Binding{Instance: "i1", Machine: "m7", Generation: 2, Released: true})
	f("machine went elsewhere", false, true, past, other)
	other.Released = true
	f("machine came back", false, false, past, other)
	f("release of a standing one", true, false, b)
	b2 := b
	b2.Released = true
	f("release twice", true, true, b2)
	f("release of an earlier binding", true, true, Binding{Instance: "i1", Machine: "m9", Generation: 3})
	f("release of an absent one", true, true)
	b.Displaced = true
	f("release of one that has its machine alone by now", true, true, b)
}

// TestShrunkIsNotBehind: an agent that was away and reads from its peers' journal of instances which its own intent does not ask for yet
// gives none of them back. What a tombstone says counts whoever is behind.
func TestShrunkIsNotBehind(t *testing.T) {
	v := siteView(true, array("web", "small", 3))
	for _, m := range []string{"m1", "m2", "m3"} {
		v.Candidates = append(v.Candidates, Candidate{Name: m, Type: "small"})
	}
	v.Cause = func(string) string { return "intent 1.9" }
	v = carry(v, PlanInstances(v))
	v.Catalog = intent.NewCatalog(array("web", "small", 1)) // of intent 1.5
	for knows, want := range map[bool]int{false: 0, true: 2} {
		v.Knows = func(cause string) bool { return knows && cause == "intent 1.9" }
		if got := PlanInstances(v); len(got) != want {
			t.Errorf("intent 1.9 known %v: %d are given back, want %d", knows, len(got), want)
		}
	}
	v.Catalog, v.Deleted = intent.NewCatalog(), map[string]bool{"uid-web": true}
	v.Knows = func(string) bool { return false }
	if got := PlanInstances(v); len(got) != 3 {
		t.Errorf("deleted: %d are given back, want 3", len(got))
	}
}
