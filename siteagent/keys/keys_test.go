package keys

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/rotate"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/state"
)

// box is one agent's disk: keys, identity and replica; boot opens it as an agent does, without sockets. above is what the coordinator
// of the test answers over the session.
type box struct {
	*testing.T
	*Worker
	author  *sitetest.Author
	dir     string
	db      *state.DB
	entry   intent.RosterAgent
	order   rotate.Order
	offers  []*rotate.Offer
	late    []string
	busy    bool
	refuse  bool // the session fails
	stuck   error
	renewed int // of the peers, then of the uplink
	events  []string
}

func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{T: t, author: sitetest.NewAuthor(t), dir: t.TempDir()}
	dir := filepath.Join(b.dir, "keys")
	k, err := seal.LoadOrGenerate(dir)
	b.must(err)
	leaf, web := b.certify(b.author.CA, k)
	b.entry = b.entryOf(leaf, web, k)
	id := &Identity{Site: "lon1", Agent: "a1", Domain: pkitest.Name, Pin: b.author.Env.Digest(), Leaf: leaf, Web: web, CA: b.author.CA.Cert.Raw, Roster: b.entry}
	b.must(id.Save(dir))
	b.boot()
	b.publish(b.entry)
	t.Cleanup(func() { b.must(b.db.Close()) })
	return b
}

func (b *box) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// boot is a start after whatever happened to the process before.
func (b *box) boot() {
	b.Helper()
	if b.db != nil {
		b.must(b.db.Close())
	}
	dir := filepath.Join(b.dir, "keys")
	id, err := ReadIdentity(dir)
	b.must(err)
	own, err := Load(dir, id)
	b.must(err)
	var r *replica.Replica
	ring := seal.NewRing(seal.Binding{Domain: pkitest.Name, Site: "lon1", Agent: "a1"}, own.All()...)
	r, b.db = sitetest.OpenReplicaWith(b.T, b.dir, b.author, "a1", ring)
	b.Worker = New(Config{
		Own: own, Site: "lon1", Self: "a1", Replica: r, Ring: ring, Log: slog.New(slog.DiscardHandler),
		Behind: func(uint64) (late, unknown []string) { return b.late, nil }, Busy: func() bool { return b.busy },
		Renew:       func(context.Context) error { b.renewed++; return b.stuck },
		RenewUplink: func() { b.renewed += 100 },
		Above:       func() (http.RoundTripper, bool) { return session{b}, true },
		Opens:       func(*seal.Keys) bool { return true },
		Event:       func(kind, _ string) error { b.events = append(b.events, kind); return nil },
	})
}

// session is the coordinator's two routes.
type session struct{ b *box }

func (s session) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.b.refuse {
		return nil, errors.New("the session ended")
	}
	res := &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}
	if r.Method == http.MethodGet {
		out, err := json.Marshal(s.b.order)
		res.StatusCode, res.Body = http.StatusOK, io.NopCloser(bytes.NewReader(out))
		return res, err
	}
	in, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	o, _, err := rotate.Read(in, "lon1/a1")
	if err != nil {
		return nil, err
	}
	s.b.offers = append(s.b.offers, o)
	return res, nil
}

func (b *box) certify(c *ca.CA, k *seal.Keys) (leaf, web []byte) {
	b.Helper()
	csr, err := ca.NewRequest(k.TLS)
	b.must(err)
	l, err := c.Issue(csr, trust.Identity{Kind: trust.Agent, Site: "lon1", ID: "a1"}, pkitest.Now())
	b.must(err)
	w, err := c.IssueWeb(csr, nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, pkitest.Now())
	b.must(err)
	return l.Raw, w.Raw
}

func (b *box) entryOf(leaf, web []byte, k *seal.Keys) intent.RosterAgent {
	b.Helper()
	tls, err := k.TLSPublic()
	b.must(err)
	sign, err := k.SignPublic()
	b.must(err)
	return intent.RosterAgent{ID: "a1", State: intent.StateAgent, TLS: [][]byte{tls}, Sign: [][]byte{sign}, Seal: [][]byte{k.SealPublic()}, Certs: [][]byte{leaf, web}}
}

// publish brings a roster with this entry and one peer.
func (b *box) publish(a intent.RosterAgent) {
	b.Helper()
	b.entry = a
	r := intent.RosterBody{Generation: b.author.Head.Seq + 1, Agents: []intent.RosterAgent{a, {ID: "a2", State: intent.StateAgent}}}
	b.receive(b.author.Entry(intent.EntryRoster, r))
}

func (b *box) receive(env *intent.Envelope) {
	b.Helper()
	if n, err := b.Replica.Receive(b.Context(), []*intent.Envelope{env}); n != 1 || err != nil {
		b.Fatalf("%d, %v", n, err)
	}
}

