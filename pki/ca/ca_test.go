package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/test/e2e/lab"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func authority(t testing.TB) (root, sub *CA) {
	t.Helper()
	root, err := NewRoot("example.net", now)
	if err != nil {
		t.Fatal(err)
	}
	sub, err = root.Sub("c1", now)
	if err != nil {
		t.Fatal(err)
	}
	return root, sub
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t testing.TB) []byte {
	t.Helper()
	csr, err := NewRequest(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// text renders everything of a certificate that is not random.
func text(c *x509.Certificate) string {
	return fmt.Sprintf("subject %s issuer %s %s..%s usage %b ext %v ca %v pathlen %d uris %v dns %v ips %v key %T critical %v",
		c.Subject, c.Issuer, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339), c.KeyUsage, c.ExtKeyUsage,
		c.IsCA, c.MaxPathLen, c.URIs, c.DNSNames, c.IPAddresses, c.PublicKey, c.UnhandledCriticalExtensions)
}

func TestProfiles(t *testing.T) {
	root, sub := authority(t)
	f := func(c *x509.Certificate, err error, want string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if got := text(c); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f(root.Cert, nil, "subject CN=Skerry root example.net issuer CN=Skerry root example.net 2026-01-01T01:04:05Z..9999-12-31T23:59:59Z usage 1100000 ext [] ca true pathlen 1 uris [] dns [] ips [] key *ecdsa.PublicKey critical []")
	f(sub.Cert, nil, "subject CN=Skerry coordinator CA c1 issuer CN=Skerry root example.net 2026-01-01T01:04:05Z..9999-12-31T23:59:59Z usage 1100000 ext [] ca true pathlen 0 uris [] dns [] ips [] key *ecdsa.PublicKey critical []")
	c, err := sub.Issue(request(t), trust.Identity{Kind: trust.Agent, Site: "lon1", ID: "a1"}, now)
	f(c, err, "subject CN=lon1/a1 issuer CN=Skerry coordinator CA c1 2026-01-01T01:04:05Z..9999-12-31T23:59:59Z usage 1 ext [serverAuth clientAuth] ca false pathlen -1 uris [spiffe://lon1.example.net/agent/a1] dns [] ips [] key *ecdsa.PublicKey critical []")
	c, err = sub.Issue(request(t), trust.Identity{Kind: trust.Coordinator, ID: "c1"}, now.AddDate(-50, 0, 0)) // a clock at 1976
	f(c, err, "subject CN=coordinator/c1 issuer CN=Skerry coordinator CA c1 2026-01-01T01:04:05Z..9999-12-31T23:59:59Z usage 1 ext [serverAuth clientAuth] ca false pathlen -1 uris [spiffe://example.net/coordinator/c1] dns [] ips [] key *ecdsa.PublicKey critical []")
	c, err = sub.IssueWeb(request(t), []string{"a1.lon1.example.net", "coord"}, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, now)
	f(c, err, "subject CN=skerry web issuer CN=Skerry coordinator CA c1 2026-01-01T01:04:05Z..9999-12-31T23:59:59Z usage 1 ext [serverAuth] ca false pathlen -1 uris [] dns [a1.lon1.example.net coord] ips [10.0.0.1 fd00::1] key *ecdsa.PublicKey critical []")

	// A browser checks a web leaf against R with C sent along.
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.Cert)
	inter.AddCert(sub.Cert)
	for _, name := range []string{"a1.lon1.example.net", "10.0.0.1", "fd00::1"} {
		if _, err := c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, DNSName: name, CurrentTime: now}); err != nil {
			t.Errorf("a browser refuses %s: %v", name, err)
		}
	}
}

