package members

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
)

// A spare takes an agent's place at every peer, not while that agent is seen alive, and counts as an agent until the coordinator has
// made it one; then the admission has done its work.
func TestAdmission(t *testing.T) {
	s := newSite(t, "a1", "a2", "a3", "spare:s1", "spare:s2")
	env := func(spare, replaces string) *intent.Envelope {
		t.Helper()
		s.agents[spare].Addr, s.agents[spare].Boot = []string{"10.0.0.9:7444"}, []string{"10.88.0.19"}
		e, err := s.agents[spare].NewAdmission(replaces)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	s.gone["s1"], s.gone["s2"] = true, true
	if err := s.agents["a1"].Admit(t.Context(), env("s1", "a2")); !errors.Is(err, ErrAlive) {
		t.Errorf("a spare comes in while a2 is alive: %v", err)
	}
	s.want("a1", "a1 a2 a3")
	s.gone["a2"] = true
	for range 2 { // told twice
		if err := s.agents["a1"].Admit(t.Context(), env("s1", "a2")); err != nil {
			t.Fatal(err)
		}
	}
	s.want("a1", "a1 a3 s1")
	s.want("a3", "a1 a3 s1")
	r := s.agents["a3"].Replica.State().Roster
	if m := r.Agents[2]; r.Generation != 2 || m.State != intent.StateAgent || m.Addr[0] != "10.0.0.9:7444" || m.Boot[0] != "10.88.0.19" {
		t.Errorf("the spare stands at %v, %v as %s, generation %d", m.Addr, m.Boot, m.State, r.Generation)
	}
	if n := len(s.agents["a3"].Admissions()); n != 1 {
		t.Errorf("%d admissions go up, want 1", n)
	}

	// Its own box, with nobody there.
	if s.agents["s1"].Entered() {
		t.Error("s1 entered before it did")
	}
	if err := s.agents["s1"].Enter(t.Context(), env("s1", "a2")); err != nil {
		t.Fatal(err)
	}
	s.open("s1")
	s.want("s1", "a1 a3 s1")
	if !s.agents["s1"].Entered() {
		t.Error("s1 forgot over a restart that it entered")
	}

	// The coordinator makes it an agent, and lets a2 join again: the admission is done.
	body := *s.agents["a1"].Replica.State().Signed
	body.Generation = 9
	body.Agents = append([]intent.RosterAgent{}, body.Agents...)
	for i := range body.Agents {
		if body.Agents[i].ID == "s1" {
			body.Agents[i].State = intent.StateAgent
		}
	}
	if _, err := s.agents["a1"].Replica.Receive(t.Context(), []*intent.Envelope{s.author.Entry(intent.EntryRoster, body)}); err != nil {
		t.Fatal(err)
	}
	s.want("a1", "a1 a2 a3 s1")
	if n := len(s.agents["a1"].Admissions()); n != 0 {
		t.Errorf("%d admissions go up after the coordinator took them", n)
	}
}

// Who was replaced makes way when it is told, until its spare is cut off itself.
func TestToldOfSpare(t *testing.T) {
	s := newSite(t, "a1", "a2", "spare:s1")
	for n := range s.agents {
		s.gone[n] = true // nobody has a session
	}
	a1, a2 := s.agents["a1"], s.agents["a2"]
	s.agents["s1"].Addr, s.agents["s1"].Boot = []string{"10.0.0.9:7444"}, []string{}
	env := func(replaces string) *intent.Envelope {
		t.Helper()
		e, err := s.agents["s1"].NewAdmission(replaces)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if err := a1.Admit(t.Context(), env("a2")); err != nil {
		t.Fatal(err)
	}
	told, spare := a1.Replacing("a2")
	if none, _ := a1.Replacing("a1"); told == nil || spare != "s1" || none != nil {
		t.Fatalf("a2 is replaced by %q, a1: %v", spare, none)
	}
	if err := a2.Told(t.Context(), env("a1")); !errors.Is(err, document.ErrAdmission) {
		t.Errorf("in another's place: %v", err)
	}
	s.want("a2", "a1 a2")
	for range 2 {
		if err := a2.Told(t.Context(), told); err != nil {
			t.Fatal(err)
		}
		s.want("a2", "a1 s1")
	}
	if got := a2.Barred()["a2"]; got != "replaced by s1" {
		t.Errorf("it says %q", got)
	}
	for _, at := range []string{"a1", "a2"} { // as it came to a2 by a1's journal, once a1 has a session with it again
		s.quarantine(at, "s1", true, false)
		s.want(at, "a1 a2")
	}
}

// What is no admission of this site's spare is refused, and changes nothing.
func TestForgedAdmissions(t *testing.T) {
	s := newSite(t, "a1", "a2", "spare:s1")
	s.gone["a2"] = true
	stranger, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	good := intent.Admission{Site: "lon1", Spare: "s1", Replaces: "a2", Time: time.Unix(0, 0).UTC(), Addr: []string{"10.0.0.9:7444"}, Boot: []string{}}
	f := func(what string, by *seal.Keys, change func(*intent.Admission)) {
		t.Helper()
		a := good
		change(&a)
		payload, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		env, err := document.Sign(intent.PayloadAdmission, payload, by.Sign)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.agents["a1"].Admit(t.Context(), env); !errors.Is(err, document.ErrAdmission) {
			t.Errorf("%s: %v", what, err)
		}
		if got := s.roster("a1"); got != "a1 a2" {
			t.Errorf("%s: %q count", what, got)
		}
	}
	f("a stranger's", stranger, func(*intent.Admission) {})
	f("an agent's in the spare's name", s.keys["a2"], func(*intent.Admission) {})
	f("another site's", s.keys["s1"], func(a *intent.Admission) { a.Site = "par1" })
	f("for itself", s.keys["s1"], func(a *intent.Admission) { a.Replaces = "s1" })
	f("for nobody", s.keys["s1"], func(a *intent.Admission) { a.Replaces = "b7" })
	f("nowhere", s.keys["s1"], func(a *intent.Admission) { a.Addr = nil })
	f("at a bad address", s.keys["s1"], func(a *intent.Admission) { a.Addr = []string{"x"} })
	f("with a bad name", s.keys["s1"], func(a *intent.Admission) { a.Replaces = "../a2" })
}

// A kit holds an identity whole: it opens with its key only, into an empty place only, and nothing but the four files comes out.
func TestKit(t *testing.T) {
	dir := t.TempDir()
	keys, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := PackKit(dir, seal.Lock{}, &bytes.Buffer{}); err == nil {
		t.Error("half an identity is packed")
	}
	if err := os.WriteFile(filepath.Join(dir, "identity.json"), []byte(`{"site":"lon1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	pass := seal.NewSecret([]byte("a passphrase of the test"))
	var b bytes.Buffer
	if err := PackKit(dir, seal.Lock{Passphrase: pass}, &b); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b.Bytes(), []byte("lon1")) {
		t.Error("the kit is readable")
	}
	to := filepath.Join(t.TempDir(), "keys")
	if err := UnpackKit(bytes.NewReader(b.Bytes()), seal.Key{Passphrase: pass}, to); err != nil {
		t.Fatal(err)
	}
	for _, n := range kitFiles() {
		was, err1 := os.ReadFile(filepath.Join(dir, n))
		is, err2 := os.ReadFile(filepath.Join(to, n))
		if d := cmp.Diff(was, is); d != "" || err1 != nil || err2 != nil {
			t.Errorf("%s: %v, %v, %s", n, err1, err2, d)
		}
		if st, err := os.Stat(filepath.Join(to, n)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", n, st.Mode(), err)
		}
	}
	if err := UnpackKit(bytes.NewReader(b.Bytes()), seal.Key{Passphrase: pass}, to); err == nil {
		t.Error("a kit is unpacked over an identity")
	}
	forge := func(what, text string) {
		t.Helper()
		var f bytes.Buffer
		w, err := seal.Lock{Passphrase: pass}.Encrypt(&f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		into := filepath.Join(t.TempDir(), "keys")
		if err := UnpackKit(&f, seal.Key{Passphrase: pass}, into); err == nil {
			t.Errorf("%s is unpacked", what)
		}
		if _, err := os.Stat(filepath.Join(into, "identity.json")); err == nil {
			t.Errorf("%s left an identity", what)
		}
	}
	forge("a path", `{"version":1,"files":{"../../etc/passwd":"AA=="}}`)
	forge("half a kit", `{"version":1,"files":{"identity.json":"AA=="}}`)
	forge("a later version", `{"version":2,"files":{}}`)
}
