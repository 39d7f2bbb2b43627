package join

import (
	"crypto/ed25519"
	"crypto/tls"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
)

// TestProofs: a good token in the hands of someone who does not hold all three keys that he names, or who replays a proof
// from another connection, gets nothing.
func TestProofs(t *testing.T) {
	d := pkitest.New(t)
	mine, theirs := newKeys(t), newKeys(t)

	f := func(what string, ok bool, bend func(a *askMsg), before func(cs tls.ConnectionState) tls.ConnectionState, answer *seal.Keys) {
		t.Helper()
		b := newBench(t, d, []*intent.Envelope{d.Env}) // its own failure budget
		tok := b.token(nil)
		conn, err := tls.Dial("tcp", b.addr, trust.JoinClient())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(talkTimeout)); err != nil {
			t.Fatal(err)
		}
		if m, err := readMsg(conn, maxFrame); err != nil || m.Trust == nil {
			t.Fatal(m, err)
		}
		csr, err := ca.NewRequest(mine.TLS)
		if err != nil {
			t.Fatal(err)
		}
		sign, err := mine.SignPublic()
		if err != nil {
			t.Fatal(err)
		}
		a := &askMsg{Token: tok.ID, Secret: tok.Secret.Reveal(), CSR: csr, Sign: sign, Seal: mine.SealPublic()}
		bend(a)
		tr, err := transcript(before(conn.ConnectionState()), a)
		if err != nil {
			t.Fatal(err)
		}
		a.Proof = ed25519.Sign(mine.Sign, tr)
		if err := writeMsg(conn, &message{Ask: a}); err != nil {
			t.Fatal(err)
		}
		m, err := readMsg(conn, maxAnswer)
		if err == nil && m.Challenge != nil {
			got, aerr := answer.Answer(m.Challenge.Sealed)
			if aerr != nil {
				got = make([]byte, 32)
			}
			if err := writeMsg(conn, &message{Proof: &proofMsg{got}}); err != nil {
				t.Fatal(err)
			}
			m, err = readMsg(conn, maxAnswer)
		}
		if joined := err == nil && m.Answer != nil; joined != ok || (b.grant.n == 1) != ok {
			t.Errorf("%s: joined %v, %d grants, %v", what, joined, b.grant.n, err)
		}
		if rec := b.store.m[tok.ID]; rec.SpentBy.IsZero() == ok {
			t.Errorf("%s: token spent %v", what, !rec.SpentBy.IsZero())
		}
	}
	keep := func(*askMsg) {}
	here := func(cs tls.ConnectionState) tls.ConnectionState { return cs }

	f("all proven", true, keep, here, mine)
	f("tls key not held", false, func(a *askMsg) { a.CSR[len(a.CSR)-1] ^= 1 }, here, mine)
	f("sign key of another", false, func(a *askMsg) {
		pub, err := theirs.SignPublic()
		if err != nil {
			t.Fatal(err)
		}
		a.Sign = pub
	}, here, mine)
	f("seal key of another", false, func(a *askMsg) { a.Seal = theirs.SealPublic() }, here, mine)
	f("seal key is none", false, func(a *askMsg) { a.Seal = []byte("x") }, here, mine)
	other := newBench(t, d, []*intent.Envelope{d.Env})
	conn, err := tls.Dial("tcp", other.addr, trust.JoinClient())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f("proof of another connection", false, keep, func(tls.ConnectionState) tls.ConnectionState { return conn.ConnectionState() }, mine)
	f("addresses of a crowd", false, func(a *askMsg) { a.Addr = make([]string, maxAddresses+1) }, here, mine)
	f("an address that is none", false, func(a *askMsg) { a.Addr = []string{"host"} }, here, mine)
}
