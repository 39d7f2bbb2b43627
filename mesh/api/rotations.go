package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/api/rotation"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// What a rotation changes.
const (
	RotateAgent  = "agent"  // the keys of agents
	RotateCA     = "ca"     // the CA of this coordinator, and all certificates under it
	RotateWriter = "writer" // the key that signs intent
	RotateRoot   = "root"   // the keys that sign trust documents
	RotateFloor  = "floor"  // no key: the time that has passed at least, where a wrong clock raised it
)

// The phases of a rotation.
const (
	PhaseAccept = rotation.PhaseAccept
	PhaseUse    = rotation.PhaseUse
	PhaseRetire = rotation.PhaseRetire
	PhaseDone   = rotation.PhaseDone
)

// What a rotation is told by; see mesh/api/rotation.
type (
	RotateRequest  = rotation.RotateRequest
	RotationStatus = rotation.RotationStatus
	RotationStep   = rotation.RotationStep
	RotationRow    = rotation.RotationRow
	RotationList   = rotation.RotationList
)

// rotationActions registers the rotation of keys.
func (a *API) rotationActions() {
	type rotation struct{ Body RotateRequest }
	register(a, a.op(http.MethodPost, "/v1/pki/rotations", "rotate", "Begin the rotation of a key, or go on with it", "Security"),
		func(in *rotation) rights.Request {
			return rights.Request{Verb: intent.VerbRevoke, Kind: intent.KindAgent, Site: in.Body.Site}
		},
		func(ctx context.Context, in *rotation) (*RotationStatus, error) {
			return a.b.Rotate(ctx, callerFrom(ctx), in.Body)
		})
	register(a, a.op(http.MethodGet, "/v1/pki/rotations", "rotations", "The rotations that are under way", "Security"),
		readsAgents, func(ctx context.Context, _ *struct{}) (*RotationList, error) { return a.b.Rotations(ctx) })
}

// readsAgents is the right to see the agents of every site.
func readsAgents(*struct{}) rights.Request {
	return rights.Request{Verb: intent.VerbRead, Kind: intent.KindAgent}
}

// register adds a route whose caller needs one right: need says which, do answers.
func register[In, Out any](a *API, op huma.Operation, need func(*In) rights.Request, do func(context.Context, *In) (*Out, error)) {
	huma.Register(a.huma, op, func(ctx context.Context, in *In) (*struct{ Body *Out }, error) {
		if err := a.authorise(ctx, need(in)); err != nil {
			return nil, problem(err)
		}
		out, err := do(ctx, in)
		if err != nil {
			return nil, problem(err)
		}
		return &struct{ Body *Out }{out}, nil
	})
}
