package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
)

var here = Binding{Domain: "example.net", Site: "lon1", Agent: "a1"}

func keys(t testing.TB) *Keys {
	t.Helper()
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealedRecord(t *testing.T) {
	k := keys(t)
	d, err := NewDEK(6)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := d.Wrap(k.SealPublic(), here)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := d.Seal(here, "bmc/m1", 5, NewSecret([]byte("hunter2")))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(rec.CT, []byte("hunter2")) || bytes.Contains(wrapped.CT, d.Key().Reveal()) {
		t.Fatal("plaintext in sealed bytes")
	}
	r := NewRing(here, k)
	if _, err := r.Open(rec); !errors.Is(err, ErrNoDEK) {
		t.Errorf("before the data key: %v", err)
	}
	if err := r.Add(wrapped); err != nil {
		t.Fatal(err)
	}
	got, err := r.Open(rec)
	if err != nil || string(got.Reveal()) != "hunter2" {
		t.Fatalf("Open = %v", err)
	}
	again, err := DEKFrom(6, d.Key())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Open(here, rec); err != nil {
		t.Error(err)
	}

	// Whatever part of the binding changes, nothing opens.
	f := func(what string, b Binding, change func(*intent.SealedRecord), want error) {
		t.Helper()
		m := rec
		m.CT = bytes.Clone(rec.CT)
		change(&m)
		if _, err := d.Open(b, m); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	same := func(*intent.SealedRecord) {}
	f("domain", Binding{"evil.net", "lon1", "a1"}, same, ErrSealed)
	f("site", Binding{"example.net", "par3", "a1"}, same, ErrSealed)
	f("agent", Binding{"example.net", "lon1", "a2"}, same, ErrSealed)
	f("name", here, func(r *intent.SealedRecord) { r.Name = "bmc/m2" }, ErrSealed)
	f("version", here, func(r *intent.SealedRecord) { r.Ver = 4 }, ErrSealed)
	f("to", here, func(r *intent.SealedRecord) { r.To = "a2" }, ErrSealed)
	f("dek", here, func(r *intent.SealedRecord) { r.DEK = 7 }, ErrNoDEK)
	f("bit", here, func(r *intent.SealedRecord) { r.CT[20] ^= 1 }, ErrSealed)
	f("cut", here, func(r *intent.SealedRecord) { r.CT = r.CT[:3] }, ErrSealed)

	for what, change := range map[string]func(*intent.SealedDEK){
		"number": func(s *intent.SealedDEK) { s.DEK = 7 },
		"alg":    func(s *intent.SealedDEK) { s.Alg = "none" },
		"bit":    func(s *intent.SealedDEK) { s.CT[3] ^= 1 },
		"enc":    func(s *intent.SealedDEK) { s.Enc = s.Enc[1:] },
	} {
		m := wrapped
		m.CT, m.Enc = bytes.Clone(wrapped.CT), bytes.Clone(wrapped.Enc)
		change(&m)
		if err := NewRing(here, k).Add(m); !errors.Is(err, ErrSealed) {
			t.Errorf("data key with changed %s: %v", what, err)
		}
	}
	if err := NewRing(here, keys(t)).Add(wrapped); !errors.Is(err, ErrSealed) {
		t.Errorf("another agent's key unwrapped: %v", err)
	}
	if _, err := d.Seal(here, "a|b", 1, Secret{}); err == nil {
		t.Error("a name with the separator was sealed")
	}
}

func TestSecretShowsNothing(t *testing.T) {
	s := NewSecret([]byte("hunter2"))
	type outer struct{ S Secret }
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "s", s, "o", outer{s})
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "s", s, "o", outer{s})
	j, err := json.Marshal(map[string]any{"s": s, "p": &s, "o": outer{s}})
	if err != nil {
		t.Fatal(err)
	}
	d, err := DEKFrom(1, NewSecret(bytes.Repeat([]byte("hunter2!"), 4)))
	if err != nil {
		t.Fatal(err)
	}
	out := log.String() + string(j) + fmt.Sprintf("%v %+v %#v %s %q %x %d %v %+v %x", s, s, s, s, s, s, s, outer{s}, &s, outer{s}) + fmt.Errorf("e %w %v", errors.New("x"), s).Error() + fmt.Sprintf("%v", d.key)
	for _, leak := range []string{"hunter2", "68756e74657232", "104 117", "aHVudGVyMg"} {
		if strings.Contains(out, leak) {
			t.Errorf("%q in %s", leak, out)
		}
	}
	if string(s.Reveal()) != "hunter2" || s.IsZero() || !(Secret{}).IsZero() {
		t.Error("the secret itself is lost")
	}
}

func TestKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	k, err := LoadOrGenerate(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrGenerate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !k.TLS.Equal(again.TLS) || !k.Sign.Equal(again.Sign) || !bytes.Equal(k.SealPublic(), again.SealPublic()) {
		t.Error("loaded other keys than were saved")
	}
	es, err := os.ReadDir(dir)
	if err != nil || len(es) != 3 {
		t.Fatalf("%d files, %v", len(es), err)
	}
	for _, e := range es {
		if i, err := e.Info(); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", e.Name(), i.Mode(), err)
		}
	}
	if err := os.Remove(filepath.Join(dir, fileSeal)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrGenerate(dir); err == nil {
		t.Error("a mixed set of keys was made")
	}

	sealed, want, err := Challenge(k.SealPublic())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Answer(sealed); err != nil || !bytes.Equal(got, want.Reveal()) {
		t.Errorf("Answer: %v", err)
	}
	if _, err := keys(t).Answer(sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("another key answered: %v", err)
	}
	if _, _, err := Challenge([]byte("x")); err == nil {
		t.Error("challenged a non-key")
	}
}

func FuzzOpen(f *testing.F) {
	k := keys(f)
	d, err := NewDEK(1)
	if err != nil {
		f.Fatal(err)
	}
	w, err := d.Wrap(k.SealPublic(), here)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(w.Enc, []byte("x"), []byte("ct"))
	f.Add([]byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, enc, ct, rec []byte) {
		r := NewRing(here, k)
		if err := r.Add(intent.SealedDEK{To: "a1", DEK: 1, Alg: AlgDEK, Enc: enc, CT: ct}); err == nil {
			t.Fatal("unwrapped what nobody wrapped")
		}
		if _, err := d.Open(here, intent.SealedRecord{Name: "n", To: "a1", DEK: 1, CT: rec}); err == nil {
			t.Fatal("opened what nobody sealed")
		}
	})
}
