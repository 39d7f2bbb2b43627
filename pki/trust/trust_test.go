package trust_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/ca"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/trust"
)

// shake runs one handshake over a pipe and returns what each side thinks.
func shake(t *testing.T, server, client *tls.Config) (cs tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // far above a handshake on a busy machine
	defer cancel()
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		err := s.HandshakeContext(ctx)
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		a.Close()
		done <- err
	}()
	clientErr = c.HandshakeContext(ctx)
	if clientErr == nil {
		// In TLS 1.3 the client finishes before the server judged its certificate: only data proves it.
		_, clientErr = c.Read(make([]byte, 1))
	}
	b.Close()
	serverErr = <-done
	return s.ConnectionState(), serverErr, clientErr
}

func TestHandshakes(t *testing.T) {
	d := pkitest.New(t)
	a1, a2 := d.Agent("lon1", "a1", ""), d.Agent("lon1", "a2", "")
	p1 := d.Agent("par3", "p1", "")
	c1 := d.Coordinator("c1")
	ghost := d.Unlisted("lon1", "a3")
	twin := d.Unlisted("lon1", "a2") // a2's name, another key
	foreign := pkitest.New(t)
	f1 := foreign.Agent("lon1", "a1", "")

	all := []string{trust.ALPNMesh, trust.ALPNBulk, trust.ALPNUplink, trust.ALPNJoin, trust.ALPNH2, trust.ALPNHTTP}
	agent := func(site, id string) trust.Want { return trust.Want{Kind: trust.Agent, Site: site, ID: id} }
	coord := trust.Want{Kind: trust.Coordinator}
	f := func(what string, ok bool, server, client *pkitest.Node, alpn string, want trust.Want) {
		t.Helper()
		cs, serr, cerr := shake(t, server.TLS.Server(all...), client.TLS.Client(alpn, want))
		if (serr == nil && cerr == nil) != ok {
			t.Errorf("%s: server %v, client %v, want ok %v", what, serr, cerr, ok)
		}
		if ok {
			id, err := server.TLS.Identify(cs, true, trust.Want{})
			if err != nil || alpn != trust.ALPNJoin && !id.Is(client.ID) {
				t.Errorf("%s: identified as %v, %v", what, id, err)
			}
		}
	}
	f("mesh in a site", true, a1, a2, trust.ALPNMesh, agent("lon1", "a1"))
	f("mesh, dialled another", false, a1, a2, trust.ALPNMesh, agent("lon1", "a9"))
	f("mesh from another site", true, a1, p1, trust.ALPNMesh, agent("lon1", "a1"))
	f("mesh from another site's unlisted, by its chain", true, a1, d.Unlisted("par3", "p9"), trust.ALPNMesh, agent("lon1", "a1"))
	f("bulk by a coordinator", false, a1, c1, trust.ALPNBulk, trust.Want{Kind: trust.Agent, AnySite: true})
	f("bulk from another site", true, a1, p1, trust.ALPNBulk, trust.Want{Kind: trust.Agent, AnySite: true})
	f("not in the roster", false, a1, ghost, trust.ALPNMesh, agent("lon1", "a1"))
	f("a name with another key", false, a1, twin, trust.ALPNMesh, agent("lon1", "a1"))
	f("server with another key", false, twin, a1, trust.ALPNMesh, agent("lon1", "a2"))
	f("another domain's server", false, f1, a2, trust.ALPNMesh, agent("lon1", "a1"))
	f("another domain's client", false, a2, f1, trust.ALPNMesh, agent("lon1", "a2"))
	f("uplink", true, c1, a1, trust.ALPNUplink, coord)
	f("uplink by an unlisted agent", false, c1, ghost, trust.ALPNUplink, coord)
	f("uplink to an agent", false, a2, a1, trust.ALPNUplink, coord)
	f("mesh by a coordinator", false, a1, c1, trust.ALPNMesh, agent("lon1", "a1"))
	f("join, no client certificate", true, c1, ghost, trust.ALPNJoin, coord)
	f("unknown protocol", false, a1, a2, "skerry-x", agent("lon1", "a1"))

	mixed := a2.TLS.Client(trust.ALPNMesh, agent("lon1", "a1"))
	mixed.NextProtos = []string{trust.ALPNMesh, trust.ALPNH2}
	if _, serr, _ := shake(t, a1.TLS.Server(all...), mixed); serr == nil {
		t.Error("a skerry protocol among others was chosen")
	}
	bare := a2.TLS.Client(trust.ALPNMesh, agent("lon1", "a1"))
	bare.GetClientCertificate = nil
	if _, serr, _ := shake(t, a1.TLS.Server(all...), bare); serr == nil {
		t.Error("mesh without a client certificate")
	}
	old := a2.TLS.Client(trust.ALPNMesh, agent("lon1", "a1"))
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serr, _ := shake(t, a1.TLS.Server(all...), old); serr == nil {
		t.Error("TLS 1.2 was spoken")
	}

	// Revocation: by id, and by key under another id's certificate. Then by the CA's key: everyone.
	d.Revoke(intent.RevokeAgent, "par3/p1")
	f("revoked elsewhere", false, a1, p1, trust.ALPNBulk, trust.Want{Kind: trust.Agent, AnySite: true})
	f("revoked elsewhere, mesh", false, a1, p1, trust.ALPNMesh, agent("lon1", "a1"))
	d.Revoke(intent.RevokeSPKI, trust.SPKIOf(a2.Leaf.Leaf).Hex())
	f("revoked key", false, a1, a2, trust.ALPNMesh, agent("lon1", "a1"))
	f("uplink of the rest", true, c1, a1, trust.ALPNUplink, coord)
	d.Revoke(intent.RevokeSPKI, trust.SPKIOf(d.CA.Cert).Hex())
	f("revoked CA", false, c1, a1, trust.ALPNUplink, coord)
}

