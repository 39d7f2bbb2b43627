package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Kind says what an identity is.
type Kind string

// The kinds. None is a peer without certificate: a joining agent, or a user who brings a token.
const (
	None        Kind = ""
	Agent       Kind = "agent"
	Coordinator Kind = "coordinator"
	User        Kind = "user"
)

// Identity is who the other end is. Site is set for agents only; ID is the agent's, coordinator's or user's name. SPKI is the
// SHA-256 of its key; Chain holds the SPKI of every certificate it showed and of the CA that vouched.
type Identity struct {
	Kind  Kind
	Site  string
	ID    string
	SPKI  intent.Digest
	Chain []intent.Digest
}

// ErrIdentity says that a name is no Skerry identity.
var ErrIdentity = errors.New("not a skerry identity")

// String returns lon1/a1, coordinator/c1, user/ana or none.
func (i Identity) String() string {
	switch i.Kind {
	case Agent:
		return i.Site + "/" + i.ID
	case Coordinator, User:
		return string(i.Kind) + "/" + i.ID
	default:
		return "none"
	}
}

// Is tells whether i and o name the same peer, whatever their keys.
func (i Identity) Is(o Identity) bool { return i.Kind == o.Kind && i.Site == o.Site && i.ID == o.ID }

// URI returns the SPIFFE id: spiffe://SITE.DOMAIN/agent/ID, or spiffe://DOMAIN/coordinator/ID. Users have none.
func (i Identity) URI(domain string) (*url.URL, error) {
	if !intent.IsLabel(i.ID) || domain == "" {
		return nil, fmt.Errorf("cannot name %s in domain %q: %w", i, domain, ErrIdentity)
	}
	u := &url.URL{Scheme: "spiffe", Host: domain, Path: "/" + string(i.Kind) + "/" + i.ID}
	switch {
	case i.Kind == Agent && intent.IsLabel(i.Site):
		u.Host = i.Site + "." + domain
	case i.Kind == Coordinator && i.Site == "":
	default:
		return nil, fmt.Errorf("cannot name %s in domain %q: %w", i, domain, ErrIdentity)
	}
	return u, nil
}

// CA returns the SHA-256 of the public key of the CA that vouched for an agent or a coordinator; zero for others.
func (i Identity) CA() intent.Digest {
	if i.Kind == User || len(i.Chain) == 0 {
		return intent.Digest{}
	}
	return i.Chain[len(i.Chain)-1]
}

// ParseIdentity reads what URI wrote for the given domain; keys are not set. Errors: ErrIdentity.
func ParseIdentity(u *url.URL, domain string) (Identity, error) {
	bad := func(why string) (Identity, error) {
		return Identity{}, fmt.Errorf("cannot read identity: %s: %w", why, ErrIdentity)
	}
	if u == nil || domain == "" {
		return bad("no URI or domain")
	}
	if u.Scheme != "spiffe" || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.RawPath != "" {
		return bad("more than scheme, host and path")
	}
	parts := strings.Split(u.Path, "/")
	if len(parts) != 3 || parts[0] != "" || !intent.IsLabel(parts[2]) {
		return bad("path is not /KIND/ID")
	}
	id := Identity{Kind: Kind(parts[1]), ID: parts[2]}
	switch id.Kind {
	case Coordinator:
		if u.Host != domain {
			return bad("a coordinator's host is the domain")
		}
	case Agent:
		site, ok := strings.CutSuffix(u.Host, "."+domain)
		if !ok || !intent.IsLabel(site) {
			return bad("an agent's host is SITE.DOMAIN")
		}
		id.Site = site
	default:
		return bad("unknown kind")
	}
	if got, err := id.URI(domain); err != nil || got.String() != u.String() {
		return bad("not in canonical form")
	}
	return id, nil
}

// SPKIOf returns the SHA-256 of the certificate's SubjectPublicKeyInfo, which names a key whatever certificate carries it.
func SPKIOf(c *x509.Certificate) intent.Digest { return intent.DigestOf(c.RawSubjectPublicKeyInfo) }
