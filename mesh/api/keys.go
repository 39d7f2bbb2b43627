package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Keys is the part of a Backend that knows the domain's keys: a coordinator.
type Keys interface {
	// AddTrust takes a trust document that the roots signed. A known one is no error.
	// Errors: 409 for one that does not fit, and for a fork.
	AddTrust(ctx context.Context, by Caller, env *intent.Envelope) (*TrustResult, error)
}

// NoKeys is the Keys of a site agent.
type NoKeys struct{}

// AddTrust implements Keys.
func (NoKeys) AddTrust(context.Context, Caller, *intent.Envelope) (*TrustResult, error) {
	return nil, ErrElsewhere
}

// TrustResult says where the trust stream is.
type TrustResult struct {
	Head  intent.Head `json:"head"`
	Added bool        `json:"added"` // false: it was known
}

// keyActions registers what is about the domain's keys.
func (a *API) keyActions() {
	add := a.op(http.MethodPost, "/v1/trust", "add-trust", "Take a trust document that the roots signed", "Security")
	add.MaxBodyBytes = 2 * intent.MaxEnvelope
	huma.Register(a.huma, add, func(ctx context.Context, in *struct{ Body intent.Envelope }) (*struct{ Body *TrustResult }, error) {
		if err := a.authorise(ctx, intent.Request{Verb: intent.VerbRevoke, Kind: intent.KindAgent}); err != nil {
			return nil, problem(err)
		}
		r, err := a.b.AddTrust(ctx, callerFrom(ctx), &in.Body)
		if err != nil {
			return nil, problem(err)
		}
		return &struct{ Body *TrustResult }{r}, nil
	})
}