func TestWeb(t *testing.T) {
	d := pkitest.New(t)
	a1 := d.Agent("lon1", "a1", "")
	ana := d.User("ana")
	srv := func() *tls.Config { return a1.TLS.Server(trust.ALPNH2, trust.ALPNHTTP) }
	roots := x509.NewCertPool()
	roots.AddCert(d.RootCA.Cert)
	client := func(protos ...string) *tls.Config {
		return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", NextProtos: protos}
	}
	f := func(ok bool, c *tls.Config, want trust.Identity) {
		t.Helper()
		cs, serr, cerr := shake(t, srv(), c)
		if (serr == nil && cerr == nil) != ok {
			t.Errorf("server %v, client %v, want ok %v", serr, cerr, ok)
			return
		}
		if !ok {
			return
		}
		if id, err := a1.TLS.Identify(cs, true, trust.Want{}); err != nil || !id.Is(want) {
			t.Errorf("identified as %v, %v, want %v", id, err, want)
		}
	}
	f(true, client("h2", "http/1.1"), trust.Identity{})
	f(true, client(), trust.Identity{}) // no ALPN: HTTP/1.1
	withUser := client("h2")
	withUser.Certificates = []tls.Certificate{*ana}
	f(true, withUser, trust.Identity{Kind: trust.User, ID: "ana"})
	asAgent := client("h2")
	asAgent.Certificates = []tls.Certificate{*a1.Leaf}
	f(false, asAgent, trust.Identity{}) // an agent's certificate is no user's
	f(false, client("skerry-mesh/1"), trust.Identity{})
	d.Revoke(intent.RevokeUser, "ana")
	f(false, withUser, trust.Identity{})

	// What was admitted is closed after a revocation: the endpoint asks Admits.
	v := d.Holder.View()
	if v.Admits(trust.Identity{Kind: trust.User, ID: "ana", SPKI: trust.SPKIOf(ana.Leaf)}) {
		t.Error("a revoked user stays")
	}
	if id := (trust.Identity{Kind: trust.Agent, Site: "lon1", ID: "a1", SPKI: trust.SPKIOf(a1.Leaf.Leaf)}); !v.Admits(id) {
		t.Error("an agent of the roster goes")
	} else if v.WithRoster("lon1", &intent.RosterBody{}).Admits(id) {
		t.Error("an agent off the roster stays")
	}
}

func TestShape(t *testing.T) {
	d := pkitest.New(t)
	a1 := d.Agent("lon1", "a1", "")
	leaf := a1.Leaf.Leaf
	f := func(want error, certs ...*x509.Certificate) {
		t.Helper()
		if _, err := trust.VerifyPeer(d.Holder.View(), "lon1", certs, trust.Want{}); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("VerifyPeer = %v, want %v", err, want)
		}
	}
	f(nil, leaf)
	f(nil, leaf, d.CA.Cert, d.RootCA.Cert)
	f(trust.ErrShape)
	f(trust.ErrShape, leaf, leaf, leaf, leaf, leaf)
	f(trust.ErrChain, d.RootCA.Cert)
	f(trust.ErrIdentity, a1.Web.Leaf) // chains to C, but carries DNS names
	if _, err := trust.VerifyPeer(nil, "lon1", []*x509.Certificate{leaf}, trust.Want{}); !errors.Is(err, trust.ErrChain) {
		t.Errorf("without a trust document: %v", err)
	}

	// A leaf of an evil CA with our names, and one signed by an agent's own key.
	evil, err := ca.NewRoot(pkitest.Name, pkitest.Now())
	if err != nil {
		t.Fatal(err)
	}
	sub, err := evil.Sub("c1", pkitest.Now())
	if err != nil {
		t.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewRequest(k)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := sub.Issue(csr, a1.ID, pkitest.Now())
	if err != nil {
		t.Fatal(err)
	}
	f(trust.ErrChain, forged)
	f(trust.ErrChain, forged, d.CA.Cert)
}

