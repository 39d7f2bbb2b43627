package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cloudflare/cfssl/config"
	"github.com/cloudflare/cfssl/log"
	"github.com/cloudflare/cfssl/signer"
	"github.com/cloudflare/cfssl/signer/local"
)

// notAfter ends every certificate: RFC 5280 section 4.1.2.5's value for "no well-defined expiration date".
const notAfter = "9999-12-31T23:59:59Z"

// Backdate is how far before the asked time a certificate begins: curl and browsers compare it with a clock that may be
// behind ours by a time zone set wrong.
const Backdate = 26 * time.Hour

// NamePrefix begins the common name of every coordinator CA.
const NamePrefix = "Skerry coordinator CA "

// ErrRequest says that a certificate request is malformed, unsigned, or for a key that we do not certify.
var ErrRequest = errors.New("bad certificate request")

// ErrProduct says that the signer made something else than was asked. It is a bug or an attack; nothing was released.
var ErrProduct = errors.New("signed certificate is not what was asked for")

// CA is one authority. Cert and Key belong together.
type CA struct {
	Cert   *x509.Certificate
	Key    crypto.Signer
	domain string
}

// profile names, as cfssl knows them.
const (
	profileRoot        = "root"
	profileCoordinator = "coordinator-ca"
	profileLeaf        = "leaf"
	profileWeb         = "web"
)

// NewRoot makes R for a domain: P-384, path length 1, self-signed. now is the time of making.
func NewRoot(domain string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make root key: %w", err)
	}
	return newCA(nil, key, product{profile: profileRoot, cn: "Skerry root " + domain, now: now}, domain)
}

// Certify makes the certificate of a coordinator CA below root r for csr's key (P-256), as Sub does for a key of its own. csr is PKCS#10
// DER; nothing but its key is used. Errors: ErrRequest, ErrProduct.
func (r *CA) Certify(csr []byte, name string, now time.Time) (*x509.Certificate, error) {
	if err := checkRequest(csr); err != nil {
		return nil, err
	}
	return product{profile: profileCoordinator, cn: NamePrefix + name, now: now}.make(r, nil, csr)
}

// Sub makes the coordinator CA C below root r: P-256, path length 0. name tells the CAs of a rotation apart.
func (r *CA) Sub(name string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make coordinator CA key: %w", err)
	}
	return newCA(r, key, product{profile: profileCoordinator, cn: NamePrefix + name, now: now}, r.domain)
}

func newCA(parent *CA, key *ecdsa.PrivateKey, p product, domain string) (*CA, error) {
	csr, err := NewRequest(key)
	if err != nil {
		return nil, err
	}
	cert, err := p.make(parent, key, csr)
	if err != nil {
		return nil, err
	}
	return &CA{Cert: cert, Key: key, domain: domain}, nil
}

// New wraps an existing certificate and its key. Errors: the key is another, or the certificate is no CA.
func New(cert *x509.Certificate, key crypto.Signer, domain string) (*CA, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || !pub.Equal(cert.PublicKey) {
		return nil, errors.New("cannot use CA: the key does not fit the certificate")
	}
	if !cert.IsCA {
		return nil, errors.New("cannot use CA: the certificate is a leaf")
	}
	return &CA{Cert: cert, Key: key, domain: domain}, nil
}

// Domain returns the domain whose names this CA gives.
func (c *CA) Domain() string { return c.domain }

// NewRequest returns the DER of a PKCS#10 request that proves possession of key and asks for no name.
func NewRequest(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("cannot make certificate request: %w", err)
	}
	return der, nil
}

// policy returns cfssl's signing policy: whitelisted key fields only, no extensions, no default profile's expiry in use.
func policy() *config.Signing {
	keyOnly := func() *config.CSRWhitelist {
		return &config.CSRWhitelist{PublicKey: true, PublicKeyAlgorithm: true, SignatureAlgorithm: true}
	}
	profile := func(constraint config.CAConstraint, usage ...string) *config.SigningProfile {
		// Expiry must be set for the policy to be valid; SignRequest.NotAfter decides.
		return &config.SigningProfile{Usage: usage, CAConstraint: constraint, CSRWhitelist: keyOnly(), Expiry: time.Hour, ExpiryString: "1h"}
	}
	return &config.Signing{
		Default: profile(config.CAConstraint{}, "digital signature"),
		Profiles: map[string]*config.SigningProfile{
			profileRoot:        profile(config.CAConstraint{IsCA: true, MaxPathLen: 1}, "cert sign", "crl sign"),
			profileCoordinator: profile(config.CAConstraint{IsCA: true, MaxPathLenZero: true}, "cert sign", "crl sign"),
			profileLeaf:        profile(config.CAConstraint{}, "digital signature", "server auth", "client auth"),
			profileWeb:         profile(config.CAConstraint{}, "digital signature", "server auth"),
		},
	}
}

// product is one certificate as asked for.
type product struct {
	profile string
	cn      string
	hosts   []string // URIs, DNS names, IPs
	now     time.Time
}

// make signs and then checks. parent nil: self-signed.
func (p product) make(parent *CA, key crypto.Signer, csr []byte) (*x509.Certificate, error) {
	quiet()
	var issuer *x509.Certificate
	if parent != nil {
		issuer, key = parent.Cert, parent.Key
	}
	s, err := local.NewSigner(key, issuer, signer.DefaultSigAlgo(key), policy())
	if err != nil {
		return nil, fmt.Errorf("cannot prepare signer: %w", err)
	}
	end, err := time.Parse(time.RFC3339, notAfter)
	if err != nil {
		return nil, fmt.Errorf("cannot read end of validity: %w", err)
	}
	hosts := p.hosts
	if hosts == nil {
		hosts = []string{} // nil would keep the request's names
	}
	out, err := s.Sign(signer.SignRequest{
		Request:   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		Subject:   &signer.Subject{CN: p.cn},
		Hosts:     hosts,
		Profile:   p.profile,
		NotBefore: p.begin(issuer),
		NotAfter:  end,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot sign %s certificate: %w", p.profile, err)
	}
	block, rest := pem.Decode(out)
	if block == nil || len(rest) != 0 {
		return nil, fmt.Errorf("cannot read signed certificate: %w", ErrProduct)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read signed certificate: %w: %w", ErrProduct, err)
	}
	return cert, p.check(cert, issuer, csr)
}

// begin is now less Backdate, but never before the issuer.
func (p product) begin(issuer *x509.Certificate) time.Time {
	t := p.now.UTC().Add(-Backdate).Truncate(time.Second)
	if issuer != nil && t.Before(issuer.NotBefore) {
		t = issuer.NotBefore
	}
	return t
}

// quiet stops cfssl from writing serial numbers to stderr. Its logger is a global, so it is set once.
func quiet() { quietOnce.Do(func() { log.SetLogger(discard{}) }) }

var quietOnce sync.Once // guards a global of cfssl, not state of ours

type discard struct{}

func (discard) Debug(string)   {}
func (discard) Info(string)    {}
func (discard) Warning(string) {}
func (discard) Err(string)     {}
func (discard) Crit(string)    {}
func (discard) Emerg(string)   {}

// subjectOnly tells whether n holds a common name and nothing else.
func subjectOnly(n pkix.Name, cn string) bool {
	return n.CommonName == cn && len(n.Names) == 1
}