// both lists the new keys before those of the entry, as the coordinator does.
func (b *box) both(k *seal.Keys) intent.RosterAgent {
	b.Helper()
	leaf, web := b.certify(b.author.CA, k)
	n, o := b.entryOf(leaf, web, k), b.entry
	n.TLS, n.Sign, n.Seal, n.Certs = append(n.TLS, o.TLS...), append(n.Sign, o.Sign...), append(n.Seal, o.Seal...), append(n.Certs, o.Certs...)
	return n
}

func (b *box) retired(a intent.RosterAgent) intent.RosterAgent {
	a.Past = append(a.Sign[1:], a.Past...)
	a.TLS, a.Sign, a.Seal, a.Certs = a.TLS[:1], a.Sign[:1], a.Seal[:1], a.Certs[:2]
	return a
}

// tell seals a secret to a key, under data key n.
func (b *box) tell(n uint64, public []byte) {
	b.Helper()
	bind := seal.Binding{Domain: pkitest.Name, Site: "lon1", Agent: "a1"}
	dek, err := seal.NewDEK(n)
	b.must(err)
	w, err := dek.Wrap(public, bind)
	b.must(err)
	rec, err := dek.Seal(bind, "bmc", 1, seal.NewSecret([]byte("password")))
	b.must(err)
	w.To, rec.To = "a1", "a1"
	b.receive(b.author.Entry(intent.EntrySecret, intent.SecretBody{DEKs: []intent.SealedDEK{w}, Records: []intent.SealedRecord{rec}}))
}

// is checks which set is used, and which lie on disk.
func (b *box) is(what string, used uint64, sets ...string) {
	b.Helper()
	now := b.Own.now.Load()
	leaf, err := x509.ParseCertificate(b.Own.Leaf().Certificate[0])
	b.must(err)
	pub, err := now.keys.TLSPublic()
	b.must(err)
	if now.id.Set != used || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, pub) {
		b.Errorf("%s: set %d is used, want %d", what, now.id.Set, used)
	}
	var got []string
	for _, n := range []string{".", "1", "2", "3"} {
		if _, err := os.Stat(filepath.Join(b.dir, "keys", n, "tls.key")); err == nil {
			got = append(got, n)
		}
	}
	if strings.Join(got, " ") != strings.Join(sets, " ") {
		b.Errorf("%s: sets %v, want %v", what, got, sets)
	}
	if s, err := b.Replica.Secret("bmc"); err != nil || string(s.Reveal()) != "password" {
		b.Errorf("%s: secret %v", what, err)
	}
}

// A whole rotation with a restart after each step, which changes nothing; at each moment what is used is on the roster, and what is
// sealed opens.
func TestRotation(t *testing.T) {
	for _, crash := range []bool{false, true} {
		b := newBox(t)
		again := func() {
			if crash {
				b.boot()
			}
		}
		b.tell(1, b.entry.Seal[0])
		b.must(b.ask(t.Context()))
		b.is("nothing is wanted", 0, ".")
		b.order = rotate.Order{N: 5, Want: rotate.WantKeys}
		b.refuse = true
		if b.ask(t.Context()) == nil {
			t.Error("a session that ends is no error")
		}
		b.refuse = false
		b.must(b.ask(t.Context()))
		again()
		b.must(b.ask(t.Context()))
		if len(b.offers) != 2 || !bytes.Equal(b.offers[0].Sign, b.offers[1].Sign) || b.offers[0].N != 5 {
			t.Errorf("%d offers, not of the same keys", len(b.offers))
		}
		b.follow(t.Context())
		b.is("offered", 0, ".", "1")
		fresh := b.Own.sets[1]
		b.order = rotate.Order{}
		b.publish(b.both(fresh))
		b.tell(2, fresh.SealPublic())
		b.is("sealed to the new key", 0, ".", "1")
		b.late = []string{"a2"}
		again()
		if !b.follow(t.Context()) {
			t.Error("a peer that is late is not waited for")
		}
		b.is("a peer is late", 0, ".", "1")
		b.late, b.busy = nil, true
		if !b.follow(t.Context()) {
			t.Error("machines under way are not waited for")
		}
		b.busy, b.stuck = false, errors.New("a2 does not answer")
		if !b.follow(t.Context()) || b.renewed%100 == 0 || b.renewed >= 100 {
			t.Errorf("sessions that are not renewed: %d", b.renewed)
		}
		b.stuck = nil
		b.is("used", 1, ".", "1")
		again()
		b.renewed = 0
		b.follow(t.Context())
		if want := map[bool]int{false: 101, true: 0}[crash]; b.renewed != want {
			t.Errorf("renewed %d, want %d", b.renewed, want)
		}
		b.is("used, sessions renewed", 1, ".", "1")
		b.publish(b.retired(b.entry))
		again()
		b.follow(t.Context())
		b.is("retired", 1, "1")
		again()
		b.follow(t.Context())
		b.is("at the end", 1, "1")
		if strings.Join(b.events, " ") != "agent.keys.changed" {
			t.Errorf("events %q", b.events)
		}
	}
}

