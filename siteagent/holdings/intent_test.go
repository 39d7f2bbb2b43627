package holdings

import (
	"slices"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// TestIntentOf: the assets of the active intent, and those that an entry names which waits.
func TestIntentOf(t *testing.T) {
	a := sitetest.NewAuthor(t)
	r, db := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	receive := func(env *intent.Envelope) Intent {
		t.Helper()
		if _, err := r.Receive(t.Context(), []*intent.Envelope{env}); err != nil {
			t.Fatal(err)
		}
		return IntentOf(r)
	}
	in := receive(a.Put(sitetest.SiteDoc, sitetest.AssetDoc("kernel"), sitetest.AssetDoc("tiny")))
	if len(in.Wanted) != 2 || len(in.Next) != 0 || in.Head.Seq != 1 {
		t.Fatalf("%+v", in)
	}
	a.Requires.Trust = 9
	in = receive(a.Put(sitetest.AssetDoc("later"), sitetest.MachineTypeDoc("small", 1)))
	if len(in.Wanted) != 2 || in.Head.Seq != 1 || !slices.Equal(in.Next, []intent.Digest{digest("later")}) {
		t.Fatalf("with an entry that waits: %+v", in)
	}
}
