package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/pki/trust"
)

// MaxRequest bounds a certificate request; a P-256 one without names is 230 octets.
const MaxRequest = 4 << 10

// Issue certifies csr's key (P-256) as the agent or coordinator id: one URI, client and server use. csr is PKCS#10 DER;
// nothing but its key is used. now is the time of issue. Errors: ErrRequest, ErrProduct, trust.ErrIdentity.
func (c *CA) Issue(csr []byte, id trust.Identity, now time.Time) (*x509.Certificate, error) {
	uri, err := id.URI(c.domain)
	if err != nil {
		return nil, err
	}
	if err := checkRequest(csr); err != nil {
		return nil, err
	}
	p := product{profile: profileLeaf, cn: id.String(), hosts: []string{uri.String()}, now: now}
	cert, err := p.make(c, nil, csr)
	if err != nil {
		return nil, err
	}
	return cert, c.checkIdentity(cert, id)
}

// checkIdentity lets the verifier of the other end judge the leaf before it is released: it must accept the name given and
// refuse another.
func (c *CA) checkIdentity(cert *x509.Certificate, id trust.Identity) error {
	view := &trust.View{Domain: c.domain, CAs: []*x509.Certificate{c.Cert}}
	certs := []*x509.Certificate{cert}
	want := trust.Want{Kind: id.Kind, Site: id.Site, ID: id.ID, AnySite: true}
	if got, err := trust.VerifyPeer(view, "-", certs, want); err != nil || !got.Is(id) {
		return fmt.Errorf("cannot release certificate of %s: %w: %w", id, ErrProduct, err)
	}
	want.ID = id.ID + "x"
	if _, err := trust.VerifyPeer(view, "-", certs, want); err == nil {
		return fmt.Errorf("cannot release certificate of %s: it passes for %s: %w", id, want.ID, ErrProduct)
	}
	return nil
}

// IssueWeb certifies csr's key for browsers and curl: names are DNS names, ips addresses; at least one of both. Clients check
// it against R, so the server sends C with it. Errors: ErrRequest, ErrProduct.
func (c *CA) IssueWeb(csr []byte, names []string, ips []netip.Addr, now time.Time) (*x509.Certificate, error) {
	if len(names)+len(ips) == 0 {
		return nil, fmt.Errorf("cannot issue web certificate without a name: %w", ErrRequest)
	}
	if err := checkRequest(csr); err != nil {
		return nil, err
	}
	p := product{profile: profileWeb, cn: "skerry web", now: now}
	for _, n := range names {
		if _, err := netip.ParseAddr(n); err == nil || !isHostname(n) {
			return nil, fmt.Errorf("cannot issue web certificate for %q: not a DNS name: %w", n, ErrRequest)
		}
		p.hosts = append(p.hosts, n)
	}
	for _, ip := range ips {
		p.hosts = append(p.hosts, ip.Unmap().WithZone("").String())
	}
	return p.make(c, nil, csr)
}

func isHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' {
			return false
		}
	}
	return true
}

func checkRequest(csr []byte) error {
	if len(csr) > MaxRequest {
		return fmt.Errorf("cannot read request of %d octets, at most %d: %w", len(csr), MaxRequest, ErrRequest)
	}
	r, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return fmt.Errorf("cannot read request: %w: %w", ErrRequest, err)
	}
	if err := r.CheckSignature(); err != nil {
		return fmt.Errorf("cannot use request: no proof of its key: %w: %w", ErrRequest, err)
	}
	if k, ok := r.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return fmt.Errorf("cannot certify a key of type %T, want P-256: %w", r.PublicKey, ErrRequest)
	}
	return nil
}

// check compares a signed certificate with what was asked, by the standard library alone.
func (p product) check(cert, issuer *x509.Certificate, csr []byte) error {
	bad := func(what string) error {
		return fmt.Errorf("cannot release %s certificate: %s: %w", p.profile, what, ErrProduct)
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return bad("its request does not parse")
	}
	if !bytes.Equal(req.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) {
		return bad("another key")
	}
	if !subjectOnly(cert.Subject, p.cn) {
		return bad("another subject")
	}
	if cert.NotAfter.Format(time.RFC3339) != notAfter || !cert.NotBefore.Equal(p.begin(issuer)) {
		return bad("other dates")
	}
	var names []string
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	names = append(names, cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	names = append(names, cert.EmailAddresses...)
	if !slices.Equal(names, p.hosts) {
		return bad("other names")
	}
	return p.checkUsage(cert, issuer, bad)
}

func (p product) checkUsage(cert, issuer *x509.Certificate, bad func(string) error) error {
	usage, eku := x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	isCA, pathLen := false, -1
	switch p.profile {
	case profileRoot:
		usage, eku, isCA, pathLen = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil, true, 1
	case profileCoordinator:
		usage, eku, isCA, pathLen = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil, true, 0
	case profileWeb:
		eku = eku[:1]
	}
	if cert.KeyUsage != usage || !slices.Equal(cert.ExtKeyUsage, eku) || len(cert.UnknownExtKeyUsage) != 0 {
		return bad("other key usages")
	}
	if cert.IsCA != isCA || !cert.BasicConstraintsValid || isCA && cert.MaxPathLen != pathLen {
		return bad("other basic constraints")
	}
	if issuer == nil {
		issuer = cert
	}
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return bad("signature: " + err.Error())
	}
	return nil
}
