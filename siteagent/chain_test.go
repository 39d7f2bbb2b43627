package siteagent

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/state"
)

// author signs what a coordinator would.
type author struct {
	t      testing.TB
	root   ed25519.PrivateKey
	writer ed25519.PrivateKey
	site   string
	trust  *intent.Envelope
	head   intent.Head
}

func newAuthor(t testing.TB) *author {
	t.Helper()
	a := &author{t: t, site: "lon1"}
	var err error
	if _, a.root, err = ed25519.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	if _, a.writer, err = ed25519.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	r, err := ca.NewRoot("edge.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Sub("C1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	public := func(k ed25519.PrivateKey) []byte { return document.MarshalKey(k.Public().(ed25519.PublicKey)) }
	body := intent.TrustBody{
		Header: document.Follow(intent.Head{}, intent.StreamTrust, 0, time.Now()), Domain: "edge.example",
		Roots:   intent.RootSet{Threshold: 1, Keys: [][]byte{public(a.root)}},
		CAs:     []intent.CACert{{Cert: c.Cert.Raw, Root: r.Cert.Raw, State: intent.KeyUse}},
		Writers: []intent.Writer{{Key: public(a.writer), Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse}},
	}
	a.trust = a.sign(intent.PayloadTrust, body, a.root)
	return a
}

func (a *author) sign(kind string, v any, key ed25519.PrivateKey) *intent.Envelope {
	a.t.Helper()
	payload, err := json.Marshal(v)
	if err != nil {
		a.t.Fatal(err)
	}
	env, err := document.Sign(kind, payload, key)
	if err != nil {
		a.t.Fatal(err)
	}
	return env
}

// entry signs one entry onto the author's head and moves it.
func (a *author) entry(kind intent.EntryKind, body any) *intent.Envelope {
	a.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	e := intent.Entry{Header: document.Follow(a.head, intent.StreamIntent, 1, time.Now()), Site: a.site, Kind: kind, Body: raw}
	env := a.sign(intent.PayloadIntent, e, a.writer)
	a.head = e.Head(env.Payload)
	return env
}

func (a *author) put(docs ...string) *intent.Envelope {
	a.t.Helper()
	var b intent.PutBody
	for _, d := range docs {
		o, err := intent.DecodeObject([]byte(d))
		if err != nil {
			a.t.Fatal(err)
		}
		raw, err := json.Marshal(o)
		if err != nil {
			a.t.Fatal(err)
		}
		b.Objects = append(b.Objects, intent.PutObject{UID: o.Metadata.UID, Rev: o.Metadata.Rev, Doc: raw})
	}
	return a.entry(intent.EntryPut, b)
}

const siteDoc = `{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1","uid":"s1","generation":1},"spec":{"region":"eu","zone":"a"}}`

func machineTypeDoc(name string, rev int) string {
	return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"MachineType","metadata":{"name":%q,"uid":%q,"generation":%d},"spec":{"cpu":{"min":1},"memoryMiB":{"min":1}}}`, name, "u-"+name, rev)
}

func openTestSite(t testing.TB, dir string, a *author) (*site, *state.DB) {
	t.Helper()
	key := make([]byte, 32)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := state.Open(state.Config{Dir: filepath.Join(dir, "state"), Key: key, Logger: log, UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1})
	if err != nil {
		t.Fatal(err)
	}
	marks, mark, err := state.OpenMarks(dir, key)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	ring := seal.NewRing(seal.Binding{Domain: "edge.example", Site: "lon1", Agent: "a1"}, keys)
	s, err := openSite(db, marks, mark, "lon1", "a1", a.trust.Digest(), ring, trust.NewFloor(buildTime(), time.Time{}), log)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddTrust([]*intent.Envelope{a.trust}); err != nil {
		t.Fatal(err)
	}
	return s, db
}

func names(s *site) map[string]bool {
	m := map[string]bool{}
	for _, o := range s.State().Objects {
		m[o.Metadata.Name] = true
	}
	return m
}

// TestIntentOnlyMovesForward: promise 3. What is replayed, forked, truncated, of another site or of another signer changes
// nothing; the last good state stays and a reopened store stands where it stood.
func TestIntentOnlyMovesForward(t *testing.T) {
	a, dir := newAuthor(t), t.TempDir()
	s, db := openTestSite(t, dir, a)
	first := a.put(siteDoc)
	afterFirst := a.head
	second := a.put(machineTypeDoc("small", 1))
	if n, err := s.Receive(t.Context(), []*intent.Envelope{first, second}); n != 2 || err != nil {
		t.Fatalf("Receive = %d, %v; want 2, nil", n, err)
	}
	good := s.State().Head
	if good != a.head || !names(s)["small"] {
		t.Fatalf("active %v, want %v with the objects", good, a.head)
	}

	fork := newAuthorLike(a, afterFirst)
	forked := fork.put(machineTypeDoc("forked", 1))
	other := newAuthorLike(a, a.head)
	other.site = "par1"
	stranger := newAuthor(t)
	stranger.head = a.head
	ahead := newAuthorLike(a, a.head)
	ahead.put(machineTypeDoc("lost", 1))
	gap := ahead.put(machineTypeDoc("late", 1))
	f := func(what string, env *intent.Envelope, want error) {
		t.Helper()
		n, err := s.Receive(t.Context(), []*intent.Envelope{env})
		if n != 0 || !errors.Is(err, want) {
			t.Errorf("%s: Receive = %d, %v; want 0, %v", what, n, err, want)
		}
		if s.State().Head != good {
			t.Errorf("%s moved the head", what)
		}
	}
	f("a fork", forked, document.ErrFork)
	f("another site's entry", other.put(machineTypeDoc("x", 1)), document.ErrOtherSite)
	f("a stranger's entry", stranger.put(machineTypeDoc("x", 1)), document.ErrSigner)
	f("a truncated chain", gap, document.ErrGap)
	if n, err := s.Receive(t.Context(), []*intent.Envelope{first, second}); n != 0 || err != nil {
		t.Errorf("a replay: Receive = %d, %v; want 0, nil", n, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = openTestSite(t, dir, a)
	defer db.Close()
	if s.State().Head != good || db.Recovering() {
		t.Errorf("after reopening: head %v, recovering %v; want %v, false", s.State().Head, db.Recovering(), good)
	}
}

func newAuthorLike(a *author, head intent.Head) *author {
	c := *a
	c.head = head
	return &c
}

// TestBadEntryKeepsLastGood: an entry whose body does not hold together is staged and rejected with its reason; what came
// before it is active, and the entry that makes it whole activates both.
func TestBadEntryKeepsLastGood(t *testing.T) {
	a := newAuthor(t)
	s, db := openTestSite(t, t.TempDir(), a)
	defer db.Close()
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.put(siteDoc), a.put(machineTypeDoc("small", 1))}); err != nil {
		t.Fatal(err)
	}
	good := a.head
	image := `{"apiVersion":"skerry/v1","kind":"Image","metadata":{"name":"tiny","uid":"i1","generation":1},"spec":{"asset":"tiny","boot":["bios"],"format":"raw"}}`
	asset := fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Asset","metadata":{"name":"tiny","uid":"as1","generation":1},"spec":{"digest":%q,"size":1,"manifest":%q,"class":"image"}}`,
		intent.DigestOf([]byte("a")).String(), intent.DigestOf([]byte("m")).String())
	if n, err := s.Receive(t.Context(), []*intent.Envelope{a.put(machineTypeDoc("large", 1)), a.put(image)}); n != 2 || err != nil {
		t.Fatalf("Receive = %d, %v", n, err)
	}
	st := s.State()
	if st.Head.Seq != good.Seq+1 || st.Rejected == "" || !names(s)["large"] || names(s)["tiny"] {
		t.Fatalf("active %v, rejected %q, objects %v: want the run up to the bad entry, and a reason", st.Head, st.Rejected, names(s))
	}
	if n, err := s.Receive(t.Context(), []*intent.Envelope{a.put(asset)}); n != 1 || err != nil {
		t.Fatalf("Receive = %d, %v", n, err)
	}
	if st := s.State(); st.Head != a.head || st.Rejected != "" || !names(s)["tiny"] {
		t.Errorf("active %v, rejected %q; want %v, none", st.Head, st.Rejected, a.head)
	}
}

