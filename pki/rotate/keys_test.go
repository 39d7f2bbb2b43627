package rotate

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/pkitest"
)

// Each key counts from the document or certificate that brought it; what is retired does not count; a key that went and came
// back counts from when it came back.
func TestSigned(t *testing.T) {
	d := pkitest.New(t)
	other, err := d.RootCA.Sub("c2", pkitest.Now().Add(30*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	docs := []*intent.TrustBody{d.Trust}
	add := func(days int, change func(*intent.TrustBody)) {
		b := *docs[len(docs)-1]
		b.Issued = pkitest.Now().Add(time.Duration(days) * 24 * time.Hour)
		change(&b)
		docs = append(docs, &b)
	}
	w1 := d.Trust.Writers[0]
	retired := w1
	retired.State = intent.KeyRetire
	w2 := intent.Writer{Key: []byte("w2"), Epoch: 2, Mode: intent.ModeContinue, State: intent.KeyUse}
	f := func(want ...string) {
		t.Helper()
		keys, err := Signed(docs)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, k := range keys {
			got = append(got, string(k.Kind)+" "+k.Owner+" "+k.Made.Sub(pkitest.Now()).String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	f("root root 1 0s", "writer epoch 1 0s", "ca c1 0s")
	add(10, func(b *intent.TrustBody) { b.Writers = []intent.Writer{w1, w2} })
	f("root root 1 0s", "writer epoch 1 0s", "writer epoch 2 240h0m0s", "ca c1 0s")
	add(20, func(b *intent.TrustBody) { b.Writers = []intent.Writer{retired, w2} })
	add(30, func(b *intent.TrustBody) {
		b.CAs = []intent.CACert{{Cert: other.Cert.Raw, Root: d.RootCA.Cert.Raw, State: intent.KeyUse}, {Cert: d.CA.Cert.Raw, Root: d.RootCA.Cert.Raw, State: intent.KeyRetire}}
		b.Roots = intent.RootSet{Threshold: 1, Keys: [][]byte{[]byte("new")}}
	})
	f("root root 1 720h0m0s", "writer epoch 2 240h0m0s", "ca c2 720h0m0s")
	add(40, func(b *intent.TrustBody) { b.Roots = d.Trust.Roots })
	f("root root 1 960h0m0s", "writer epoch 2 240h0m0s", "ca c2 720h0m0s")
}

// An agent in rotation is as old as its newer key; the oldest of each kind comes first.
func TestAgentsAndOldest(t *testing.T) {
	d := pkitest.New(t)
	n := d.Agent("lon1", "a1", "")
	k, ok, err := OfAgent("lon1", intent.RosterAgent{ID: "a1", Certs: [][]byte{n.Leaf.Certificate[0], n.Web.Certificate[0]}})
	if want := (Key{Agent, "lon1/a1", pkitest.Now()}); err != nil || !ok || !k.Made.Equal(want.Made) || k.Owner != want.Owner {
		t.Errorf("%v %v %v", k, ok, err)
	}
	if _, ok, err := OfAgent("lon1", intent.RosterAgent{ID: "a1"}); ok || err != nil {
		t.Errorf("an agent without certificates: %v, %v", ok, err)
	}
	if _, _, err := OfAgent("lon1", intent.RosterAgent{ID: "a1", Certs: [][]byte{[]byte("x")}}); err == nil {
		t.Error("a broken certificate has an age")
	}
	at := func(kind Kind, owner string, days int) Key {
		return Key{kind, owner, pkitest.Now().Add(time.Duration(days) * 24 * time.Hour)}
	}
	got := Oldest([]Key{at(Agent, "x", 5), at(CA, "c", 3), at(Agent, "y", 2), at(Root, "r", 4)})
	if diff := cmp.Diff([]Key{at(Agent, "y", 2), at(CA, "c", 3), at(Root, "r", 4)}, got); diff != "" {
		t.Error(diff)
	}
	if k := at(Root, "r", 1); k.Age(pkitest.Now()) != 0 || k.Age(pkitest.Now().Add(48*time.Hour)) != 24*time.Hour {
		t.Error("wrong age")
	}
	if made, err := Made(d.CA.Cert.Raw); err != nil || !made.Equal(d.CA.Cert.NotBefore.Add(ca.Backdate)) {
		t.Errorf("%v, %v", made, err)
	}
}
