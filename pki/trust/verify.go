package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Bounds of what a peer may show. Four: leaf, C, R and one cross-signed in a rotation; four P-256 certificates are 3 KiB.
const (
	MaxCertificates    = 4
	MaxCertificateSize = 16 << 10 // octets, all together
)

// Why a peer was refused. Callers branch on ErrRevoked (audit) and ErrNotInRoster (a newer roster may help).
var (
	ErrShape       = errors.New("certificates or protocol out of bounds")
	ErrChain       = errors.New("no trusted coordinator CA vouches for it")
	ErrNotInRoster = errors.New("not in the roster with this key")
	ErrRevoked     = errors.New("revoked")
	ErrOther       = errors.New("another peer than the one meant")
)

// IsRefusal tells whether a failed handshake failed because of who the peer is, not because of the network or of its TLS.
func IsRefusal(err error) bool {
	for _, e := range []error{ErrChain, ErrIdentity, ErrNotInRoster, ErrRevoked, ErrOther} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Want says who may be at the other end. Kind, when set, is the only kind allowed; Site and ID, when set, must match.
// AnySite lets agents of other sites pass by their chain alone (reads by digest and signed documents only).
type Want struct {
	Kind    Kind
	Site    string
	ID      string
	AnySite bool
}

// VerifyPeer applies rules 2, 3 and 5 of trust.md section 1 to certs (leaf first) under v. self is the own site, "" at a
// coordinator, which has every site's roster. No clock is read. Errors: ErrShape, ErrChain, ErrIdentity, ErrNotInRoster,
// ErrRevoked, ErrOther.
func VerifyPeer(v *View, self string, certs []*x509.Certificate, want Want) (Identity, error) {
	if err := checkShape(certs); err != nil {
		return Identity{}, err
	}
	if v == nil {
		return Identity{}, fmt.Errorf("cannot verify peer without a trust document: %w", ErrChain)
	}
	leaf := certs[0]
	ca, err := vouches(v, leaf)
	if err != nil {
		return Identity{}, err
	}
	if leaf.IsCA || len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
		return Identity{}, fmt.Errorf("cannot use certificate with other names than one URI: %w", ErrIdentity)
	}
	id, err := ParseIdentity(leaf.URIs[0], v.Domain)
	if err != nil {
		return Identity{}, err
	}
	id.SPKI = SPKIOf(leaf)
	for _, c := range certs {
		id.Chain = append(id.Chain, SPKIOf(c))
	}
	id.Chain = append(id.Chain, SPKIOf(ca))
	if v.Revoked.Hits(id) {
		return Identity{}, fmt.Errorf("cannot accept %s: %w", id, ErrRevoked)
	}
	if want.Kind != None && id.Kind != want.Kind || want.Site != "" && id.Site != want.Site || want.ID != "" && id.ID != want.ID {
		return Identity{}, fmt.Errorf("cannot accept %s: %w", id, ErrOther)
	}
	if id.Kind == Agent {
		if err := checkRoster(v, self, id, want); err != nil {
			return Identity{}, err
		}
	}
	return id, nil
}

// checkRoster holds rule 3.
func checkRoster(v *View, self string, id Identity, want Want) error {
	foreign := self != "" && id.Site != self
	if foreign && want.AnySite {
		return nil
	}
	if foreign && want.Site != id.Site {
		return fmt.Errorf("cannot accept %s at site %s: %w", id, self, ErrOther)
	}
	if _, known := v.agents[id.Site]; !known && v.unknown && self == "" {
		return nil
	}
	if keys, _ := v.AgentKeys(id.Site, id.ID); !contains(keys, id.SPKI) {
		return fmt.Errorf("cannot accept %s: %w", id, ErrNotInRoster)
	}
	return nil
}

// vouches returns the CA of v that issued leaf. Go checks the dates of the whole chain, so the time given is the newest
// NotBefore, which lies inside every validity: all run to the end of the year 9999.
func vouches(v *View, leaf *x509.Certificate) (*x509.Certificate, error) {
	for _, ca := range v.CAs {
		at := leaf.NotBefore
		if ca.NotBefore.After(at) {
			at = ca.NotBefore
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err == nil {
			return ca, nil
		}
	}
	return nil, fmt.Errorf("cannot verify certificate %q: %w", clip(leaf.Subject.CommonName), ErrChain)
}

// verifyUser holds rule 4: one self-signed certificate whose key stands on a User.
func verifyUser(v *View, certs []*x509.Certificate) (Identity, error) {
	if err := checkShape(certs); err != nil {
		return Identity{}, err
	}
	if v == nil || len(certs) != 1 {
		return Identity{}, fmt.Errorf("cannot verify user: want one self-signed certificate: %w", ErrShape)
	}
	c := certs[0]
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		return Identity{}, fmt.Errorf("cannot verify user: not self-signed: %w", ErrChain)
	}
	id := Identity{Kind: User, SPKI: SPKIOf(c), Chain: []intent.Digest{SPKIOf(c)}}
	name, ok := v.users[id.SPKI]
	if !ok {
		return Identity{}, fmt.Errorf("cannot verify user: key %s is on no user: %w", id.SPKI.Short(), ErrNotInRoster)
	}
	id.ID = name
	if v.Revoked.Hits(id) {
		return Identity{}, fmt.Errorf("cannot accept %s: %w", id, ErrRevoked)
	}
	return id, nil
}

func checkShape(certs []*x509.Certificate) error {
	if len(certs) == 0 || len(certs) > MaxCertificates {
		return fmt.Errorf("cannot accept %d certificates, want 1-%d: %w", len(certs), MaxCertificates, ErrShape)
	}
	size := 0
	for _, c := range certs {
		size += len(c.Raw)
		switch k := c.PublicKey.(type) {
		case ed25519.PublicKey:
		case *ecdsa.PublicKey:
			if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
				return fmt.Errorf("cannot accept a key on curve %s: %w", k.Curve.Params().Name, ErrShape)
			}
		default:
			return fmt.Errorf("cannot accept a key of type %T: %w", k, ErrShape)
		}
	}
	if size > MaxCertificateSize {
		return fmt.Errorf("cannot accept %d octets of certificates: %w", size, ErrShape)
	}
	return nil
}

// checkProtocol holds rule 1.
func checkProtocol(cs tls.ConnectionState, alpn string) error {
	got := cs.NegotiatedProtocol
	if got == "" && alpn == ALPNHTTP {
		got = ALPNHTTP // no ALPN means HTTP/1.1
	}
	if cs.Version != tls.VersionTLS13 || got != alpn || cs.DidResume {
		return fmt.Errorf("cannot speak TLS %#x, protocol %q: %w", cs.Version, clip(cs.NegotiatedProtocol), ErrShape)
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), 60)] }