// TestGenerationNeverGoesBack: a validly signed entry that takes an object back to an older generation is rejected.
func TestGenerationNeverGoesBack(t *testing.T) {
	a := newAuthor(t)
	s, db := openTestSite(t, t.TempDir(), a)
	defer db.Close()
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.put(machineTypeDoc("small", 5)), a.put(machineTypeDoc("small", 4))}); err != nil {
		t.Fatal(err)
	}
	if st := s.State(); st.Head.Seq != 1 || st.Rejected == "" {
		t.Errorf("active %v, rejected %q; want seq 1 and a reason", st.Head, st.Rejected)
	}
}

// TestOnlyTombstonesRemove: promise 4. An object that later entries do not mention stays; a tombstone removes it for good.
func TestOnlyTombstonesRemove(t *testing.T) {
	a, dir := newAuthor(t), t.TempDir()
	s, db := openTestSite(t, dir, a)
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.put(machineTypeDoc("small", 1)), a.put(machineTypeDoc("large", 1))}); err != nil {
		t.Fatal(err)
	}
	if !names(s)["small"] {
		t.Fatal("an object that was not mentioned went away")
	}
	tomb := a.entry(intent.EntryTombstone, intent.TombstoneBody{Objects: []intent.TombstoneObject{{Kind: intent.KindMachineType, UID: "u-small", Rev: 2}}})
	if _, err := s.Receive(t.Context(), []*intent.Envelope{tomb}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = openTestSite(t, dir, a)
	defer db.Close()
	if n := names(s); n["small"] || !n["large"] {
		t.Errorf("objects %v after the tombstone, want large only", n)
	}
	if _, ok := s.State().Tombs["u-small"]; !ok {
		t.Error("the tombstone is not remembered")
	}
}

