package holder

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/seal"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// scene is three holders, of whom two sign, and the document that founds their domain.
type scene struct {
	*testing.T
	hs     []*Holder
	bundle *Bundle
	offer  *Offer
}

func newScene(t *testing.T, domain string) *scene {
	t.Helper()
	hs, b, err := Create(domain, 3, 2, true, now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	o := &Offer{CSR: csr, CA: "C1", Next: &b.Next, Body: intent.TrustBody{
		Header: document.Follow(intent.Head{}, intent.StreamTrust, 0, now), Domain: domain, Roots: *b.Roots, Next: b.Next.Digest(),
		CAs:          []intent.CACert{{Root: b.Root, State: intent.KeyUse}},
		Coordinators: []intent.Coordinator{{ID: "c1", Addr: []string{"192.0.2.1:7443"}}},
		Writers:      []intent.Writer{{Key: writerKey(t), Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse}},
	}}
	return &scene{t, hs, b, o}
}

func writerKey(t *testing.T) []byte {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return document.MarshalKey(pub)
}

func (s *scene) sign(o *Offer, hs ...*Holder) *intent.Envelope {
	s.Helper()
	for _, h := range hs {
		if _, _, err := h.Sign(o, Mark{}, now); err != nil {
			s.Fatal(err)
		}
	}
	env, err := o.Envelope()
	if err != nil {
		s.Fatal(err)
	}
	return env
}

// follow offers the document after o's, with a change.
func (s *scene) follow(o *Offer, change func(*Offer)) *Offer {
	s.Helper()
	env, err := o.Envelope()
	if err != nil || env == nil {
		s.Fatalf("%v, %v", env, err)
	}
	n := &Offer{Chain: append(slices.Clone(o.Chain), env)}
	if err := intent.DecodeStrict(env.Payload, &n.Body); err != nil {
		s.Fatal(err)
	}
	n.Body.Header = document.Follow(intent.Head{Seq: n.Body.Seq, Hash: env.Digest()}, intent.StreamTrust, 0, now)
	if change != nil {
		change(n)
	}
	return n
}

// accept walks a chain as everybody does.
func accept(o *Offer) error {
	c := document.TrustChain{}
	for i, env := range append(slices.Clone(o.Chain), o.Signed) {
		if i == 0 {
			c.Pin = env.Digest()
		}
		if _, err := c.Accept(env); err != nil {
			return err
		}
	}
	return nil
}

// Two of three holders found a domain, go on, and change their roots; the third is lost all the time. A key counts once.
func TestCeremony(t *testing.T) {
	s := newScene(t, "edge.example")
	h1, h2 := s.hs[0], s.hs[1]
	if env := s.sign(s.offer, h1); env != nil {
		t.Fatal("one holder founded the domain")
	}
	if n, _, err := h1.Sign(s.offer, Mark{}, now); n != 0 || err != nil {
		t.Errorf("a second signature of one key: %d, %v", n, err)
	}
	if have, of, err := s.offer.Count(); have != 1 || of != 2 || err != nil {
		t.Errorf("%d of %d, %v", have, of, err)
	}
	if s.sign(s.offer, h2) == nil || accept(s.offer) != nil {
		t.Fatalf("not founded: %v", accept(s.offer))
	}
	second := s.follow(s.offer, func(o *Offer) {
		o.Body.Writers = append(o.Body.Writers, intent.Writer{Key: writerKey(t), Epoch: 2, Mode: intent.ModeContinue, State: intent.KeyAccept})
	})
	s.sign(second, h2, h1)
	// The announced set takes over: the same two holders sign as old and as new.
	hs, b, err := Create("edge.example", 3, 2, false, now)
	if err != nil {
		t.Fatal(err)
	}
	third := s.follow(second, func(o *Offer) { o.Body.Roots, o.Body.Next, o.Next = s.bundle.Next, b.Next.Digest(), &b.Next })
	if s.sign(third, h1) != nil || s.sign(third, h2) == nil || len(third.Signed.Signatures) != 4 {
		t.Errorf("%d signatures, want 2 of the old roots and 2 of the new", len(third.Signed.Signatures))
	}
	fourth := s.follow(third, nil)
	if s.sign(fourth, h1, h2) == nil || len(fourth.Signed.Signatures) != 2 || accept(fourth) != nil {
		t.Errorf("after the change: %v", accept(fourth))
	}
	// And the set that was made for it takes over from them: both sides have keys in different files.
	_, b, err = Create("edge.example", 3, 2, false, now)
	if err != nil {
		t.Fatal(err)
	}
	fifth := s.follow(fourth, func(o *Offer) { o.Body.Roots, o.Body.Next, o.Next = *third.Next, b.Next.Digest(), &b.Next })
	if s.sign(fifth, h1, h2) != nil || s.sign(fifth, hs[2]) != nil || s.sign(fifth, hs[1]) == nil || accept(fifth) != nil {
		t.Errorf("the second change: %v", accept(fifth))
	}
}

// A holder signs nothing that does not follow, is for others, or is another document than the one offered.
func TestRefused(t *testing.T) {
	s := newScene(t, "edge.example")
	s.sign(s.offer, s.hs[0], s.hs[1])
	f := func(what string, o *Offer, h *Holder, mark Mark, want error, text string) {
		t.Helper()
		before := o.Signed
		n, m, err := h.Sign(o, mark, now)
		if err == nil || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), text) || n != 0 || m != mark || o.Signed != before {
			t.Errorf("%s: %d, %v", what, n, err)
		}
	}
	h := s.hs[0]
	change := func(fn func(*Offer)) *Offer { return s.follow(s.offer, fn) }
	f("skips", change(func(o *Offer) { o.Body.Seq++ }), h, Mark{}, ErrFollows, "")
	f("hangs on another", change(func(o *Offer) { o.Body.Prev = intent.DigestOf([]byte("x")).String() }), h, Mark{}, ErrFollows, "")
	f("leaves one out", change(func(o *Offer) { o.Chain = nil }), h, Mark{}, ErrFollows, "")
	f("another domain", change(func(o *Offer) { o.Body.Domain = "evil.example" }), h, Mark{}, ErrFollows, "")
	f("roots that nobody announced", change(func(o *Offer) { o.Body.Roots.Threshold = 1 }), h, Mark{}, ErrFollows, "announced")
	f("no next any more", change(func(o *Offer) { o.Body.Roots = s.bundle.Next }), h, Mark{}, nil, "no new ones")
	f("a next set that is not shown", change(func(o *Offer) { o.Body.Next = intent.DigestOf([]byte("x")) }), h, Mark{}, nil, "not in it")
	f("two CAs wait", change(func(o *Offer) {
		c := intent.CACert{Root: s.bundle.Root, State: intent.KeyAccept}
		o.CSR, o.CA, o.Body.CAs = s.offer.CSR, "C2", append(o.Body.CAs, c, c)
	}), h, Mark{}, nil, "one CA at most")
	foreign := newScene(t, "edge.example")
	f("other roots of the same name", change(nil), foreign.hs[0], Mark{}, ErrForeign, "")
	f("another domain's holder", change(nil), newScene(t, "other.example").hs[0], Mark{}, ErrForeign, "")
	f("a CA of another R", change(func(o *Offer) {
		o.CSR, o.CA, o.Body.CAs = s.offer.CSR, "C2", append(o.Body.CAs, intent.CACert{Root: foreign.bundle.Root, State: intent.KeyAccept})
	}), h, Mark{}, ErrForeign, "")

	half := change(nil)
	s.sign(half, s.hs[1])
	half.Body.Coordinators = []intent.Coordinator{{ID: "evil", Addr: []string{"192.0.2.66:1"}}}
	f("shown one, signed another", half, h, Mark{}, ErrAltered, "")
	other := newScene(t, "edge.example")
	s.sign(other.offer, other.hs[0])
	certified := change(func(o *Offer) {
		o.CSR, o.CA, o.Body.CAs = other.offer.CSR, "C2", append(o.Body.CAs, intent.CACert{Root: s.bundle.Root, State: intent.KeyAccept})
	})
	s.sign(certified, s.hs[1])
	certified.CSR = s.offer.CSR
	f("certified for another key", certified, h, Mark{}, ErrAltered, "")

	// What he remembers: one document for a place, and nothing that leaves out what he signed.
	_, mark, err := h.Sign(change(nil), Mark{}, now)
	if err != nil || mark.Seq != 2 {
		t.Fatalf("%+v, %v", mark, err)
	}
	evil := func(o *Offer) { o.Body.Coordinators = nil }
	f("a second one for the place", change(evil), h, mark, ErrTaken, "")
	f("an old one", s.offer, h, mark, ErrTaken, "")
	lied := change(evil)
	s.sign(lied, s.hs[1], s.hs[2])
	f("what follows a fork", s.follow(lied, nil), h, mark, ErrTaken, "")
	if n, m, err := h.Sign(change(nil), mark, now); n != 1 || m != mark || err != nil {
		t.Errorf("the same document again: %d, %+v, %v", n, m, err)
	}
}

