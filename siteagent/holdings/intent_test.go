package holdings

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// TestIntentOf: the assets of the active intent, those that are pinned to other sites only if something here uses them, and those that an
// entry names which waits.
func TestIntentOf(t *testing.T) {
	a := sitetest.NewAuthor(t)
	r, db := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	used := ""
	receive := func(env *intent.Envelope) Intent {
		t.Helper()
		if _, err := r.Receive(t.Context(), []*intent.Envelope{env}); err != nil {
			t.Fatal(err)
		}
		return IntentOf(r, "lon1", func(name string, _ *intent.AssetSpec) bool { return name == used })
	}
	in := receive(a.Put(sitetest.SiteDoc, sitetest.AssetDoc("kernel"), sitetest.AssetDoc("tiny")))
	if len(in.Wanted) != 2 || len(in.Next) != 0 || in.Head.Seq != 1 {
		t.Fatalf("%+v", in)
	}
	generation := 1
	pinned := func(pin string) string { // newer each time
		generation++
		doc := strings.Replace(sitetest.AssetDoc("tiny"), `"generation":1`, fmt.Sprintf(`"generation":%d`, generation), 1)
		return strings.TrimSuffix(doc, "}}") + `,"pin":` + pin + "}}"
	}
	in = receive(a.Put(pinned(`{"sites":["par1"]}`)))
	if len(in.Wanted) != 1 || len(in.Others) != 1 || in.Others[0].Digest != digest("tiny") {
		t.Fatalf("pinned to another site: %+v", in)
	}
	used = "tiny"
	if in = IntentOf(r, "lon1", func(name string, _ *intent.AssetSpec) bool { return name == used }); len(in.Wanted) != 2 || len(in.Others) != 0 {
		t.Fatalf("pinned to another site, and used: %+v", in)
	}
	used = ""
	if in = receive(a.Put(pinned(`{}`))); len(in.Wanted) != 1 {
		t.Fatalf("where it is used: %+v", in)
	}
	if in = receive(a.Put(pinned(`{"sites":["par1","lon1"]}`))); len(in.Wanted) != 2 {
		t.Fatalf("pinned here: %+v", in)
	}
	a.Requires.Trust = 9
	in = receive(a.Put(sitetest.AssetDoc("later"), sitetest.MachineTypeDoc("small", 1)))
	if len(in.Wanted) != 2 || in.Head.Seq != 4 || !slices.Equal(in.Next, []intent.Digest{digest("later")}) {
		t.Fatalf("with an entry that waits: %+v", in)
	}
}
