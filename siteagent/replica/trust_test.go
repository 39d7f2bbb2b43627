package replica_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
)

// trustAfter signs the document after head; change edits it.
func trustAfter(a *sitetest.Author, head intent.Head, change func(*intent.TrustBody)) *intent.Envelope {
	b := *a.Trust
	b.Header = document.Follow(head, intent.StreamTrust, 0, a.Trust.Issued.Add(time.Hour))
	if change != nil {
		change(&b)
	}
	return a.Sign(intent.PayloadTrust, &b, a.Root)
}

// The trust stream is kept whole, goes on after a restart, and only forward: a fork is refused and stays as evidence, a copy of the
// store from before a document is found out by the marks.
func TestTrustStream(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	_, first := sitetest.OpenReplica(t, dir, a, "a1")
	old := t.TempDir()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	docs := []*intent.Envelope{a.Env}
	head := s.TrustHead()
	for range 3 {
		docs = append(docs, trustAfter(a, head, nil))
		head = intent.Head{Seq: head.Seq + 1, Hash: docs[len(docs)-1].Digest()}
	}
	elsewhere := func(b *intent.TrustBody) {
		b.Coordinators = []intent.Coordinator{{ID: "evil", Addr: []string{"192.0.2.1:1"}}}
	}
	second := intent.Head{Seq: 1, Hash: a.Env.Digest()}
	stranger := sitetest.NewAuthor(t)
	f := func(want error, seq uint64, forks int, envs ...*intent.Envelope) {
		t.Helper()
		if err := s.AddTrust(envs); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("AddTrust: %v, want %v", err, want)
		}
		if got := s.TrustHead().Seq; got != seq {
			t.Errorf("head is %d, want %d", got, seq)
		}
		if got, err := s.TrustForks(); err != nil || len(got) != forks {
			t.Errorf("evidence: %d documents, %v; want %d", len(got), err, forks)
		}
	}
	f(document.ErrGap, 1, 0, docs[2])
	f(document.ErrSigner, 1, 0, trustAfter(stranger, s.TrustHead(), nil))
	f(nil, 3, 0, docs[:3]...)
	f(document.ErrFork, 3, 1, trustAfter(a, intent.Head{Seq: 2, Hash: docs[1].Digest()}, elsewhere)) // in the head's place
	f(document.ErrFork, 3, 2, trustAfter(a, second, elsewhere))                                      // in an older one's
	f(document.ErrFork, 3, 2, trustAfter(a, second, elsewhere))
	f(document.ErrFork, 3, 3, trustAfter(a, intent.Head{Seq: 3, Hash: docs[1].Digest()}, nil)) // beside the head
	f(nil, 4, 3, docs...)

	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	f(nil, 4, 3)
	var got []intent.Digest
	if err := s.TrustFeed(2, func(env *intent.Envelope) error { got = append(got, env.Digest()); return nil }); err != nil || len(got) != 3 || got[2] != docs[3].Digest() {
		t.Errorf("feed from 2: %v, %v", got, err)
	}
	if db.Recovering() {
		t.Error("recovering after a plain restart")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	// The state of an older copy under the marks of today.
	for _, name := range []string{"marks.a", "marks.b"} {
		b, err := os.ReadFile(dir + "/" + name)
		if err == nil {
			err = os.WriteFile(old+"/"+name, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s, db = sitetest.OpenReplica(t, old, a, "a1")
	defer db.Close()
	if !db.Recovering() || s.Level() {
		t.Error("a copy from before the documents is not recovering")
	}
	f(nil, 4, 0, docs...)
	if !s.Level() {
		t.Error("not level with all documents")
	}
}

// After a change of roots, the documents that the old roots signed are still known ones: an agent that starts brings them again.
func TestTrustAfterNewRoots(t *testing.T) {
	a := sitetest.NewAuthor(t)
	next := sitetest.NewAuthor(t)
	a.Trust.Next = next.Trust.Roots.Digest()
	a.Env = a.Sign(intent.PayloadTrust, a.Trust, a.Root)
	dir := t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	b := *a.Trust
	b.Header, b.Roots, b.Next = document.Follow(s.TrustHead(), intent.StreamTrust, 0, b.Issued), next.Trust.Roots, intent.Digest{}
	both := a.Sign(intent.PayloadTrust, &b, a.Root)
	both.Signatures = append(both.Signatures, a.Sign(intent.PayloadTrust, &b, next.Root).Signatures...)
	if err := s.AddTrust([]*intent.Envelope{both}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1") // adds document 1
	defer db.Close()
	if s.TrustHead().Seq != 2 {
		t.Errorf("head is %d, want 2", s.TrustHead().Seq)
	}
}

// Entries of a retired writer count below an entry of a current one, never alone: whoever holds the old key cannot go on with it, and
// an agent that was away gets past the change.
func TestRetiredWriter(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	old := []*intent.Envelope{a.Put(sitetest.SiteDoc), a.Put(sitetest.MachineTypeDoc("small", 1))}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	next := intent.Writer{Key: document.MarshalKey(key.Public().(ed25519.PublicKey)), Epoch: 2, Mode: intent.ModeContinue, State: intent.KeyUse}
	body, err := json.Marshal(intent.PutBody{Objects: []intent.PutObject{}})
	if err != nil {
		t.Fatal(err)
	}
	newer := a.Sign(intent.PayloadIntent, intent.Entry{Header: document.Follow(a.Head, intent.StreamIntent, 2, time.Now()), Site: a.Site, Kind: intent.EntryPut, Body: body}, key)
	forged := a.Put(sitetest.MachineTypeDoc("small", 2)) // in the place of newer, by the old key

	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	f := func(want error, n int, seq uint64, envs ...*intent.Envelope) {
		t.Helper()
		got, err := s.Receive(t.Context(), envs)
		if !errors.Is(err, want) || (err == nil) != (want == nil) || got != n || s.State().Staged.Seq != seq {
			t.Errorf("%d new, %v, staged %d; want %d, %v, %d", got, err, s.State().Staged.Seq, n, want, seq)
		}
	}
	f(nil, 1, 1, old[0])
	if err := s.AddTrust([]*intent.Envelope{trustAfter(a, s.TrustHead(), func(b *intent.TrustBody) {
		was := b.Writers[0]
		was.State = intent.KeyRetire
		b.Writers = []intent.Writer{was, next}
	})}); err != nil {
		t.Fatal(err)
	}
	f(document.ErrRetired, 0, 1, old[1])
	f(document.ErrRetired, 0, 1, old...)
	f(document.ErrRetired, 0, 1, old[1], forged)
	f(document.ErrFork, 0, 1, old[1], forged, newer)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	defer db.Close()
	in := replica.Intake{Replica: s} // as they come over a line
	for _, env := range []*intent.Envelope{old[0], old[1]} {
		if err := in.Add(t.Context(), env, 1<<20); err != nil {
			t.Error(err)
		}
	}
	if err := in.End(t.Context()); !errors.Is(err, document.ErrRetired) || in.New != 0 {
		t.Errorf("a source that ends on a retired writer: %d new, %v", in.New, err)
	}
	if err := errors.Join(in.Add(t.Context(), newer, 1<<20), in.End(t.Context())); err != nil || in.New != 2 {
		t.Errorf("with what follows: %d new, %v", in.New, err)
	}
	f(nil, 0, 3, newer)
	f(nil, 0, 3, old...)
	if st := s.State(); st.Head != st.Staged || st.Head.Epoch != 2 {
		t.Errorf("active %v, staged %v: %s", st.Head, st.Staged, st.Rejected)
	}
}

// An entry waits for the trust document and the revocations that its writer knew: an old set of keys, or of who is revoked, is never
// mixed with new intent.
func TestEntryWaitsForWhatItRequires(t *testing.T) {
	a := sitetest.NewAuthor(t)
	s, _ := sitetest.OpenReplica(t, t.TempDir(), a, "a1")
	var said bytes.Buffer
	s.LogTo(slog.New(slog.NewTextHandler(&said, nil)))
	f := func(seq uint64, rejected string) {
		t.Helper()
		if st := s.State(); st.Head.Seq != seq || (st.Rejected == "") != (rejected == "") || !strings.Contains(st.Rejected, rejected) {
			t.Errorf("head %d, %q; want %d, %q", st.Head.Seq, st.Rejected, seq, rejected)
		}
	}
	receive := func() {
		t.Helper()
		if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(sitetest.SiteDoc)}); err != nil {
			t.Fatal(err)
		}
	}
	receive()
	f(1, "")
	a.Requires = intent.Requires{Trust: 2}
	receive()
	f(1, "trust 2")
	if err := s.AddTrust([]*intent.Envelope{trustAfter(a, s.TrustHead(), nil)}); err != nil {
		t.Fatal(err)
	}
	f(2, "")
	a.Requires = intent.Requires{Trust: 2, Revocation: 1}
	receive()
	f(2, "revocation 1")
	body := intent.RevocationBody{Header: document.Follow(intent.Head{}, intent.StreamRevocation, 1, time.Now()), Entries: []intent.Revocation{{Kind: intent.RevokeUser, ID: "eve"}}}
	if err := s.AddRevocations([]*intent.Envelope{a.Sign(intent.PayloadRevocation, &body, a.Writer)}); err != nil {
		t.Fatal(err)
	}
	f(3, "")
	if log := said.String(); strings.Count(log, "intent waits") != 2 || strings.Contains(log, "rejected") {
		t.Errorf("what only waits is no error:\n%s", log)
	}
}

// A coordinator whose clock leapt ahead poisons the floor. A trust document lowers it, and what was signed before that does not raise it
// again, not even where it arrives later; what is signed after it does.
func TestTrustLowersTheFloor(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	leapt, right := time.Now().AddDate(10, 0, 0), time.Now().Add(-time.Hour).Truncate(time.Second)
	a.Now, a.Requires = func() time.Time { return leapt }, intent.Requires{Trust: 1}
	floor := func() time.Time { return s.Floor().Value().Round(time.Minute) }
	f := func(want time.Time) {
		t.Helper()
		if got := floor(); !got.Equal(want.UTC().Round(time.Minute)) {
			t.Errorf("floor %v, want %v", got, want)
		}
	}
	receive := func() {
		t.Helper()
		if _, err := s.Receive(t.Context(), []*intent.Envelope{a.Put(sitetest.SiteDoc)}); err != nil {
			t.Fatal(err)
		}
	}
	receive()
	f(leapt)
	doc := trustAfter(a, s.TrustHead(), func(b *intent.TrustBody) { b.Issued, b.Floor = leapt.Add(time.Hour), &right })
	if err := s.AddTrust([]*intent.Envelope{doc}); err != nil {
		t.Fatal(err)
	}
	f(right)
	receive() // signed before
	f(right)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = sitetest.OpenReplica(t, dir, a, "a1")
	receive()
	if floor().After(time.Now()) {
		t.Errorf("after a restart what was signed before raises the floor to %v", floor())
	}
	a.Now, a.Requires = func() time.Time { return right.Add(3 * time.Hour) }, intent.Requires{Trust: 2}
	receive()
	f(right.Add(3 * time.Hour))
}