func TestRefused(t *testing.T) {
	_, sub := authority(t)
	agent := trust.Identity{Kind: trust.Agent, Site: "lon1", ID: "a1"}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaCSR, err := NewRequest(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	bad := request(t)
	bad[len(bad)-1] ^= 1
	f := func(csr []byte, id trust.Identity, want error) {
		t.Helper()
		if c, err := sub.Issue(csr, id, now); !errors.Is(err, want) || c != nil {
			t.Errorf("Issue = %v, %v, want %v", c, err, want)
		}
	}
	f(bad, agent, ErrRequest)
	f(rsaCSR, agent, ErrRequest)
	f(nil, agent, ErrRequest)
	f(make([]byte, MaxRequest+1), agent, ErrRequest)
	f(request(t), trust.Identity{Kind: trust.Agent, Site: "lon1", ID: "a1/../../x"}, trust.ErrIdentity)
	f(request(t), trust.Identity{Kind: trust.Agent, ID: "a1"}, trust.ErrIdentity)
	f(request(t), trust.Identity{Kind: trust.User, ID: "ana"}, trust.ErrIdentity)
	for _, n := range []string{"", "a b", "10.0.0.1", "*.example.net", "x@y.z", "spiffe://x/y"} {
		if _, err := sub.IssueWeb(request(t), []string{n}, nil, now); !errors.Is(err, ErrRequest) {
			t.Errorf("IssueWeb(%q) = %v", n, err)
		}
	}
}

// TestRequestDecidesNothing: whatever names and extensions a request carries, the certificate has ours.
func TestRequestDecidesNothing(t *testing.T) {
	_, sub := authority(t)
	key := newKey(t)
	want := "[spiffe://lon1.example.net/agent/a1]"
	rapid.Check(t, func(rt *rapid.T) {
		tmpl := &x509.CertificateRequest{Subject: pkix.Name{CommonName: rapid.SampledFrom([]string{"", "root", "spiffe://x"}).Draw(rt, "cn"), Organization: []string{"evil"}}}
		if rapid.Bool().Draw(rt, "dns") {
			tmpl.DNSNames = []string{"coordinator.example.net"}
		}
		if rapid.Bool().Draw(rt, "ip") {
			tmpl.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 9)}
		}
		if rapid.Bool().Draw(rt, "uri") {
			tmpl.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.net", Path: "/coordinator/c1"}}
		}
		asCA := rapid.Bool().Draw(rt, "ca")
		if asCA {
			tmpl.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
		if err != nil {
			rt.Fatal(err)
		}
		c, err := sub.Issue(csr, trust.Identity{Kind: trust.Agent, Site: "lon1", ID: "a1"}, now)
		if err != nil {
			if !asCA {
				rt.Fatalf("names in a request must not matter: %v", err)
			}
			return // a request to be a CA is refused whole, which is as good
		}
		if fmt.Sprint(c.URIs) != want || len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0 || c.IsCA || c.Subject.CommonName != "lon1/a1" || len(c.Subject.Organization) != 0 {
			rt.Fatalf("the request chose: %s", text(c))
		}
	})
}

func TestSaveLoad(t *testing.T) {
	dir := t.TempDir()
	root, _ := authority(t)
	if err := root.Save(dir, "root"); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, "root.key"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v", st, err)
	}
	got, err := Load(dir, "root", "example.net")
	if err != nil || !got.Cert.Equal(root.Cert) {
		t.Fatalf("Load = %v", err)
	}
	if _, err := got.Sub("c2", now); err != nil {
		t.Error(err)
	}
	other, _ := authority(t)
	if _, err := New(root.Cert, other.Key, "example.net"); err == nil {
		t.Error("accepted another CA's key")
	}
}

// TestOpenSSLAgrees lets a second implementation verify the chain.
func TestOpenSSLAgrees(t *testing.T) {
	lab.Need(t, lab.Tool("openssl", "openssl"))
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, sub := authority(t)
	leaf, err := sub.IssueWeb(request(t), []string{"a1.lon1.example.net"}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"root.pem": root.Cert.Raw, "sub.pem": sub.Cert.Raw, "leaf.pem": leaf.Raw} {
		if err := writeFile(filepath.Join(dir, name), 0o600, "CERTIFICATE", der); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "a1.lon1.example.net",
		"-CAfile", "root.pem", "-untrusted", "sub.pem", "leaf.pem")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "OK") {
		t.Errorf("openssl: %v\n%s", err, out)
	}
}

// TestCheckRefuses: a signer that makes anything else than asked is caught, whatever part differs.
func TestCheckRefuses(t *testing.T) {
	_, sub := authority(t)
	csr := request(t)
	asked := product{profile: profileLeaf, cn: "lon1/a1", hosts: []string{"spiffe://lon1.example.net/agent/a1"}, now: now}
	cert, err := asked.make(sub, nil, csr)
	if err != nil {
		t.Fatal(err)
	}
	if err := asked.check(cert, sub.Cert, csr); err != nil {
		t.Fatal(err)
	}
	_, other := authority(t)
	f := func(what string, csr []byte, issuer *x509.Certificate, change func(*product)) {
		t.Helper()
		p := asked
		change(&p)
		if err := p.check(cert, issuer, csr); !errors.Is(err, ErrProduct) {
			t.Errorf("another %s: %v", what, err)
		}
	}
	same := func(*product) {}
	f("key", request(t), sub.Cert, same)
	f("issuer", csr, other.Cert, same)
	f("subject", csr, sub.Cert, func(p *product) { p.cn = "lon1/a2" })
	f("name", csr, sub.Cert, func(p *product) { p.hosts = []string{"spiffe://lon1.example.net/agent/a2"} })
	f("number of names", csr, sub.Cert, func(p *product) { p.hosts = append(p.hosts, "x.example.net") })
	f("date", csr, sub.Cert, func(p *product) { p.now = p.now.Add(time.Hour) })
	f("use", csr, sub.Cert, func(p *product) { p.profile = profileWeb })
	f("kind", csr, sub.Cert, func(p *product) { p.profile = profileCoordinator })
	if err := sub.checkIdentity(cert, trust.Identity{Kind: trust.Agent, Site: "lon1", ID: "a2"}); !errors.Is(err, ErrProduct) {
		t.Errorf("the verifier's judgement is ignored: %v", err)
	}
}
