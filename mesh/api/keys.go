package api

import (
	"context"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// Keys is the part of a Backend that knows the domain's keys. An agent takes trust documents and shows its streams, no more.
type Keys interface {
	// AddTrust takes a trust document that the roots signed, and keeps one that only the announced roots signed for AcceptTrust. A known
	// one is no error. Errors: 409 for one that does not fit, and for a fork.
	AddTrust(ctx context.Context, by Caller, env *intent.Envelope) (*TrustResult, error)
	// AcceptTrust lets a document that only the announced roots signed count, here and nowhere else. Errors: 409 when none waits.
	AcceptTrust(ctx context.Context, by Caller, r AcceptRequest) (*AcceptResult, error)
	// KeyStatus says how old keys are and who was heard when.
	KeyStatus(ctx context.Context) (*KeyStatus, error)
	// Rotate begins a rotation or goes on with the one under way; it does not wait for agents. Errors: 409 when another one is in
	// the way.
	Rotate(ctx context.Context, by Caller, r RotateRequest) (*RotationStatus, error)
	// Rotations lists those under way.
	Rotations(ctx context.Context) (*RotationList, error)
}

// KeyStatus is how old the domain's keys are, and when each agent was heard.
type KeyStatus struct {
	At         time.Time   `json:"at"` // by the coordinator's clock
	Trust      intent.Head `json:"trust"`
	Revocation intent.Head `json:"revocation"`
	Forks      int         `json:"forks"` // forked trust documents, here and at the agents
	Offered    *TrustOffer `json:"offered,omitempty"`
	Oldest     []KeyAge    `json:"oldest"` // of each kind the oldest, oldest first
	Sites      []SiteKeys  `json:"sites"`
}

// Agents lists the agents of all sites.
func (s *KeyStatus) Agents() (out []AgentKeys) {
	for _, site := range s.Sites {
		out = append(out, site.Agents...)
	}
	return out
}

// KeyAge is one key.
type KeyAge struct {
	Kind  string    `json:"kind" enum:"root,ca,writer,coordinator,agent"`
	Owner string    `json:"owner"`
	Made  time.Time `json:"made"`
}

// SiteKeys are the agents of one site's roster, by rank.
type SiteKeys struct {
	Site   string      `json:"site"`
	Agents []AgentKeys `json:"agents"`
}

// AgentKeys is one agent. What it said of itself is as old as the contact.
type AgentKeys struct {
	ID         string     `json:"id"`
	State      string     `json:"state"`          // agent, spare
	Made       *time.Time `json:"made,omitempty"` // of its key; absent when the roster holds no certificate
	Keys       int        `json:"keys"`           // in the roster; 2: a rotation is under way
	Up         bool       `json:"up"`             // it has a session with this coordinator now
	Contact    *time.Time `json:"contact,omitempty"`
	Seen       string     `json:"seen,omitempty"` // by its site's last report: yes, no, unknown
	Trust      uint64     `json:"trust"`
	Revocation uint64     `json:"revocation"`
	Clock      string     `json:"clock,omitempty"` // trusted, floor-only; empty: it did not say
	Forks      int        `json:"forks,omitempty"`
	Offered    string     `json:"offered,omitempty"` // digest of the trust document that waits there for AcceptTrust
}

// TrustOffer is a trust document that only the announced roots signed, and that waits for AcceptTrust.
type TrustOffer struct {
	Digest  intent.Digest `json:"digest"`
	Seq     uint64        `json:"seq"`
	Changes []string      `json:"changes"` // what it would change here, a line each
}

// AcceptRequest names the offered document that is to count.
type AcceptRequest struct {
	Digest string `json:"digest" maxLength:"71" doc:"all 64 hex digits of its SHA-256"`
	Site   string `json:"site,omitempty" maxLength:"63" doc:"site of the agent that is asked; none for a coordinator"`
	DryRun bool   `json:"dryRun,omitempty"`
}

// AcceptResult says what follows the document now, or would.
type AcceptResult struct {
	Who     string      `json:"who"` // coordinator, or SITE/AGENT
	Head    intent.Head `json:"head"`
	Changes []string    `json:"changes"`
	DryRun  bool        `json:"dryRun,omitempty"`
}

// TrustResult says where the trust stream is.
type TrustResult struct {
	Head    intent.Head `json:"head"`
	Added   bool        `json:"added"` // false: it was known, or waits for AcceptTrust
	Offered *TrustOffer `json:"offered,omitempty"`
}

// keyActions registers what is about the domain's keys.
func (a *API) keyActions() {
	a.rotationActions()
	a.secretActions()
	register(a, a.op(http.MethodGet, "/v1/keys", "key-status", "How old keys are, and when each agent was heard", "Security"),
		readsAgents, func(ctx context.Context, _ *struct{}) (*KeyStatus, error) { return a.b.KeyStatus(ctx) })
	type document struct{ Body intent.Envelope }
	add := a.op(http.MethodPost, "/v1/trust", "add-trust", "Take a trust document that the roots signed", "Security")
	add.MaxBodyBytes = 2 * intent.MaxEnvelope
	register(a, add, func(*document) rights.Request { return rights.Request{Verb: intent.VerbRevoke, Kind: intent.KindAgent} },
		func(ctx context.Context, in *document) (*TrustResult, error) {
			return a.b.AddTrust(ctx, callerFrom(ctx), &in.Body)
		})
	type acceptance struct{ Body AcceptRequest }
	register(a, a.op(http.MethodPost, "/v1/trust/acceptance", "accept-trust", "Let a trust document count that only the announced roots signed", "Security"),
		func(in *acceptance) rights.Request {
			return rights.Request{Verb: intent.VerbRevoke, Kind: intent.KindAgent, Site: in.Body.Site}
		},
		func(ctx context.Context, in *acceptance) (*AcceptResult, error) {
			return a.b.AcceptTrust(ctx, callerFrom(ctx), in.Body)
		})
}
