package intent

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A catalog lists what is in it in one order, however it came to be; one that it was cloned from, and a list that somebody has, stay as
// they are.
func TestListFollowsChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := func() *Object {
			return &Object{Kind: rapid.SampledFrom([]Kind{KindSite, KindMachine, KindUser, KindSSHKey}).Draw(t, "kind"), Metadata: Metadata{
				Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"), Site: rapid.SampledFrom([]string{"", "s1", "s2"}).Draw(t, "site"), Project: "p",
			}}
		}
		c := NewCatalog()
		model := map[Key]*Object{}
		var before, listed []*Object
		var parent *Catalog
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				k := object().Key()
				c.Delete(k)
				delete(model, k)
			case 1:
				parent, before = c, slices.Clone(c.List(""))
				listed = c.List("")
				c = c.Clone()
			case 2:
				c.List(KindMachine)
			default:
				o := object()
				c.Put(o)
				model[o.Key()] = o
			}
			fresh := NewCatalog()
			for _, o := range model {
				fresh.Put(o)
			}
			if rapid.Bool().Draw(t, "look") && !slices.Equal(c.List(""), fresh.List("")) {
				t.Fatalf("has %v, want %v", c.List(""), fresh.List(""))
			}
			if parent != nil && (!slices.Equal(parent.List(""), before) || !slices.Equal(listed, before)) {
				t.Fatalf("the catalog that it was cloned from has %v, had %v", parent.List(""), before)
			}
		}
	})
}
