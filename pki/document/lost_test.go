package document

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// lost is a domain whose roots (two of r) were lost or stolen; the set n was announced by its first document.
type lost struct {
	*testing.T
	r, n, evil  []ed25519.PrivateKey
	first       *intent.Envelope
	chain       TrustChain
	roots, next intent.RootSet
}

func newLost(t *testing.T) *lost {
	t.Helper()
	l := &lost{
		T: t, r: []ed25519.PrivateKey{key(11), key(12), key(13)}, n: []ed25519.PrivateKey{key(21), key(22)}, evil: []ed25519.PrivateKey{key(31), key(32)},
	}
	l.roots, l.next = rootSet(2, l.r...), rootSet(2, l.n...)
	l.first = sign(t, intent.PayloadTrust, trustBody(intent.Head{}, l.roots, l.next.Digest()), l.r[0], l.r[1])
	l.chain = TrustChain{Pin: l.first.Digest()}
	l.take(l.first, nil)
	return l
}

// doc signs the document after head.
func (l *lost) doc(head intent.Head, roots intent.RootSet, next intent.Digest, ks ...ed25519.PrivateKey) *intent.Envelope {
	l.Helper()
	return sign(l, intent.PayloadTrust, trustBody(head, roots, next), ks...)
}

func (l *lost) take(env *intent.Envelope, want error) {
	l.Helper()
	before := l.chain.Head
	_, err := l.chain.Accept(env)
	if !errors.Is(err, want) || (want == nil) != (err == nil) {
		l.Errorf("Accept = %v, want %v", err, want)
	}
	if err != nil && l.chain.Head != before {
		l.Error("a refused document moved the head")
	}
}

func (l *lost) let(env *intent.Envelope) { l.chain.Accepted = append(l.chain.Accepted, env.Digest()) }

func at(env *intent.Envelope, seq uint64) intent.Head {
	return intent.Head{Seq: seq, Hash: env.Digest()}
}

// What the announced roots sign alone is told apart from what is wrong, and counts by acceptance alone.
func TestOffered(t *testing.T) {
	l := newLost(t)
	one, other := at(l.first, 1), rootSet(2, key(41), key(42)).Digest()
	l.take(l.doc(one, l.next, other, l.n[0]), ErrSigner)                                                         // too few
	l.take(l.doc(one, l.next, other, l.n[0], l.n[0]), ErrSigner)                                                 // one counted twice
	l.take(l.doc(one, rootSet(2, l.evil...), other, l.evil...), ErrSigner)                                       // roots nobody announced
	l.take(l.doc(one, rootSet(1, l.n...), other, l.n...), ErrSigner)                                             // another threshold is another set
	l.take(l.doc(intent.Head{Seq: 1, Hash: intent.DigestOf(nil)}, l.next, other, l.n...), ErrSigner)             // it follows something else
	l.take(l.doc(intent.Head{Seq: 2, Hash: l.first.Digest()}, l.next, other, l.n...), ErrSigner)                 // it skips
	l.take(l.doc(one, l.next, other, l.r[0], l.n[1]), ErrSigner)                                                 // one of each
	l.take(sign(t, intent.PayloadIntent, trustBody(one, l.next, other), l.n...), ErrType)                        // another type
	l.take(sign(t, intent.PayloadTrust, map[string]any{"stream": "trust", "seq": 2, "x": 1}, l.n...), ErrSigner) // no such field
	away := trustBody(one, l.next, other)
	away.Domain = "evil.net"
	l.take(sign(t, intent.PayloadTrust, away, l.n...), ErrSigner)
	lone := l.doc(one, l.next, other, l.n...)
	l.take(lone, ErrOffered)
	l.take(lone, ErrOffered) // however often
	second := l.doc(one, l.next, intent.Digest{}, l.n...)
	l.let(second)
	l.take(lone, ErrOffered) // another was accepted, not this one
	l.chain.Accepted = nil
	l.let(lone)
	l.take(lone, nil)
	l.take(lone, ErrKnown)
	if l.chain.Anchor() != lone.Digest() || l.chain.Needs() != 1 || l.chain.Head.Seq != 2 {
		t.Errorf("anchor %s, needs %d, head %v", l.chain.Anchor().Short(), l.chain.Needs(), l.chain.Head)
	}
	// Who has the old roots goes nowhere any more: what he signs for the place is a fork.
	l.take(l.doc(one, l.roots, l.next.Digest(), l.r[0], l.r[2]), ErrFork)
	l.take(l.doc(at(lone, 2), l.roots, l.next.Digest(), l.r...), ErrSigner)
	l.take(second, ErrFork) // a set takes over once
	third := l.doc(at(lone, 2), l.next, other, l.n...)
	l.take(third, nil)
	l.take(lone, ErrReplay)
	l.take(l.first, ErrReplay)
	if l.chain.Needs() != 3 {
		t.Errorf("needs %d: a document that the new roots signed is waited for", l.chain.Needs())
	}
	for _, env := range []*intent.Envelope{l.doc(one, l.roots, l.next.Digest(), l.r...)} {
		l.take(env, ErrFork)
	}
}