func TestWords(t *testing.T) {
	s := newScene(t, "edge.example")
	s.sign(s.offer, s.hs[0], s.hs[1])
	f := func(change func(*Offer), want ...string) {
		t.Helper()
		o := s.follow(s.offer, change)
		words, err := o.Words()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(words[1:], "\n")
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%q is not in\n%s", w, text)
			}
		}
		if len(want) != len(words)-1 {
			t.Errorf("%d changes, want %d:\n%s", len(words)-1, len(want), text)
		}
	}
	f(nil)
	f(func(o *Offer) { o.Body.Writers[0].State = intent.KeyRetire }, "): retire, was use")
	f(func(o *Offer) { o.Body.Writers = nil }, "REMOVES writer of epoch 1")
	f(func(o *Offer) { o.Body.Coordinators[0].Addr[0] = "192.0.2.2:7443" }, "adds coordinator c1 at 192.0.2.2:7443", "REMOVES coordinator c1 at 192.0.2.1:7443")
	f(func(o *Offer) { o.Body.Floor = &now }, "LOWERS the time floor of every agent to 2026-01-02 03:04:05Z")
	f(func(o *Offer) {
		o.CSR, o.CA, o.Body.CAs = s.offer.CSR, "C2", append(o.Body.CAs, intent.CACert{Root: s.bundle.Root, State: intent.KeyAccept})
	}, "adds coordinator CA C2 (new key): accept", "certifies coordinator CA C2 (new key) with R ")
	f(func(o *Offer) { o.Body.CAs = nil }, "REMOVES Skerry coordinator CA C1")
	_, b, err := Create("edge.example", 5, 3, false, now)
	if err != nil {
		t.Fatal(err)
	}
	f(func(o *Offer) { o.Body.Roots, o.Body.Next, o.Next = s.bundle.Next, b.Next.Digest(), &b.Next }, "roots from now on: 2 of 3 must sign", "announces the next roots: 3 of 5 must sign")
}

