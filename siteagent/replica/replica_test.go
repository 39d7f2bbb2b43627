package replica_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

func names(s *replica.Replica) map[string]bool {
	m := map[string]bool{}
	for _, o := range s.State().Objects {
		m[o.Metadata.Name] = true
	}
	return m
}

// TestIntentOnlyMovesForward: promise 3. What is replayed, forked, truncated, of another site or of another signer changes
// nothing; the last good state stays and a reopened store stands where it stood.
func TestIntentOnlyMovesForward(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	first := a.Put(sitetest.SiteDoc)
	afterFirst := a.Head
	second := a.Put(sitetest.MachineTypeDoc("small", 1))
	if n, err := s.Receive(t.Context(), []*intent.Envelope{first, second}); n != 2 || err != nil {
		t.Fatalf("Receive = %d, %v; want 2, nil", n, err)
	}
	good := s.State().Head
	if good != a.Head || !names(s)["small"] {
		t.Fatalf("active %v, want %v with the objects", good, a.Head)
	}

	fork := a.At(afterFirst)
	forked := fork.Put(sitetest.MachineTypeDoc("forked", 1))
	other := a.At(a.Head)
	other.Site = "par1"
	stranger := sitetest.NewAuthor(t)
	stranger.Head = a.Head
	ahead := a.At(a.Head)
	ahead.Put(sitetest.MachineTypeDoc("lost", 1))
	gap := ahead.Put(sitetest.MachineTypeDoc("late", 1))
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
	f("another site's entry", other.Put(sitetest.MachineTypeDoc("x", 1)), document.ErrOtherSite)
	f("a stranger's entry", stranger.Put(sitetest.MachineTypeDoc("x", 1)), document.ErrSigner)
	f("a truncated chain", gap, document.ErrGap)
	if n, err := s.Receive(t.Context(), []*intent.Envelope{first, second}); n != 0 || err != nil {
		t.Errorf("a replay: Receive = %d, %v; want 0, nil", n, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	defer db.Close()
	if s.State().Head != good || db.Recovering() {
		t.Errorf("after reopening: head %v, recovering %v; want %v, false", s.State().Head, db.Recovering(), good)
	}
}

// TestBadEntryKeepsLastGood: an entry whose body does not hold together is staged and rejected with its reason; what came
// before it is active, and the entry that makes it whole activates both.
func TestBadEntryKeepsLastGood(t *testing.T) {
	a := sitetest.NewAuthor(t)
	s, db := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	defer db.Close()
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(sitetest.SiteDoc), a.Put(sitetest.MachineTypeDoc("small", 1))}); err != nil {
		t.Fatal(err)
	}
	good := a.Head
	image := `{"apiVersion":"skerry/v1","kind":"Image","metadata":{"name":"tiny","uid":"i1","generation":1},"spec":{"asset":"tiny","boot":["bios"],"format":"raw"}}`
	asset := fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Asset","metadata":{"name":"tiny","uid":"as1","generation":1},"spec":{"digest":%q,"size":1,"manifest":%q,"class":"image"}}`,
		intent.DigestOf([]byte("a")).String(), intent.DigestOf([]byte("m")).String())
	if n, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(sitetest.MachineTypeDoc("large", 1)), a.Put(image)}); n != 2 || err != nil {
		t.Fatalf("Receive = %d, %v", n, err)
	}
	st := s.State()
	if st.Head.Seq != good.Seq+1 || st.Rejected == "" || !names(s)["large"] || names(s)["tiny"] {
		t.Fatalf("active %v, rejected %q, objects %v: want the run up to the bad entry, and a reason", st.Head, st.Rejected, names(s))
	}
	if n, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(asset)}); n != 1 || err != nil {
		t.Fatalf("Receive = %d, %v", n, err)
	}
	if st := s.State(); st.Head != a.Head || st.Rejected != "" || !names(s)["tiny"] {
		t.Errorf("active %v, rejected %q; want %v, none", st.Head, st.Rejected, a.Head)
	}
}