// A thief of the old roots was faster, and even changed to roots of his own: the announced set takes the place back, when a person says so.
func TestOfferedAfterTheft(t *testing.T) {
	l := newLost(t)
	one, evil := at(l.first, 1), rootSet(2, l.evil...)
	stolen := l.doc(one, l.roots, evil.Digest(), l.r[0], l.r[1])
	l.take(stolen, nil)
	lone := l.doc(one, l.next, intent.Digest{}, l.n...)
	l.take(lone, ErrOffered)
	all := append([]ed25519.PrivateKey{l.r[0], l.r[1]}, l.evil...)
	gone := l.doc(at(stolen, 2), evil, intent.Digest{}, all...)
	l.take(gone, nil)
	l.take(l.doc(at(gone, 3), evil, intent.Digest{}, l.evil...), nil)
	l.take(lone, ErrOffered)
	before := l.chain
	l.let(lone)
	l.take(lone, nil)
	if l.chain.Head != at(lone, 2) || before.Head.Seq != 4 || before.At(4) == nil || l.chain.At(3) != nil || l.chain.HashAt(1) != l.first.Digest() {
		t.Errorf("head %v, before %v", l.chain.Head, before.Head)
	}
	l.take(stolen, ErrFork)
	l.take(gone, ErrSigner) // it follows what does not count
	l.take(l.doc(at(lone, 2), l.next, intent.Digest{}, l.n...), nil)
	l.take(stolen, ErrFork)
}

// A set that took over, with the roots of before, does not take over again at another place; one that was announced and replaced may
// only be offered.
func TestOfferedTwice(t *testing.T) {
	l := newLost(t)
	later := rootSet(2, key(41), key(42))
	both := l.doc(at(l.first, 1), l.next, later.Digest(), append([]ed25519.PrivateKey{l.r[0], l.r[1]}, l.n...)...)
	l.take(both, nil)
	again := l.doc(at(l.first, 1), l.next, intent.Digest{}, l.n...) // its place is taken by the same roots, who sign now
	if _, err := l.chain.Accept(again); !errors.Is(err, ErrFork) && !errors.Is(err, ErrSigner) {
		t.Errorf("Accept = %v", err)
	}
	l.let(again)
	if _, err := l.chain.Accept(again); err == nil {
		t.Error("the roots that sign now put their own taking over out of force")
	}
	if l.chain.Head != at(both, 2) {
		t.Errorf("head %v", l.chain.Head)
	}
}

// A newcomer begins at the document that his pin names: nothing before it counts, and an old pin leads up to what was accepted and not
// over it. Somebody who judges a chain by its end walks all of it.
func TestPinBehindTheFirst(t *testing.T) {
	l := newLost(t)
	lone := l.doc(at(l.first, 1), l.next, intent.Digest{}, l.n...)
	third := l.doc(at(lone, 2), l.next, intent.Digest{}, l.n...)
	fresh := TrustChain{Pin: lone.Digest()}
	if _, err := fresh.Accept(l.first); !errors.Is(err, ErrSigner) {
		t.Errorf("what comes before the pin: %v", err)
	}
	for _, env := range []*intent.Envelope{lone, third} {
		if _, err := fresh.Accept(env); err != nil {
			t.Fatal(err)
		}
	}
	if fresh.First() != 2 || fresh.Head.Seq != 3 || fresh.At(1) != nil || fresh.At(2) == nil || fresh.Anchor() != lone.Digest() || fresh.Needs() != 3 {
		t.Errorf("first %d, head %d, anchor %s", fresh.First(), fresh.Head.Seq, fresh.Anchor().Short())
	}
	unsigned := l.doc(at(l.first, 1), l.next, intent.Digest{}, l.n[0])
	if _, err := (&TrustChain{Pin: unsigned.Digest()}).Accept(unsigned); !errors.Is(err, ErrSigner) {
		t.Errorf("a pinned document that its own roots did not sign: %v", err)
	}
	c, err := Believe([]*intent.Envelope{l.first, lone, third})
	if err != nil || c.Head.Seq != 3 || len(c.Lone()) != 1 || c.Lone()[0] != lone.Digest() {
		t.Errorf("Believe = %+v, %v", c, err)
	}
	stolen := l.doc(at(l.first, 1), l.roots, l.next.Digest(), l.r...)
	if _, err := Believe([]*intent.Envelope{l.first, stolen, lone}); !errors.Is(err, ErrFork) {
		t.Errorf("a chain that shows two for one place: %v", err)
	}
	if _, err := Believe([]*intent.Envelope{l.first, nil}); err == nil {
		t.Error("a chain with a hole")
	}
}

// An accepted document that changes a writer is waited for: without it nobody could verify what the writer signs.
func TestNeedsAfterAcceptance(t *testing.T) {
	l := newLost(t)
	b := trustBody(at(l.first, 1), l.next, intent.Digest{})
	b.Writers = append(b.Writers, writer(key(2), 2, intent.KeyAccept))
	lone := sign(t, intent.PayloadTrust, b, l.n...)
	l.let(lone)
	l.take(lone, nil)
	if l.chain.Needs() != 2 {
		t.Errorf("needs %d", l.chain.Needs())
	}
}

// FuzzOffered feeds payloads that the announced roots signed: without an acceptance none of them moves the head.
func FuzzOffered(f *testing.F) {
	r, n := key(11), key(21)
	next := rootSet(1, n)
	first := sign(f, intent.PayloadTrust, trustBody(intent.Head{}, rootSet(1, r), next.Digest()), r)
	f.Add(marshal(f, trustBody(at(first, 1), next, intent.Digest{})))
	f.Add(marshal(f, trustBody(at(first, 1), rootSet(1, r), next.Digest())))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > 1<<16 {
			return
		}
		env, err := Sign(intent.PayloadTrust, payload, n)
		if err != nil {
			return
		}
		c := TrustChain{Pin: first.Digest()}
		if _, err := c.Accept(first); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Accept(env); err == nil || c.Head.Seq != 1 {
			t.Fatalf("it counts without an acceptance: head %v", c.Head)
		}
	})
}
