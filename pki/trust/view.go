package trust

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// View is what signed state says at one moment about who may speak. It is read-only: the With methods return a changed copy.
type View struct {
	Domain  string
	CAs     []*x509.Certificate // coordinator CAs that may vouch (accept and use)
	Roots   []*x509.Certificate // R of each, for `skerry site ca` and for showing
	Revoked *RevocationSet
	agents  map[string]map[string][]intent.Digest // site, agent -> SPKIs, of the effective rosters
	users   map[intent.Digest]string
	unknown bool // agents of sites without a roster here are admitted
}

// NewView returns the view of a verified trust document: no roster, no users, nothing revoked.
// Errors: a certificate that does not parse.
func NewView(t *intent.TrustBody) (*View, error) {
	return (&View{Revoked: &RevocationSet{}}).WithTrust(t)
}

// WithTrust replaces domain and CAs. A CA in state retire vouches for nobody.
func (v *View) WithTrust(t *intent.TrustBody) (*View, error) {
	n := *v
	n.Domain, n.CAs, n.Roots = t.Domain, nil, nil
	for i, ca := range t.CAs {
		if ca.State == intent.KeyRetire {
			continue
		}
		c, err := x509.ParseCertificate(ca.Cert)
		if err != nil {
			return nil, fmt.Errorf("cannot read CA %d of trust %d: %w", i, t.Seq, err)
		}
		r, err := x509.ParseCertificate(ca.Root)
		if err != nil {
			return nil, fmt.Errorf("cannot read root of CA %d of trust %d: %w", i, t.Seq, err)
		}
		n.CAs, n.Roots = append(n.CAs, c), append(n.Roots, r)
	}
	return &n, nil
}

// WithRoster replaces one site's roster; nil removes it. Agents in state spare may not speak.
func (v *View) WithRoster(site string, r *intent.RosterBody) *View {
	n := *v
	n.agents = maps.Clone(v.agents)
	if n.agents == nil {
		n.agents = map[string]map[string][]intent.Digest{}
	}
	delete(n.agents, site)
	if r != nil {
		m := make(map[string][]intent.Digest, len(r.Agents))
		for _, a := range r.Agents {
			if a.State != intent.StateAgent {
				continue
			}
			for _, spki := range a.TLS {
				m[a.ID] = append(m[a.ID], intent.DigestOf(spki))
			}
		}
		n.agents[site] = m
	}
	return &n
}

// WithUnknownSites says whether agents of sites whose roster v does not hold are admitted by certificate and revocation alone:
// a coordinator that was restored from an older copy must hear them to learn the roster.
func (v *View) WithUnknownSites(admit bool) *View {
	n := *v
	n.unknown = admit
	return &n
}

// WithUsers replaces the users' client keys: SPKI to user name.
func (v *View) WithUsers(users map[intent.Digest]string) *View {
	n := *v
	n.users = maps.Clone(users)
	return &n
}

// WithRevocations adds entries; nothing is ever taken back.
func (v *View) WithRevocations(entries []intent.Revocation) *View {
	n := *v
	n.Revoked = v.Revoked.With(entries)
	return &n
}

// AgentKeys returns the SPKIs that the effective roster of site holds for id; ok is false when it does not list id.
func (v *View) AgentKeys(site, id string) (spkis []intent.Digest, ok bool) {
	spkis, ok = v.agents[site][id]
	return spkis, ok
}

// Admits tells whether the peer may go on speaking under v: agents by roster (when v holds their site's) and revocation,
// all others by revocation and, for users, by registration. It is what Endpoint.CloseIf asks after a new head.
func (v *View) Admits(id Identity) bool {
	if v.Revoked.Hits(id) {
		return false
	}
	switch id.Kind {
	case Agent:
		m, known := v.agents[id.Site]
		return !known || contains(m[id.ID], id.SPKI)
	case User:
		return v.users[id.SPKI] == id.ID
	default:
		return true
	}
}

func contains(ds []intent.Digest, d intent.Digest) bool {
	for _, x := range ds {
		if x == d {
			return true
		}
	}
	return false
}

// Holder holds the current view. The zero Holder holds none. Safe for concurrent use.
type Holder struct{ p atomic.Pointer[View] }

// View returns the current view, or nil.
func (h *Holder) View() *View { return h.p.Load() }

// Set replaces the view.
func (h *Holder) Set(v *View) { h.p.Store(v) }

// RevocationSet is grow-only. The zero set revokes nothing. Read-only after it was built.
type RevocationSet struct{ m map[intent.Revocation]bool }

// With returns the set and entries together; reasons do not matter.
func (s *RevocationSet) With(entries []intent.Revocation) *RevocationSet {
	n := &RevocationSet{m: map[intent.Revocation]bool{}}
	if s != nil {
		maps.Copy(n.m, s.m)
	}
	for _, e := range entries {
		n.m[intent.Revocation{Kind: e.Kind, ID: e.ID}] = true
	}
	return n
}

// Has tells whether (kind, id) was revoked.
func (s *RevocationSet) Has(kind intent.RevocationKind, id string) bool {
	return s != nil && s.m[intent.Revocation{Kind: kind, ID: id}]
}

// Entries lists what is revoked, in no order, without reasons.
func (s *RevocationSet) Entries() []intent.Revocation {
	if s == nil {
		return nil
	}
	return slices.Collect(maps.Keys(s.m))
}

// Len returns how many are revoked.
func (s *RevocationSet) Len() int {
	if s == nil {
		return 0
	}
	return len(s.m)
}

// Hits tells whether the identity, its key or any key of its chain was revoked.
func (s *RevocationSet) Hits(id Identity) bool {
	switch id.Kind {
	case Agent:
		if s.Has(intent.RevokeAgent, id.Site+"/"+id.ID) {
			return true
		}
	case User:
		if s.Has(intent.RevokeUser, id.ID) {
			return true
		}
	}
	if s.Has(intent.RevokeSPKI, id.SPKI.Hex()) {
		return true
	}
	for _, d := range id.Chain {
		if s.Has(intent.RevokeSPKI, d.Hex()) {
			return true
		}
	}
	return false
}