// Keys of before stay while something is sealed to them alone.
func TestKeysAreKept(t *testing.T) {
	b := newBox(t)
	b.tell(1, b.entry.Seal[0])
	b.order = rotate.Order{N: 1, Want: rotate.WantKeys}
	b.must(b.ask(t.Context()))
	fresh := b.Own.sets[1]
	b.publish(b.both(fresh))
	b.follow(t.Context())
	b.publish(b.retired(b.entry))
	b.follow(t.Context())
	b.is("sealed to the old key", 1, ".", "1")
	b.tell(2, fresh.SealPublic())
	b.Opens = func(*seal.Keys) bool { return false }
	b.follow(t.Context())
	b.is("the site sealed to the old key", 1, ".", "1")
	b.Opens = func(*seal.Keys) bool { return true }
	b.follow(t.Context())
	b.is("nothing is", 1, "1")
}

// An agent whose key is on no roster any more waits for nobody; a set that was not written whole, and one that was not removed whole,
// is none; a roster that lists older keys alone, by a coordinator from an old backup, changes nothing.
func TestOddRosters(t *testing.T) {
	b := newBox(t)
	b.tell(1, b.entry.Seal[0])
	first := b.entry
	b.order = rotate.Order{N: 1, Want: rotate.WantKeys}
	b.must(b.ask(t.Context()))
	fresh := b.Own.sets[1]
	b.late, b.busy = []string{"a2"}, true
	b.publish(b.retired(b.both(fresh)))
	b.tell(2, fresh.SealPublic())
	b.boot()
	b.follow(t.Context())
	b.is("retired in its absence", 1, "1")
	b.publish(first)
	b.follow(t.Context())
	b.is("an older roster", 1, "1")
	half := filepath.Join(b.dir, "keys", "2")
	b.must(os.MkdirAll(half, 0o700))
	b.must(os.WriteFile(filepath.Join(half, "seal.key"), []byte("x"), 0o600))
	b.boot()
	b.is("half a set", 1, "1")
	b.order = rotate.Order{N: 2, Want: rotate.WantKeys}
	b.must(b.ask(t.Context()))
	b.is("made whole", 1, "1", "2")
	b.order.Want = "x"
	if err := b.ask(t.Context()); err == nil || !strings.Contains(err.Error(), "update the agent") {
		t.Errorf("an order of a later version: %v", err)
	}
	b.must(os.Remove(filepath.Join(b.dir, "keys", "1", "seal.key")))
	id, err := ReadIdentity(filepath.Join(b.dir, "keys"))
	b.must(err)
	if _, err := Load(filepath.Join(b.dir, "keys"), id); err == nil {
		t.Error("a set that is used and not whole passes")
	}
}

// A certificate under another CA is used on the same keys, once the agent's trust document lists that CA.
func TestCertificate(t *testing.T) {
	b := newBox(t)
	b.tell(1, b.entry.Seal[0])
	second, err := b.author.RootCA.Sub("c2", pkitest.Now())
	b.must(err)
	b.order = rotate.Order{Want: rotate.WantCertificate}
	b.must(b.ask(t.Context()))
	if len(b.offers) != 1 || !bytes.Equal(b.offers[0].Seal, b.entry.Seal[0]) {
		t.Fatal("another key was offered")
	}
	leaf, web := b.certify(second, b.Own.sets[0])
	a := b.entry
	a.Certs = append([][]byte{leaf, web}, a.Certs...)
	b.publish(a)
	b.follow(t.Context())
	if bytes.Equal(b.Own.Leaf().Certificate[0], leaf) {
		t.Error("a certificate under an unknown CA is used")
	}
	body := *b.author.Trust
	body.Header.Seq, body.Header.Prev = 2, b.author.Env.Digest().String()
	body.CAs = []intent.CACert{{Cert: second.Cert.Raw, Root: b.author.RootCA.Cert.Raw, State: intent.KeyUse}, {Cert: b.author.CA.Cert.Raw, Root: b.author.RootCA.Cert.Raw, State: intent.KeyRetire}}
	b.must(b.Replica.AddTrust([]*intent.Envelope{b.author.Sign(intent.PayloadTrust, body, b.author.Root)}))
	b.late = []string{"a2"} // the old certificate counts no more: nobody is waited for
	b.follow(t.Context())
	if !bytes.Equal(b.Own.Leaf().Certificate[0], leaf) || !bytes.Equal(b.Own.Web().Certificate[0], web) || !bytes.Equal(b.Own.Leaf().Certificate[1], second.Cert.Raw) {
		t.Error("the certificate is not used")
	}
	b.is("the same keys", 0, ".")
	if b.renewed != 101 {
		t.Errorf("renewed %d", b.renewed)
	}
}
