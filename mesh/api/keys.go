package api

import (
	"context"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Keys is the part of a Backend that knows the domain's keys: a coordinator.
type Keys interface {
	// AddTrust takes a trust document that the roots signed. A known one is no error.
	// Errors: 409 for one that does not fit, and for a fork.
	AddTrust(ctx context.Context, by Caller, env *intent.Envelope) (*TrustResult, error)
	// KeyStatus says how old keys are and who was heard when.
	KeyStatus(ctx context.Context) (*KeyStatus, error)
	// Rotate begins a rotation or goes on with the one under way; it does not wait for agents. Errors: 409 when another one is in
	// the way.
	Rotate(ctx context.Context, by Caller, r RotateRequest) (*RotationStatus, error)
	// Rotations lists those under way.
	Rotations(ctx context.Context) (*RotationList, error)
}

// NoKeys is the Keys of a site agent.
type NoKeys struct{}

// AddTrust implements Keys.
func (NoKeys) AddTrust(context.Context, Caller, *intent.Envelope) (*TrustResult, error) {
	return nil, ErrElsewhere
}

// KeyStatus implements Keys.
func (NoKeys) KeyStatus(context.Context) (*KeyStatus, error) { return nil, ErrElsewhere }

// Rotate implements Keys.
func (NoKeys) Rotate(context.Context, Caller, RotateRequest) (*RotationStatus, error) {
	return nil, ErrElsewhere
}

// Rotations implements Keys.
func (NoKeys) Rotations(context.Context) (*RotationList, error) { return nil, ErrElsewhere }

// KeyStatus is how old the domain's keys are, and when each agent was heard.
type KeyStatus struct {
	At         time.Time   `json:"at"` // by the coordinator's clock
	Trust      intent.Head `json:"trust"`
	Revocation intent.Head `json:"revocation"`
	Forks      int         `json:"forks"`  // forked trust documents, here and at the agents
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
}

// TrustResult says where the trust stream is.
type TrustResult struct {
	Head  intent.Head `json:"head"`
	Added bool        `json:"added"` // false: it was known
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
	register(a, add, func(*document) intent.Request { return intent.Request{Verb: intent.VerbRevoke, Kind: intent.KindAgent} },
		func(ctx context.Context, in *document) (*TrustResult, error) {
			return a.b.AddTrust(ctx, callerFrom(ctx), &in.Body)
		})
}
