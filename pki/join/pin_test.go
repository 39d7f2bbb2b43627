package join

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
)

// lone makes the second document of d's domain, which the announced roots sign alone, and one that follows it.
func lone(t *testing.T, d *pkitest.Domain) (second, third *intent.Envelope) {
	t.Helper()
	next := pkitest.New(t)
	d.Trust.Next = next.Trust.Roots.Digest()
	d.Env = d.Sign(intent.PayloadTrust, d.Trust, d.Root)
	b := *d.Trust
	b.Header = document.Follow(intent.Head{Seq: 1, Hash: d.Env.Digest()}, intent.StreamTrust, 0, pkitest.Now().Add(time.Hour))
	b.Roots, b.Next = next.Trust.Roots, intent.Digest{}
	second = d.Sign(intent.PayloadTrust, &b, next.Root)
	b.Header = document.Follow(intent.Head{Seq: 2, Hash: second.Digest()}, intent.StreamTrust, 0, pkitest.Now().Add(time.Hour))
	return second, d.Sign(intent.PayloadTrust, &b, next.Root)
}

// A token that was made after an acceptance begins at the accepted document. One from before leads up to it and not over it, and one of
// another domain leads nowhere: the text says what to do, and no secret was told.
func TestPinAfterAcceptance(t *testing.T) {
	d := pkitest.New(t)
	second, third := lone(t, d)
	b := newBench(t, d, []*intent.Envelope{d.Env, second, third})
	f := func(what string, pin intent.Digest, ok bool) {
		t.Helper()
		tok := b.token(nil)
		tok.Pin = pin
		res, err := Join(t.Context(), &net.Dialer{}, b.addr, tok, newKeys(t), About{})
		switch {
		case ok && (err != nil || res.Chain.Head.Seq != 3 || res.Trust[0].Digest() != pin):
			t.Errorf("%s: %v", what, err)
		case !ok && (!errors.Is(err, ErrPin) || !strings.Contains(err.Error(), "skerry token create") || b.store.m[tok.ID].SpentBy != (intent.Digest{})):
			t.Errorf("%s: %v", what, err)
		}
	}
	f("a pin of before", d.Env.Digest(), false)
	f("a pin of elsewhere", intent.DigestOf([]byte("x")), false)
	f("a new pin", second.Digest(), true)
	f("the head", third.Digest(), true)
}

// Who was away gets the document offered and goes on under the old roots: its peer is judged by those, and what it missed comes too. An
// agent that accepted learns from who has not, and from who has.
func TestReturnOverOffer(t *testing.T) {
	d := pkitest.New(t)
	second, third := lone(t, d)
	k := newKeys(t)
	sign, err := k.SignPublic()
	if err != nil {
		t.Fatal(err)
	}
	stolen := func() *intent.Envelope {
		b := *d.Trust
		b.Header = document.Follow(intent.Head{Seq: 1, Hash: d.Env.Digest()}, intent.StreamTrust, 0, pkitest.Now().Add(2*time.Hour))
		return d.Sign(intent.PayloadTrust, &b, d.Root)
	}()
	accepted := document.TrustChain{Pin: d.Env.Digest(), Accepted: []intent.Digest{second.Digest()}}
	for _, env := range []*intent.Envelope{d.Env, second} {
		if _, err := accepted.Accept(env); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what  string
		own   document.TrustChain
		shown []*intent.Envelope
		taken int
		took  []string
		want  error
	}{
		{"nobody accepted here", chainOf(t, d.Env), []*intent.Envelope{d.Env, second, third}, 2, []string{"1 trust", "revocation", "intent"}, nil},
		{"a thief was here", chainOf(t, d.Env, stolen), []*intent.Envelope{d.Env, second, third}, 2, []string{"1 trust", "revocation", "intent"}, nil},
		{"accepted on both sides", accepted, []*intent.Envelope{d.Env, second, third}, 3, []string{"1 trust", "revocation", "intent"}, nil},
		{"accepted, and the peer begins there", accepted, []*intent.Envelope{second, third}, 3, []string{"1 trust", "revocation", "intent"}, nil},
		{"accepted, and not at the peer", accepted, []*intent.Envelope{d.Env}, 0, nil, ErrBehind},
		{"accepted, and the peer follows the thief", accepted, []*intent.Envelope{d.Env, stolen}, 0, nil, document.ErrFork},
		{"pinned later", document.TrustChain{Pin: second.Digest()}, []*intent.Envelope{d.Env, second, third}, 4, []string{"2 trust", "revocation", "intent"}, nil},
	} {
		b := newBench(t, d, c.shown)
		b.back.sign, b.back.docs = sign, map[string]*intent.Envelope{intent.StreamRevocation: d.Env, intent.StreamIntent: d.Env}
		var took []string
		h := home(t, d, k, &took)
		h.Chain, h.Want = c.own, trust.Want{Kind: trust.Coordinator}
		take := h.TakeTrust
		h.TakeTrust = func(envs []*intent.Envelope) error {
			if err := take(envs); err != nil {
				return err
			}
			if envs[len(envs)-1] == second {
				return document.ErrOffered
			}
			return nil
		}
		n, err := Return(t.Context(), &net.Dialer{}, b.addr, h)
		if n != c.taken || !slices.Equal(took, c.took) || !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: taken %d, %v: %v", c.what, n, took, err)
		}
	}
}