// A site of many objects whose next entries do not hold together stays at the last good state, and each further entry costs one look at
// all objects, not one for each that waits.
func TestRejectedTail(t *testing.T) {
	const objects, tail = 50, 20
	a := sitetest.NewAuthor(t)
	s, db := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	defer db.Close()
	machine := func(i, rev int, more string) string {
		return fmt.Sprintf(`{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m%d","site":"lon1","uid":"u%d","generation":%d},"spec":{%s"nics":[{"mac":"52:54:00:00:00:%02x","boot":true}]}}`, i, i, rev, more, i)
	}
	takes := func(env *intent.Envelope, looks int) {
		t.Helper()
		before := s.Looks()
		if n, err := s.Receive(t.Context(), []*intent.Envelope{env}); n != 1 || err != nil {
			t.Fatalf("Receive = %d, %v", n, err)
		}
		if n := s.Looks() - before; n > looks {
			t.Errorf("entry %d costs %d looks at all objects, want at most %d", a.Head.Seq, n, looks)
		}
	}
	docs := []string{sitetest.SiteDoc}
	for i := range objects {
		docs = append(docs, machine(i, 1, ""))
	}
	takes(a.Put(docs...), 1)
	good := a.Head
	for i := range tail { // each asks for a secret that is not there
		takes(a.Put(machine(i, 2, fmt.Sprintf(`"bmc":{"address":"10.1.0.%d:443","protocol":"redfish","secret":"bmc"},`, i+1))), 2)
	}
	takes(a.Put(machine(objects-1, 2, "")), 2)
	if st := s.State(); st.Head != good || !strings.Contains(st.Rejected, fmt.Sprintf("entry %d:", a.Head.Seq)) {
		t.Fatalf("active %v, rejected %q", st.Head, st.Rejected)
	}
	before := s.Looks()
	if err := s.Retry(); err == nil || s.Looks() != before {
		t.Errorf("nothing is new: %v, %d looks", err, s.Looks()-before)
	}
	takes(a.Put(`{"apiVersion":"skerry/v1","kind":"Secret","metadata":{"name":"bmc","site":"lon1","uid":"sec","generation":1},"spec":{"type":"bmc"}}`), 1)
	if st := s.State(); st.Head != a.Head || st.Rejected != "" {
		t.Errorf("active %v, rejected %q; want %v, none", st.Head, st.Rejected, a.Head)
	}
}

// TestGenerationNeverGoesBack: a validly signed entry that takes an object back to an older generation is rejected.
func TestGenerationNeverGoesBack(t *testing.T) {
	a := sitetest.NewAuthor(t)
	s, db := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	defer db.Close()
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(sitetest.MachineTypeDoc("small", 5)), a.Put(sitetest.MachineTypeDoc("small", 4))}); err != nil {
		t.Fatal(err)
	}
	if st := s.State(); st.Head.Seq != 1 || st.Rejected == "" {
		t.Errorf("active %v, rejected %q; want seq 1 and a reason", st.Head, st.Rejected)
	}
}

// TestOnlyTombstonesRemove: promise 4. An object that later entries do not mention stays; a tombstone removes it for good.
func TestOnlyTombstonesRemove(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(sitetest.MachineTypeDoc("small", 1)), a.Put(sitetest.MachineTypeDoc("large", 1))}); err != nil {
		t.Fatal(err)
	}
	if !names(s)["small"] {
		t.Fatal("an object that was not mentioned went away")
	}
	tomb := a.Entry(intent.EntryTombstone, intent.TombstoneBody{Objects: []intent.TombstoneObject{{Kind: intent.KindMachineType, UID: "u-small", Rev: 2}}})
	if _, err := s.Receive(t.Context(), []*intent.Envelope{tomb}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
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
	a := sitetest.NewAuthor(t)
	s, db := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	defer db.Close()
	const total = 5000
	var envs []*intent.Envelope
	var docs []string
	for i := range total {
		docs = append(docs, sitetest.MachineTypeDoc(fmt.Sprintf("t%d", i), 1))
		if len(docs) == intent.MaxObjects || i == total-1 {
			envs = append(envs, a.Put(docs...))
			docs = nil
		}
	}
	if n, err := s.Receive(t.Context(), envs); n != len(envs) || err != nil {
		t.Fatalf("Receive = %d, %v; want %d", n, err, len(envs))
	}
	if st := s.State(); st.Head != a.Head || len(st.Objects) != total || st.Rejected != "" {
		t.Errorf("active %v with %d objects, rejected %q; want %v with %d", st.Head, len(st.Objects), st.Rejected, a.Head, total)
	}
}

// TestRestoredCopyRecovers: a store that is older than the marks claims nothing until it is level again.
func TestRestoredCopyRecovers(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(sitetest.SiteDoc)}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "old")
	if out, err := exec.Command("cp", "-a", filepath.Join(dir, "state"), old).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	second := a.Put(sitetest.MachineTypeDoc("small", 1))
	if _, err := s.Receive(t.Context(), []*intent.Envelope{second}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Close(), os.RemoveAll(filepath.Join(dir, "state")), os.Rename(old, filepath.Join(dir, "state"))); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
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

// TestDeathBetweenStageAndActivate: an agent that died after it kept an entry and before it used it uses it when it starts,
// also when nothing new ever comes.
func TestDeathBetweenStageAndActivate(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(sitetest.SiteDoc)}); err != nil {
		t.Fatal(err)
	}
	env := a.Put(sitetest.MachineTypeDoc("small", 1))
	if err := s.StageOnly(env); err != nil {
		t.Fatal(err)
	}
	if st := s.State(); names(s)["small"] || st.Staged != a.Head {
		t.Fatalf("staged %v, objects %v", st.Staged, names(s))
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	defer db.Close()
	if st := s.State(); st.Head != a.Head || !names(s)["small"] || db.Recovering() {
		t.Errorf("active %v of %v, objects %v, recovering %v", st.Head, a.Head, names(s), db.Recovering())
	}
}
