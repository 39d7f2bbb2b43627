package replica_test

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/state"
)

// theft is an agent of a domain whose roots are lost; the keys of next are those of the set that document 1 announces.
type theft struct {
	*testing.T
	a, next *sitetest.Author
	dir     string
	s       *replica.Replica
	db      *state.DB
}

func newTheft(t *testing.T) *theft {
	t.Helper()
	x := &theft{T: t, a: sitetest.NewAuthor(t), next: sitetest.NewAuthor(t), dir: t.TempDir()}
	x.a.Trust.Next = x.next.Trust.Roots.Digest()
	x.a.Env = x.a.Sign(intent.PayloadTrust, x.a.Trust, x.a.Root)
	x.open()
	t.Cleanup(func() { x.db.Close() })
	return x
}

func (x *theft) open() {
	x.Helper()
	x.s, x.db = sitetest.OpenReplica(x, x.dir, x.a, "a1")
}

func (x *theft) restart() {
	x.Helper()
	if err := x.db.Close(); err != nil {
		x.Fatal(err)
	}
	x.open()
}

// doc signs the document after head with key; change edits it.
func (x *theft) doc(head intent.Head, key ed25519.PrivateKey, change func(*intent.TrustBody)) *intent.Envelope {
	b := *x.a.Trust
	b.Header = document.Follow(head, intent.StreamTrust, 0, x.a.Trust.Issued.Add(time.Hour))
	if change != nil {
		change(&b)
	}
	return x.a.Sign(intent.PayloadTrust, &b, key)
}

func (x *theft) takeOver(b *intent.TrustBody) {
	b.Roots, b.Next = x.next.Trust.Roots, intent.DigestOf([]byte("the set after"))
}

func place(env *intent.Envelope, seq uint64) intent.Head {
	return intent.Head{Seq: seq, Hash: env.Digest()}
}

func (x *theft) add(want error, head intent.Head, envs ...*intent.Envelope) {
	x.Helper()
	if err := x.s.AddTrust(envs); !errors.Is(err, want) || (err == nil) != (want == nil) {
		x.Errorf("AddTrust: %v, want %v", err, want)
	}
	x.stands(head)
}

func (x *theft) stands(head intent.Head) {
	x.Helper()
	if got := x.s.TrustHead(); got != head {
		x.Errorf("head is %d %s, want %d %s", got.Seq, got.Hash.Short(), head.Seq, head.Hash.Short())
	}
	if x.db.Recovering() || !x.s.Level() {
		x.Errorf("recovering %v, level %v", x.db.Recovering(), x.s.Level())
	}
}

func (x *theft) offered(want *intent.Envelope) {
	x.Helper()
	got := x.s.OfferedTrust()
	if (got == nil) != (want == nil) || got != nil && got.Digest() != want.Digest() {
		x.Errorf("offered is %v, want %v", got != nil, want != nil)
	}
}

func (x *theft) accept(env *intent.Envelope, want error) {
	x.Helper()
	if _, _, err := x.s.AcceptTrust(env.Digest(), "ana", time.Now(), false); !errors.Is(err, want) || (err == nil) != (want == nil) {
		x.Errorf("AcceptTrust: %v, want %v", err, want)
	}
}

// Without a person nothing is followed and all goes on; with him the document counts, also after restarts, and who has the old roots
// cannot lead the agent back.
func TestAcceptTrust(t *testing.T) {
	x := newTheft(t)
	one := place(x.a.Env, 1)
	lone := x.doc(one, x.next.Root, x.takeOver)
	two := place(lone, 2)
	x.accept(lone, replica.ErrNotOffered)
	x.add(document.ErrOffered, one, lone)
	x.add(document.ErrOffered, one, x.a.Env, lone, x.doc(two, x.next.Root, x.takeOver))
	x.offered(lone)
	if _, err := x.s.Receive(t.Context(), []*intent.Envelope{x.a.Put(sitetest.SiteDoc)}); err != nil || x.s.State().Head.Seq != 1 {
		t.Errorf("under the old roots: %v, head %v", err, x.s.State().Head)
	}
	x.restart()
	x.offered(lone)
	if was, is, err := x.s.AcceptTrust(lone.Digest(), "ana", time.Now(), true); err != nil || was.Seq != 1 || is.Seq != 2 {
		t.Errorf("dry run: %v", err)
	}
	x.stands(one)
	x.accept(x.a.Env, replica.ErrNotOffered)
	x.accept(lone, nil)
	x.stands(two)
	x.offered(nil)
	x.accept(lone, replica.ErrNotOffered)
	x.restart()
	x.stands(two)
	x.add(nil, two, x.a.Env, lone)

	thief := x.doc(one, x.a.Root, nil)
	x.add(document.ErrFork, two, thief)
	x.add(document.ErrSigner, two, x.doc(two, x.a.Root, nil))
	third := x.doc(two, x.next.Root, x.takeOver)
	x.add(nil, place(third, 3), third)
	x.restart()
	x.stands(place(third, 3))
	if forks, err := x.s.TrustForks(); err != nil || len(forks) != 1 || forks[0].Digest() != thief.Digest() {
		t.Errorf("evidence: %d, %v", len(forks), err)
	}
	var seqs []intent.Digest
	if err := x.s.TrustFeed(0, func(env *intent.Envelope) error { seqs = append(seqs, env.Digest()); return nil }); err != nil || len(seqs) != 3 || seqs[1] != lone.Digest() {
		t.Errorf("feed: %d documents, %v", len(seqs), err)
	}
	if _, err := x.s.Receive(t.Context(), []*intent.Envelope{x.a.Put(sitetest.MachineTypeDoc("small", 1))}); err != nil || x.s.State().Head.Seq != 2 {
		t.Errorf("the writer of before counts still: %v, head %v", err, x.s.State().Head)
	}
}

