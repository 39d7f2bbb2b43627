package join

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
)

// returner tells one agent, by its signing key, two documents.
type returner struct {
	sign []byte
	docs map[string]*intent.Envelope
	n    int // who was told
	last Back
}

func (r *returner) Missed(_ context.Context, b Back, send func(string, *intent.Envelope) error) error {
	if r.sign == nil || !bytes.Equal(b.Sign, r.sign) {
		return fmt.Errorf("cannot let back: %w", ErrRefused)
	}
	r.n++
	r.last = b
	for _, stream := range []string{intent.StreamRevocation, intent.StreamIntent} {
		if err := send(stream, r.docs[stream]); err != nil {
			return err
		}
	}
	return nil
}

// home is an agent's side that notes what it took.
func home(t *testing.T, d *pkitest.Domain, k *seal.Keys, took *[]string) Home {
	t.Helper()
	return Home{
		Keys: k, Chain: document.TrustChain{Pin: d.Env.Digest()}, Want: trust.Want{Kind: trust.Coordinator},
		Back: func() (Back, error) {
			sign, err := k.SignPublic()
			return Back{Site: "lon1", Agent: "a1", Sign: sign, Offer: []byte("o"), Revocation: 3, Intent: 9}, err
		},
		TakeTrust: func(envs []*intent.Envelope) error {
			*took = append(*took, fmt.Sprintf("%d trust", len(envs)))
			return nil
		},
		Take: func(give func(func(string, *intent.Envelope) error) error) error {
			return give(func(stream string, _ *intent.Envelope) error { *took = append(*took, stream); return nil })
		},
	}
}

