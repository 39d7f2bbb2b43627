package rotate

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/skerry-metal/skerry/pki/seal"
)

func offer(t testing.TB, keys *seal.Keys, change func(*Offer)) []byte {
	t.Helper()
	o, err := NewOffer(Order{N: 7, Want: WantKeys}, "lon1/a1", keys)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(o)
	}
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each key is proven, for this agent and this rotation.
func TestOffer(t *testing.T) {
	keys, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	other, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tls, err := keys.TLSPublic()
	if err != nil {
		t.Fatal(err)
	}
	o, got, err := Read(offer(t, keys, nil), "lon1/a1")
	if err != nil || string(got) != string(tls) || o.N != 7 {
		t.Fatalf("%+v, %v", o, err)
	}
	f := func(what, who string, change func(*Offer)) {
		t.Helper()
		if _, _, err := Read(offer(t, keys, change), who); !errors.Is(err, ErrOffer) {
			t.Errorf("%s: %v", what, err)
		}
	}
	foreign := &Offer{}
	if err := json.Unmarshal(offer(t, other, nil), foreign); err != nil {
		t.Fatal(err)
	}
	f("of another agent", "lon1/a2", nil)
	f("of another rotation", "lon1/a1", func(o *Offer) { o.N = 8 })
	f("another's request", "lon1/a1", func(o *Offer) { o.CSR = foreign.CSR })
	f("a broken request", "lon1/a1", func(o *Offer) { o.CSR = o.CSR[:40] })
	f("another's sign key", "lon1/a1", func(o *Offer) { o.Sign = foreign.Sign })
	f("another's seal key", "lon1/a1", func(o *Offer) { o.Seal = foreign.Seal })
	f("no seal key", "lon1/a1", func(o *Offer) { o.Seal = nil })
	f("no proof", "lon1/a1", func(o *Offer) { o.Proof = nil })
	if _, _, err := Read(make([]byte, MaxOffer+1), "lon1/a1"); !errors.Is(err, ErrOffer) {
		t.Errorf("too large: %v", err)
	}
	if _, _, err := Read([]byte(`{"n":7,"x":1}`), "lon1/a1"); err == nil {
		t.Error("an unknown field passes")
	}
}

func FuzzRead(f *testing.F) {
	keys, err := seal.Generate()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(offer(f, keys, nil))
	f.Add([]byte(`{"n":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, tls, err := Read(b, "lon1/a1")
		if err == nil && (o == nil || len(tls) == 0) {
			t.Fatal("nothing was read")
		}
	})
}
