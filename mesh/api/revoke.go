package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// RevokeRequest names what is taken away for ever.
type RevokeRequest struct {
	Kind   string `json:"kind" enum:"agent,spki,user,token"`
	ID     string `json:"id" minLength:"1" maxLength:"200" doc:"SITE/AGENT, hex SHA-256 of a key, user's name or token's id"`
	Reason string `json:"reason" minLength:"1" maxLength:"256"`
	DryRun bool   `json:"dryRun,omitempty"`
	// RotateBMC gives every BMC whose password a revoked agent could read a new one; of kind agent only.
	RotateBMC bool `json:"rotateBMC,omitempty"`
}

// RevokeResult says what was revoked and what is to be done about it.
type RevokeResult struct {
	Head    intent.Head         `json:"head"` // of the revocation stream
	Entries []intent.Revocation `json:"entries"`
	Closed  int                 `json:"closed"`            // sessions that ended here at once
	Exposed []string            `json:"exposed,omitempty"` // secrets of the site that the agent could read: change them at their source
	// Changing are those of the exposed that get a new password by themselves.
	Changing []BMCSecret `json:"changing,omitempty"`
}

// RevocationList is all that was revoked, and who has heard of it.
type RevocationList struct {
	Head    intent.Head         `json:"head"`
	Entries []intent.Revocation `json:"entries"`
	Agents  []RevocationSeen    `json:"agents"` // with a session now
}

// RevocationSeen is how far one agent has heard.
type RevocationSeen struct {
	Agent string    `json:"agent"` // SITE/AGENT
	Seq   uint64    `json:"seq"`
	Heard time.Time `json:"heard"`
}

// QuarantineRequest cuts an agent off at its site, or lets it back.
type QuarantineRequest struct {
	On     bool   `json:"on"`
	Reason string `json:"reason" minLength:"1" maxLength:"256"`
	DryRun bool   `json:"dryRun,omitempty"`
}

// QuarantineResult says how the site's agents are then.
type QuarantineResult struct {
	Agent      string   `json:"agent"` // SITE/AGENT
	On         bool     `json:"on"`
	N          uint64   `json:"n"`          // of the order; the highest counts
	Generation uint64   `json:"generation"` // of the effective roster
	Agents     []string `json:"agents"`     // the effective roster
	Closed     int      `json:"closed"`     // sessions that ended here at once
}

// securityActions registers what takes identities away, and what gives a waiting one its place.
func (a *API) securityActions() {
	a.admissions()
	type revocation struct{ Body RevokeRequest }
	register(a, a.op(http.MethodPost, "/v1/revocations", "revoke", "Take an agent, key, user or token away for ever", "Security"),
		func(in *revocation) rights.Request { return revocationRequest(in.Body) },
		func(ctx context.Context, in *revocation) (*RevokeResult, error) {
			return a.b.Revoke(ctx, callerFrom(ctx), in.Body)
		})
	register(a, a.op(http.MethodGet, "/v1/revocations", "revocations", "What was revoked, and who has heard of it", "Security"),
		readsAgents, func(ctx context.Context, _ *struct{}) (*RevocationList, error) { return a.b.Revocations(ctx) })
	type quarantine struct {
		Site  string `path:"site" maxLength:"63"`
		Agent string `path:"agent" maxLength:"63"`
		Body  QuarantineRequest
	}
	register(a, a.op(http.MethodPost, "/v1/sites/{site}/agents/{agent}/quarantine", "quarantine-agent", "Cut an agent off at its site, or let it back", "Security"),
		func(in *quarantine) rights.Request {
			return rights.Request{Verb: intent.VerbRevoke, Kind: intent.KindAgent, Site: in.Site}
		},
		func(ctx context.Context, in *quarantine) (*QuarantineResult, error) {
			return a.b.Quarantine(ctx, callerFrom(ctx), in.Site, in.Agent, in.Body)
		})
}

// maxAdmission bounds one admission: some hundred octets, and their signature.
const maxAdmission = 16 << 10

// admissions takes spares. Nobody logs in: a spare has no user, and what counts is the signature of its rostered key.
func (a *API) admissions() {
	admit := a.op(http.MethodPost, "/v1/sites/{site}/admissions", "admit-spare", "Take the signed admission of a spare agent", "Security")
	admit.Security, admit.Middlewares, admit.MaxBodyBytes = nil, nil, maxAdmission
	huma.Register(a.huma, admit, func(ctx context.Context, in *struct {
		Site string `path:"site" maxLength:"63"`
		Body intent.Envelope
	},
	) (*struct{}, error) {
		return done(a.b.Admit(ctx, in.Site, &in.Body))
	})
}

// revocationRequest is what the table is asked: an agent belongs to its site, a bare key and accounts to none.
func revocationRequest(r RevokeRequest) rights.Request {
	q := rights.Request{Verb: intent.VerbRevoke, Kind: intent.KindAgent}
	switch intent.RevocationKind(r.Kind) {
	case intent.RevokeAgent:
		q.Site, _, _ = strings.Cut(r.ID, "/")
	case intent.RevokeUser, intent.RevokeToken:
		q.Kind = intent.KindUser
	}
	return q
}