// TestNoClock: certificates made "in the future", and CAs made after their leaves, are accepted: no clock ends a site.
func TestNoClock(t *testing.T) {
	d := pkitest.New(t)
	for _, at := range []time.Time{time.Unix(0, 0), pkitest.Now().AddDate(500, 0, 0)} {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := ca.NewRequest(k)
		if err != nil {
			t.Fatal(err)
		}
		id := trust.Identity{Kind: trust.Coordinator, ID: "c9"}
		leaf, err := d.CA.Issue(csr, id, at)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := trust.VerifyPeer(d.Holder.View(), "lon1", []*x509.Certificate{leaf}, trust.Want{}); err != nil || !got.Is(id) {
			t.Errorf("issued at %v: %v, %v", at, got, err)
		}
	}
}

// TestDecades is promise 2: agents shake hands with clocks 26 years before their certificates, and 30 years on.
func TestDecades(t *testing.T) {
	d := pkitest.New(t)
	a1, a2 := d.Agent("lon1", "a1", ""), d.Agent("lon1", "a2", "")
	synctest.Test(t, func(t *testing.T) { // the bubble's clock begins at 2000-01-01
		for range 4 {
			_, serr, cerr := shake(t, a1.TLS.Server(trust.ALPNMesh), a2.TLS.Client(trust.ALPNMesh, trust.Want{Kind: trust.Agent, Site: "lon1", ID: "a1"}))
			if serr != nil || cerr != nil {
				t.Errorf("in %d: %v, %v", time.Now().Year(), serr, cerr)
			}
			time.Sleep(10 * 365 * 24 * time.Hour)
		}
	})
}

func TestParseIdentity(t *testing.T) {
	f := func(uri, want string) {
		t.Helper()
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		id, err := trust.ParseIdentity(u, "example.net")
		if got := id.String(); got != want || (want == "none") != errors.Is(err, trust.ErrIdentity) {
			t.Errorf("%s: %s, %v, want %s", uri, got, err, want)
		}
	}
	f("spiffe://lon1.example.net/agent/a1", "lon1/a1")
	f("spiffe://example.net/coordinator/c1", "coordinator/c1")
	f("spiffe://lon1.example.net/coordinator/c1", "none")
	f("spiffe://example.net/agent/a1", "none")
	f("spiffe://a.lon1.example.net/agent/a1", "none")
	f("spiffe://lon1.example.net:1/agent/a1", "none")
	f("spiffe://u@lon1.example.net/agent/a1", "none")
	f("spiffe://lon1.example.net/agent/a1?", "none")
	f("spiffe://lon1.example.net/agent/a1#x", "none")
	f("spiffe://lon1.example.net/agent/a1/x", "none")
	f("spiffe://lon1.example.net/agent/%61%31", "none")
	f("spiffe://lon1.example.net/user/ana", "none")
	f("spiffe://LON1.example.net/agent/a1", "none")
	f("https://lon1.example.net/agent/a1", "none")
	f("spiffe://lon1.evilexample.net/agent/a1", "none")
	f("spiffe://example.net.evil/coordinator/c1", "none")
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("spiffe://lon1.example.net/agent/a1")
	f.Add("spiffe://example.net/coordinator/c1")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		id, err := trust.ParseIdentity(u, "example.net")
		if err != nil {
			return
		}
		if back, err := id.URI("example.net"); err != nil || back.String() != u.String() { // a scheme is read in any case (RFC 3986, 3.1)
			t.Fatalf("%q became %v", s, back)
		}
	})
}

func TestFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The bubble's clock begins at 2000-01-01, below the build time: NTP has not run.
		build := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		f := trust.NewFloor(build, time.Time{}, nil)
		if now, ok := f.Now(); ok || !now.Equal(build) {
			t.Errorf("Now = %v, %v; a clock below the floor is not believed", now, ok)
		}
		time.Sleep(time.Hour)
		if got := f.Value(); !got.Equal(build.Add(time.Hour)) {
			t.Errorf("Value = %v after an hour", got)
		}
		f.Observe(build.Add(time.Minute)) // older than the floor
		if got := f.Value(); !got.Equal(build.Add(time.Hour)) {
			t.Errorf("an old document moved the floor to %v", got)
		}
		f.Observe(build.Add(48 * time.Hour))
		time.Sleep(time.Minute)
		if got := f.Value(); !got.Equal(build.Add(48*time.Hour + time.Minute)) {
			t.Errorf("Value = %v after a newer document", got)
		}
		saved := f.Value()
		if got := trust.NewFloor(build, saved, nil).Value(); !got.Equal(saved) {
			t.Errorf("after a restart: %v, want %v", got, saved)
		}
		f.Lower(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC))
		if now, ok := f.Now(); !ok || now.Year() != 2000 {
			t.Errorf("Now = %v, %v after the floor was lowered", now, ok)
		}
		if f.Ahead() < 300*24*time.Hour {
			t.Errorf("Ahead = %v", f.Ahead())
		}
	})
}
