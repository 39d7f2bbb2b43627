package reconcile

import (
	"fmt"
	"maps"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// InstanceUID names instance i of an array for its whole life: the same array and index give the same uid on every agent.
func InstanceUID(arrayUID string, index int) string {
	return intent.DigestOf(fmt.Appendf(nil, "instance|%s|%d", arrayUID, index)).Short()
}

// Candidate is a machine that may be given to an instance.
type Candidate struct {
	Name string
	Type string
	// Generation is the highest that an allocation of the machine ever had: tasks, permissions and phone-homes are told apart by it.
	Generation uint64
}

// InstanceView is everything that decides who gets which machine.
type InstanceView struct {
	Catalog    *intent.Catalog
	Bindings   map[string]Binding // by instance uid, released ones too
	Candidates []Candidate        // available, unbound, reachable
	Majority   bool               // bindings can be claimed by a majority
	Deleted    map[string]bool    // uids of arrays whose tombstone, or deleting override, was seen
	Displaced  map[string]string  // instances whose machine another one has, with the uid of that one
	Cause      func(arrayUID string) string
	Knows      func(cause string) bool // nil: every one
}

// BindTask gives a machine to an instance, or (Release) takes it back.
type BindTask struct {
	Binding Binding
	Release bool
	Was     uint64 // generation of the instance's binding when this was planned
	Cause   string // of a release
}

// PlanInstances returns the bindings to make and to release, in a fixed order. Bindings are sticky: a standing one is kept
// whatever would be chosen today. A binding whose array is merely absent is kept too (promise 4): only a tombstone or a
// smaller count releases, and a count only in an intent as new as the one that bound it; or that another instance has the machine.
// Without a majority an instance takes only the first machine of its rendezvous order.
func PlanInstances(v InstanceView) []BindTask {
	var tasks []BindTask
	taken := map[string]bool{}
	for _, b := range v.Bindings {
		if !b.Released {
			taken[b.Machine] = true
		}
	}
	seen := map[string]bool{}
	for _, o := range v.Catalog.List(intent.KindInstanceArray) {
		spec := o.Spec.(*intent.InstanceArraySpec)
		seen[o.Metadata.UID] = true
		for i := range spec.Count {
			uid := InstanceUID(o.Metadata.UID, i)
			if b, ok := v.Bindings[uid]; ok && !b.Released {
				continue
			}
			m := v.choose(uid, spec.MachineType, taken)
			if m == "" {
				continue
			}
			taken[m] = true
			tasks = append(tasks, BindTask{Binding: v.bind(o, spec, i, m), Was: v.Bindings[uid].Generation})
		}
	}
	for _, uid := range slices.Sorted(maps.Keys(v.Bindings)) {
		b := v.Bindings[uid]
		if b.Released {
			continue
		}
		shrunk := false
		for _, o := range v.Catalog.List(intent.KindInstanceArray) {
			shrunk = shrunk || (o.Metadata.UID == b.ArrayUID && b.Index >= o.Spec.(*intent.InstanceArraySpec).Count)
		}
		if shrunk && v.Knows != nil && !v.Knows(b.Cause) {
			shrunk = false // the array was larger when the instance was bound, in an intent that this agent has not heard yet
		}
		b.Displaced = v.Displaced[uid] != ""
		if shrunk || (!seen[b.ArrayUID] && v.Deleted[b.ArrayUID]) || b.Displaced {
			b.Released = true
			tasks = append(tasks, BindTask{Binding: b, Release: true, Cause: v.ended(b.ArrayUID)})
		}
	}
	return tasks
}

func (v InstanceView) bind(o *intent.Object, spec *intent.InstanceArraySpec, i int, machine string) Binding {
	uid := InstanceUID(o.Metadata.UID, i)
	b := Binding{
		Instance: uid, Project: o.Metadata.Project, Array: o.Metadata.Name, ArrayUID: o.Metadata.UID, Index: i, Machine: machine,
		Generation: v.generation(uid, machine) + 1, Image: spec.Image, Cause: v.Cause(o.Metadata.UID),
	}
	if img, _, ok := intent.Lookup[*intent.ImageSpec](v.Catalog, intent.KindImage, "", spec.Image); ok {
		if a, _, ok := intent.Lookup[*intent.AssetSpec](v.Catalog, intent.KindAsset, "", img.Asset); ok {
			b.Digest = a.Digest
		}
	}
	return b
}

// ended says what released an instance of an array: the change that stands over the array, or the intent.
func (v InstanceView) ended(arrayUID string) string {
	if v.Cause == nil {
		return ""
	}
	return v.Cause(arrayUID)
}

// generation returns the highest that the instance or the machine had.
func (v InstanceView) generation(uid, machine string) uint64 {
	n := v.Bindings[uid].Generation
	for _, c := range v.Candidates {
		if c.Name == machine {
			n = max(n, c.Generation)
		}
	}
	return n
}

// choose returns the machine for an instance: the first fitting one by name, so that small sites fill in the order in which
// they were racked; without a majority the first of the instance's rendezvous order, and nothing if that one is taken.
func (v InstanceView) choose(uid, machineType string, taken map[string]bool) string {
	var names []string
	for _, c := range v.Candidates {
		if c.Type == machineType {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	if !v.Majority {
		if names = claim.Rendezvous(uid, names); len(names) > 1 {
			names = names[:1]
		}
	}
	for _, n := range names {
		if !taken[n] {
			return n
		}
	}
	return ""
}
