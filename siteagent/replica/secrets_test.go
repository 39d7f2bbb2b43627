package replica_test

import (
	"fmt"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// TestDataKeysEnd: a data key counts until everything that was sealed under it was told again under a newer one, however many entries
// that takes; a secret that is not told again keeps its own. What was told to others is nobody's here.
func TestDataKeysEnd(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	keys, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	b := seal.Binding{Domain: pkitest.Name, Site: a.Site, Agent: "a1"}
	s, db := sitetest.OpenReplicaOf(t, dir, a, "a1", keys)
	tell := func(n uint64, fresh bool, names ...string) *intent.Envelope {
		t.Helper()
		d, err := seal.DEKFrom(n, seal.NewSecret([]byte(fmt.Sprintf("%032d", n))))
		if err != nil {
			t.Fatal(err)
		}
		var body intent.SecretBody
		if fresh {
			w, err := d.Wrap(keys.SealPublic(), b)
			if err != nil {
				t.Fatal(err)
			}
			w.To = "a1"
			body.DEKs = append(body.DEKs, w)
		}
		for _, name := range names {
			rec, err := d.Seal(b, name, n, seal.NewSecret([]byte(fmt.Sprintf("%s under %d", name, n))))
			if err != nil {
				t.Fatal(err)
			}
			rec.To = "a1"
			body.Records = append(body.Records, rec, intent.SealedRecord{Name: "theirs", To: "a2", DEK: 9, Ver: 9, CT: []byte("x")})
		}
		return a.Entry(intent.EntrySecret, body)
	}
	check := func(what string, newest uint64, behind int, want map[string]uint64) {
		t.Helper()
		if n, k := s.DataKey(); n != newest || k != behind {
			t.Errorf("%s: data key %d, %d behind; want %d, %d", what, n, k, newest, behind)
		}
		for name, under := range want {
			got, err := s.Secret(name)
			if text := fmt.Sprintf("%s under %d", name, under); err != nil || string(got.Reveal()) != text {
				t.Errorf("%s: %s is %q, %v; want %q", what, name, got.Reveal(), err, text)
			}
		}
	}
	receive := func(envs ...*intent.Envelope) {
		t.Helper()
		if n, err := s.Receive(t.Context(), envs); n != len(envs) || err != nil {
			t.Fatalf("Receive = %d, %v", n, err)
		}
	}
	receive(a.Put(sitetest.SiteDoc), tell(1, true, "bmc", "boot", "old"))
	check("told", 1, 0, map[string]uint64{"bmc": 1, "boot": 1, "old": 1})
	receive(tell(2, true, "bmc"))
	check("half told again", 2, 2, map[string]uint64{"bmc": 2, "boot": 1, "old": 1})
	receive(tell(2, false, "boot"))
	check("all but the one that only this site has", 2, 1, map[string]uint64{"bmc": 2, "boot": 2, "old": 1})
	receive(tell(3, true, "bmc", "boot"))
	check("again", 3, 1, map[string]uint64{"bmc": 3, "boot": 3, "old": 1})
	receive(tell(3, false, "old"))
	for _, reopened := range []bool{false, true} {
		if reopened {
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			s, db = sitetest.OpenReplicaOf(t, dir, a, "a1", keys)
		}
		check(fmt.Sprintf("everything, reopened %v", reopened), 3, 0, map[string]uint64{"bmc": 3, "boot": 3, "old": 3})
	}
	defer db.Close()
	if got := s.DataKeys(); len(got) != 1 || got[0] != 3 {
		t.Errorf("data keys %v are kept, want 3 alone", got)
	}
}