// chainOf is an agent's chain of these documents.
func chainOf(t *testing.T, docs ...*intent.Envelope) document.TrustChain {
	t.Helper()
	c := document.TrustChain{Pin: docs[0].Digest()}
	for _, env := range docs {
		if _, err := c.Accept(env); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// An agent is told the trust chain beyond its own, then what its signing key entitles it to.
func TestReturn(t *testing.T) {
	d := pkitest.New(t)
	b, k := newBench(t, d, []*intent.Envelope{d.Env}), newKeys(t)
	sign, err := k.SignPublic()
	if err != nil {
		t.Fatal(err)
	}
	b.back.sign, b.back.docs = sign, map[string]*intent.Envelope{intent.StreamRevocation: d.Env, intent.StreamIntent: d.Env}
	var took []string
	h := home(t, d, k, &took)
	n, err := Return(t.Context(), &net.Dialer{}, b.addr, h)
	if err != nil || n != 3 || !slices.Equal(took, []string{"1 trust", "revocation", "intent"}) {
		t.Errorf("taken %d, %v: %v", n, took, err)
	}
	if got := b.back.last; got.Revocation != 3 || got.Intent != 9 || string(got.Offer) != "o" || got.Site != "lon1" || got.Agent != "a1" {
		t.Errorf("it said %+v", got)
	}
	took, h.Chain = nil, chainOf(t, d.Env)
	if n, err := Return(t.Context(), &net.Dialer{}, b.addr, h); err != nil || n != 2 || len(took) != 2 {
		t.Errorf("with the same trust: taken %d, %v: %v", n, took, err)
	}
}

// What goes wrong is refused on the side that notices it, and nothing is taken: a chain that is shorter than ours or another one, a
// peer that the chain does not vouch for, a key that is on no roster, an answer that breaks off.
func TestReturnRefused(t *testing.T) {
	d, evil := pkitest.New(t), pkitest.New(t)
	known := newKeys(t)
	sign, err := known.SignPublic()
	if err != nil {
		t.Fatal(err)
	}
	after := func(head intent.Head) *intent.Envelope {
		b := *d.Trust
		b.Header = document.Follow(head, intent.StreamTrust, 0, pkitest.Now().Add(time.Hour))
		return d.Sign(intent.PayloadTrust, &b, d.Root)
	}
	second, other := after(intent.Head{Seq: 1, Hash: d.Env.Digest()}), after(intent.Head{})
	for _, c := range []struct {
		what   string
		server *pkitest.Domain
		docs   []*intent.Envelope
		keys   *seal.Keys
		change func(*Home)
		want   error // nil: any
		told   int
	}{
		{"a chain that ends before ours", d, []*intent.Envelope{d.Env}, known, func(h *Home) { h.Chain = chainOf(t, d.Env, second) }, ErrBehind, 0},
		{"another chain at our place", d, []*intent.Envelope{d.Env}, known, func(h *Home) { h.Chain = chainOf(t, other) }, document.ErrFork, 0},
		{"another domain", evil, []*intent.Envelope{evil.Env}, known, nil, nil, 0},
		{"our chain, shown by somebody else", evil, []*intent.Envelope{d.Env}, known, nil, trust.ErrChain, 0},
		{"another kind of peer", d, []*intent.Envelope{d.Env}, known, func(h *Home) { h.Want = trust.Want{Kind: trust.Agent} }, trust.ErrOther, 0},
		{"a key of no roster", d, []*intent.Envelope{d.Env}, newKeys(t), nil, ErrRefused, 0},
		{"a name that is none", d, []*intent.Envelope{d.Env}, known, func(h *Home) {
			back := h.Back
			h.Back = func() (Back, error) { b, err := back(); b.Agent = "../a1"; return b, err }
		}, ErrRefused, 0},
		{"an answer that breaks off", d, []*intent.Envelope{d.Env}, known, nil, nil, 1},
	} {
		b := newBench(t, c.server, c.docs)
		b.back.sign, b.back.docs = sign, map[string]*intent.Envelope{intent.StreamRevocation: d.Env} // nil comes then: the end, too early
		var took []string
		h := home(t, d, c.keys, &took)
		h.Chain = chainOf(t, d.Env)
		if c.change != nil {
			c.change(&h)
		}
		_, err := Return(t.Context(), &net.Dialer{}, b.addr, h)
		switch {
		case c.told == 1: // what came before the end counts
			if len(took) != 1 || b.back.n != 1 {
				t.Errorf("%s: took %v", c.what, took)
			}
		case err == nil || c.want != nil && !errors.Is(err, c.want) || len(took) != 0 || b.back.n != 0:
			t.Errorf("%s: %v, took %v", c.what, err, took)
		}
	}
}

// A proof counts on the connection that it was made for alone, and for what was said with it.
func TestReturnProof(t *testing.T) {
	d := pkitest.New(t)
	k := newKeys(t)
	sign, err := k.SignPublic()
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, d, []*intent.Envelope{d.Env})
	b.back.sign, b.back.docs = sign, map[string]*intent.Envelope{intent.StreamRevocation: d.Env, intent.StreamIntent: d.Env}
	talk := func(m *backMsg) error {
		conn, err := dial(t.Context(), &net.Dialer{}, b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, _, err := readTrust(conn, d.Env.Digest()); err != nil {
			t.Fatal(err)
		}
		if m.Proof == nil {
			prove(t, conn, m, k)
			m.Intent++ // after it was proven
		}
		if err := writeMsg(conn, &message{Back: m}); err != nil {
			t.Fatal(err)
		}
		_, err = readDoc(conn)
		return err
	}
	m := &backMsg{Back: Back{Site: "lon1", Agent: "a1", Sign: sign}}
	if err := talk(m); !errors.Is(err, ErrRefused) {
		t.Errorf("changed after the proof: %v", err)
	}
	m.Intent-- // as it was proven, on another connection
	if err := talk(m); !errors.Is(err, ErrRefused) || b.back.n != 0 {
		t.Errorf("proof of another connection: %v, %d told", err, b.back.n)
	}
}

func prove(t *testing.T, conn *tls.Conn, m *backMsg, k *seal.Keys) {
	t.Helper()
	tr, err := m.transcript(conn.ConnectionState())
	if err != nil {
		t.Fatal(err)
	}
	m.Proof = ed25519.Sign(k.Sign, tr)
}

// FuzzReadMsg: what a peer sends is a message or an error.
func FuzzReadMsg(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0e" + `{"doc":{"x":1}`))
	f.Add([]byte("\x00\x00\x00\x0a" + `{"doc":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMsg(bytes.NewReader(b), maxFrame)
		if (m == nil) == (err == nil) {
			t.Errorf("%v, %v", m, err)
		}
	})
}