// A holder's file opens with his passphrase alone, and holds what was written; a directory with roots is told from one where a
// crash came before the bundle.
func TestFiles(t *testing.T) {
	hs, b, err := Create("edge.example", 1, 1, true, now)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	locks := []seal.Lock{{Passphrase: seal.NewSecret([]byte("words of the holder"))}}
	if there, err := Exists(dir); there || err != nil {
		t.Fatal(there, err)
	}
	paths, err := Save(dir, hs, locks, b)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", p, st, err)
		}
	}
	if there, err := Exists(dir); !there || err != nil {
		t.Error(there, err)
	}
	h, err := Unlock(paths[0], seal.Key{Passphrase: locks[0].Passphrase})
	if err != nil || h.Name != "h1" || len(h.Keys) != 2 || !h.Keys[0].Equal(hs[0].Keys[0]) || !h.Root.Cert.Equal(hs[0].Root.Cert) {
		t.Fatalf("%+v, %v", h, err)
	}
	if _, err := Unlock(paths[0], seal.Key{Passphrase: seal.NewSecret([]byte("words of somebody"))}); err == nil {
		t.Error("opened with another passphrase")
	}
	if _, err := Save(t.TempDir(), hs, []seal.Lock{{Passphrase: seal.NewSecret([]byte("short"))}}, b); err == nil {
		t.Error("a short passphrase passes")
	}
	raw, err := os.ReadFile(paths[0])
	if err != nil || bytes.Contains(raw, []byte("edge.example")) {
		t.Errorf("in plain text: %v", err)
	}
	if m, err := LoadMark(paths[0]); m != (Mark{}) || err != nil {
		t.Error(m, err)
	}
	want := Mark{Seq: 7, Hash: intent.DigestOf([]byte("x"))}
	if err := SaveMark(paths[0], want); err != nil {
		t.Fatal(err)
	}
	if m, err := LoadMark(paths[0]); m != want || err != nil {
		t.Error(m, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadBundle(filepath.Join(dir, "big")); !errors.Is(err, ErrFile) {
		t.Error(err)
	}
}

func TestCreateRefuses(t *testing.T) {
	f := func(domain string, n, threshold int) {
		t.Helper()
		if _, _, err := Create(domain, n, threshold, true, now); err == nil {
			t.Errorf("%q, %d, %d", domain, n, threshold)
		}
	}
	f("", 3, 2)
	f("edge.example", 0, 0)
	f("edge.example", 3, 4)
	f("edge.example", 3, 0)
	f("edge.example", 9, 2)
	f("edge.example", 8, 5)
}

// An offer from outside costs an error at most, and is signed only as itself.
func FuzzDecodeOffer(f *testing.F) {
	s := &scene{}
	hs, b, err := Create("edge.example", 1, 1, true, now)
	if err != nil {
		f.Fatal(err)
	}
	s.hs = hs
	plain := &Offer{Next: &b.Next, Body: intent.TrustBody{Header: document.Follow(intent.Head{}, intent.StreamTrust, 0, now), Domain: "edge.example", Roots: *b.Roots, Next: b.Next.Digest()}}
	first, err := EncodeOffer(plain)
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := hs[0].Sign(plain, Mark{}, now); err != nil {
		f.Fatal(err)
	}
	signed, err := EncodeOffer(plain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(first)
	f.Add(signed)
	f.Add([]byte(`{"chain":[null],"body":{}}`))
	f.Add([]byte(`{"body":{"stream":"trust","seq":1,"cas":[{"cert":null,"root":"","state":"use"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := DecodeOffer(raw)
		if err != nil {
			return
		}
		_, _ = o.Words() // whatever is in it: no panic
		if n, _, err := hs[0].Sign(o, Mark{}, now); err != nil || n == 0 {
			return
		}
		got := &intent.TrustBody{}
		if err := intent.DecodeStrict(o.Signed.Payload, got); err != nil || got.Seq != o.Body.Seq || got.Domain != "edge.example" {
			t.Fatalf("signed %+v, %v", got, err)
		}
	})
}

func FuzzDecodeBundle(f *testing.F) {
	_, b, err := Create("edge.example", 2, 2, true, now)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := EncodeBundle(b)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"domain":"x","next":{"threshold":1,"keys":[null]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if b, err := DecodeBundle(raw); err == nil && (CheckSet(b.Next) != nil || b.Domain == "") {
			t.Fatalf("%+v", b)
		}
	})
}

func FuzzDecodeHolder(f *testing.F) {
	f.Add([]byte(`{"name":"h1","domain":"edge.example","keys":["MC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]}`))
	f.Add([]byte(`{"name":"h1","domain":"x","keys":[""],"rootKey":"","rootCert":"AA=="}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := decodeHolder(raw)
		if err != nil {
			return
		}
		for _, k := range h.Keys {
			if len(k) != ed25519.PrivateKeySize {
				t.Fatalf("a key of %d octets", len(k))
			}
		}
	})
}

// The roots are lost: the announced ones sign alone, which holders read in capitals. Nothing else does without the roots of before, and
// holders who go on after it are told of it.
func TestLostRoots(t *testing.T) {
	s := newScene(t, "edge.example")
	s.sign(s.offer, s.hs[0], s.hs[1])
	_, b, err := Create("edge.example", 3, 2, false, now)
	if err != nil {
		t.Fatal(err)
	}
	over := func(o *Offer) {
		o.Lost, o.Body.Roots, o.Body.Next, o.Next = true, s.bundle.Next, b.Next.Digest(), &b.Next
	}
	lost := s.follow(s.offer, over)
	if s.sign(lost, s.hs[1]) != nil {
		t.Error("one holder let the announced roots take over")
	}
	env := s.sign(lost, s.hs[2])
	if have, of, err := lost.Count(); env == nil || len(env.Signatures) != 2 || have != 2 || of != 2 || err != nil {
		t.Fatalf("%d of %d, %v", have, of, err)
	}
	if err := accept(lost); !errors.Is(err, document.ErrOffered) {
		t.Errorf("everybody else: %v", err)
	}
	words := func(o *Offer, want string) {
		t.Helper()
		ws, err := o.Words()
		if err != nil || !strings.Contains(strings.Join(ws, "\n"), want) {
			t.Errorf("%q, %v; want %q", ws, err, want)
		}
	}
	words(lost, "WITHOUT the roots of before")
	after := s.follow(lost, func(o *Offer) { o.Lost = false })
	words(after, "FOLLOWS "+env.Digest().Short())
	if s.sign(after, s.hs[0], s.hs[1]) == nil {
		t.Error("the roots that took over do not go on")
	}
	for what, o := range map[string]*Offer{
		"the same roots":         s.follow(s.offer, func(o *Offer) { o.Lost = true }),
		"roots nobody announced": s.follow(s.offer, func(o *Offer) { over(o); o.Body.Roots = b.Next }),
	} {
		if _, _, err := s.hs[0].Sign(o, Mark{}, now); !errors.Is(err, ErrFollows) {
			t.Errorf("%s: %v", what, err)
		}
	}
	founded := *s.offer
	founded.Lost, founded.Signed = true, nil
	if _, _, err := s.hs[0].Sign(&founded, Mark{}, now); !errors.Is(err, ErrFollows) {
		t.Errorf("a first document: %v", err)
	}
	plain := *lost
	if plain.Lost = false; plain.Same(lost) {
		t.Error("who must sign is no part of an offer")
	}
}