// TestManyObjects: an agent that is far behind activates thousands of objects, in runs that fit a transaction.
func TestManyObjects(t *testing.T) {
	a := newAuthor(t)
	s, db := openTestSite(t, t.TempDir(), a)
	defer db.Close()
	const total = 5000
	var envs []*intent.Envelope
	var docs []string
	for i := range total {
		docs = append(docs, machineTypeDoc(fmt.Sprintf("t%d", i), 1))
		if len(docs) == intent.MaxObjects || i == total-1 {
			envs = append(envs, a.put(docs...))
			docs = nil
		}
	}
	if n, err := s.Receive(t.Context(), envs); n != len(envs) || err != nil {
		t.Fatalf("Receive = %d, %v; want %d", n, err, len(envs))
	}
	if st := s.State(); st.Head != a.head || len(st.Objects) != total || st.Rejected != "" {
		t.Errorf("active %v with %d objects, rejected %q; want %v with %d", st.Head, len(st.Objects), st.Rejected, a.head, total)
	}
}

// TestRestoredCopyRecovers: a store that is older than the marks claims nothing until it is level again.
func TestRestoredCopyRecovers(t *testing.T) {
	a, dir := newAuthor(t), t.TempDir()
	s, db := openTestSite(t, dir, a)
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.put(siteDoc)}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "old")
	if out, err := exec.Command("cp", "-a", filepath.Join(dir, "state"), old).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s, db = openTestSite(t, dir, a)
	second := a.put(machineTypeDoc("small", 1))
	if _, err := s.Receive(t.Context(), []*intent.Envelope{second}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Close(), os.RemoveAll(filepath.Join(dir, "state")), os.Rename(old, filepath.Join(dir, "state"))); err != nil {
		t.Fatal(err)
	}
	s, db = openTestSite(t, dir, a)
	defer db.Close()
	if !db.Recovering() || s.Level() {
		t.Errorf("recovering %v, level %v: an older copy was restored, and the agent does not notice", db.Recovering(), s.Level())
	}
	if err := s.SaveMarks(); err != nil {
		t.Fatal(err)
	}
	if s.Level() {
		t.Error("the marks were lowered to the restored copy")
	}
	if _, err := s.Receive(t.Context(), []*intent.Envelope{second}); err != nil {
		t.Fatal(err)
	}
	if !s.Level() {
		t.Error("not level after taking what was lost")
	}
}
