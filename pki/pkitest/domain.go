package pkitest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
)

// Name is the domain of every Domain.
const Name = "example.net"

// Now is when everything was made.
func Now() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// Domain is one domain. Holder carries the view that all nodes share; Rosters the agents made so far.
type Domain struct {
	T       testing.TB
	RootCA  *ca.CA
	CA      *ca.CA
	Root    ed25519.PrivateKey // signs trust
	Writer  ed25519.PrivateKey // signs intent and revocation, epoch 1
	Trust   *intent.TrustBody
	Env     *intent.Envelope // of Trust
	Holder  *trust.Holder
	Rosters map[string]*intent.RosterBody
}

// Node is one agent or coordinator with certificates.
type Node struct {
	ID   trust.Identity
	Key  *ecdsa.PrivateKey
	Leaf *tls.Certificate
	Web  *tls.Certificate
	TLS  *trust.TLS
}

// New makes a domain with a trust document of sequence 1.
func New(t testing.TB) *Domain {
	t.Helper()
	d := &Domain{T: t, Holder: &trust.Holder{}, Rosters: map[string]*intent.RosterBody{}}
	var err error
	if d.RootCA, err = ca.NewRoot(Name, Now()); err != nil {
		t.Fatal(err)
	}
	if d.CA, err = d.RootCA.Sub("c1", Now()); err != nil {
		t.Fatal(err)
	}
	d.Root, d.Writer = edKey(t), edKey(t)
	d.Trust = &intent.TrustBody{
		Header: document.Follow(intent.Head{}, intent.StreamTrust, 0, Now()), Domain: Name,
		Roots:   intent.RootSet{Threshold: 1, Keys: [][]byte{document.MarshalKey(d.Root.Public().(ed25519.PublicKey))}},
		CAs:     []intent.CACert{{Cert: d.CA.Cert.Raw, Root: d.RootCA.Cert.Raw, State: intent.KeyUse}},
		Writers: []intent.Writer{{Key: document.MarshalKey(d.Writer.Public().(ed25519.PublicKey)), Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse}},
	}
	d.Env = d.Sign(intent.PayloadTrust, d.Trust, d.Root)
	v, err := trust.NewView(d.Trust)
	if err != nil {
		t.Fatal(err)
	}
	d.Holder.Set(v)
	return d
}

// Sign wraps the JSON of v.
func (d *Domain) Sign(payloadType string, v any, key ed25519.PrivateKey) *intent.Envelope {
	d.T.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		d.T.Fatal(err)
	}
	env, err := document.Sign(payloadType, b, key)
	if err != nil {
		d.T.Fatal(err)
	}
	return env
}

// Coordinator makes a coordinator.
func (d *Domain) Coordinator(id string) *Node {
	return d.node(trust.Identity{Kind: trust.Coordinator, ID: id})
}

// Agent makes an agent, puts it on its site's roster with the address (may be empty), and updates the shared view.
func (d *Domain) Agent(site, id, addr string) *Node {
	n := d.Unlisted(site, id)
	r := d.Rosters[site]
	if r == nil {
		r = &intent.RosterBody{}
		d.Rosters[site] = r
	}
	r.Generation++
	a := intent.RosterAgent{ID: id, Rank: uint16(len(r.Agents)), State: "agent", TLS: [][]byte{n.Leaf.Leaf.RawSubjectPublicKeyInfo}}
	if addr != "" {
		a.Addr = []string{addr}
	}
	r.Agents = append(r.Agents, a)
	d.Holder.Set(d.Holder.View().WithRoster(site, r))
	return n
}

// Unlisted makes an agent that has a certificate but stands on no roster.
func (d *Domain) Unlisted(site, id string) *Node {
	return d.node(trust.Identity{Kind: trust.Agent, Site: site, ID: id})
}

// Revoke adds to the shared view.
func (d *Domain) Revoke(kind intent.RevocationKind, id string) {
	d.Holder.Set(d.Holder.View().WithRevocations([]intent.Revocation{{Kind: kind, ID: id}}))
}

func (d *Domain) node(id trust.Identity) *Node {
	d.T.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.T.Fatal(err)
	}
	csr, err := ca.NewRequest(key)
	if err != nil {
		d.T.Fatal(err)
	}
	leaf, err := d.CA.Issue(csr, id, Now())
	if err != nil {
		d.T.Fatal(err)
	}
	web, err := d.CA.IssueWeb(csr, []string{id.ID + "." + Name}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Now())
	if err != nil {
		d.T.Fatal(err)
	}
	n := &Node{
		ID: id, Key: key,
		Leaf: &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf},
		Web:  &tls.Certificate{Certificate: [][]byte{web.Raw, d.CA.Cert.Raw}, PrivateKey: key, Leaf: web},
	}
	n.TLS = &trust.TLS{
		Self: id, View: d.Holder.View,
		Leaf: func() *tls.Certificate { return n.Leaf },
		Web:  func() *tls.Certificate { return n.Web },
	}
	return n
}

// User makes a self-signed client certificate and registers its key for the name in the shared view.
func (d *Domain) User(name string) *tls.Certificate {
	d.T.Helper()
	key := edKey(d.T)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: Now(), NotAfter: Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		d.T.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		d.T.Fatal(err)
	}
	d.Holder.Set(d.Holder.View().WithUsers(map[intent.Digest]string{trust.SPKIOf(c): name}))
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: c}
}

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