// The thief was there first and is two documents ahead: the acceptance goes back over them, they are evidence, and the marks follow,
// also where the agent dies before it wrote them.
func TestAcceptTrustOverTheThief(t *testing.T) {
	x := newTheft(t)
	one := place(x.a.Env, 1)
	stolen := x.doc(one, x.a.Root, func(b *intent.TrustBody) { b.Next = intent.DigestOf([]byte("evil")) })
	more := x.doc(place(stolen, 2), x.a.Root, nil)
	x.add(nil, place(more, 3), stolen, more)
	lone := x.doc(one, x.next.Root, x.takeOver)
	x.add(document.ErrOffered, place(more, 3), lone)
	marks := map[string][]byte{} // as they are before the acceptance
	for _, name := range []string{"marks.a", "marks.b"} {
		b, err := os.ReadFile(filepath.Join(x.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		marks[name] = b
	}
	x.accept(lone, nil)
	x.stands(place(lone, 2))
	if err := x.db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, b := range marks {
		if err := os.WriteFile(filepath.Join(x.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	x.open()
	x.stands(place(lone, 2))
	x.add(document.ErrFork, place(lone, 2), stolen, more)
	if forks, err := x.s.TrustForks(); err != nil || len(forks) != 2 {
		t.Errorf("evidence: %d, %v", len(forks), err)
	}
	x.restart()
	x.stands(place(lone, 2))
	if err := x.s.TrustFeed(1, func(*intent.Envelope) error { return nil }); err != nil {
		t.Error(err)
	}
}

// One document waits at a time. Another one that comes by itself does not push it out; one that a person brings does. What cannot be
// accepted any more makes room.
func TestOneOffer(t *testing.T) {
	x := newTheft(t)
	one := place(x.a.Env, 1)
	first, second := x.doc(one, x.next.Root, x.takeOver), x.doc(one, x.next.Root, func(b *intent.TrustBody) { x.takeOver(b); b.Next = intent.Digest{} })
	x.add(document.ErrOffered, one, first)
	x.add(document.ErrOffered, one, second)
	x.offered(first)
	x.accept(second, replica.ErrNotOffered)
	if err := x.s.OfferTrust(second); !errors.Is(err, document.ErrOffered) {
		t.Error(err)
	}
	x.offered(second)
	x.restart()
	x.offered(second)
	both := x.doc(one, x.a.Root, x.takeOver) // the old roots were found again, and all is done as it should be
	both.Signatures = append(both.Signatures, x.doc(one, x.next.Root, x.takeOver).Signatures...)
	x.add(nil, place(both, 2), both)
	x.offered(nil)
	x.accept(second, replica.ErrNotOffered)
	x.restart()
	x.offered(nil)
	x.stands(place(both, 2))
}

// An accepted document that lowers the time floor does so.
func TestAcceptedFloor(t *testing.T) {
	x := newTheft(t)
	to := x.s.Floor().Value().Add(-time.Hour).Truncate(time.Second)
	lone := x.doc(place(x.a.Env, 1), x.next.Root, func(b *intent.TrustBody) { x.takeOver(b); b.Floor = &to })
	x.add(document.ErrOffered, place(x.a.Env, 1), lone)
	if x.s.Floor().Value().Before(to.Add(time.Minute)) {
		t.Error("what is offered lowered the floor")
	}
	x.accept(lone, nil)
	if got := x.s.Floor().Value(); got.After(to.Add(time.Minute)) {
		t.Errorf("floor %v, want %v", got, to)
	}
	chain := x.s.TrustChain()
	if chain.Floored != 2 {
		t.Errorf("floored by %d", chain.Floored)
	}
}

// An agent that joined under a later pin begins there, after a restart too.
func TestLaterPin(t *testing.T) {
	x := newTheft(t)
	lone := x.doc(place(x.a.Env, 1), x.next.Root, x.takeOver)
	third := x.doc(place(lone, 2), x.next.Root, x.takeOver)
	x.dir, x.a.Env = t.TempDir(), lone
	x.restart()
	x.stands(place(lone, 2))
	x.add(nil, place(third, 3), third)
	x.restart()
	x.stands(place(third, 3))
	n := 0
	if err := x.s.TrustFeed(1, func(*intent.Envelope) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("feed: %d, %v", n, err)
	}
}
