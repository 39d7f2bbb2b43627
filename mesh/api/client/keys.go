package client

import (
	"context"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// AddTrust brings a trust document that the roots signed.
func (c *Client) AddTrust(ctx context.Context, env *intent.Envelope) (*api.TrustResult, error) {
	out := &api.TrustResult{}
	return out, c.call(ctx, http.MethodPost, "/v1/trust", nil, env, out)
}

// KeyStatus says how old keys are and who was heard when.
func (c *Client) KeyStatus(ctx context.Context) (*api.KeyStatus, error) {
	out := &api.KeyStatus{}
	return out, c.call(ctx, http.MethodGet, "/v1/keys", nil, nil, out)
}

// Rotate begins a rotation or goes on with it; see api.Keys.
func (c *Client) Rotate(ctx context.Context, r api.RotateRequest) (*api.RotationStatus, error) {
	out := &api.RotationStatus{}
	return out, c.call(ctx, http.MethodPost, "/v1/pki/rotations", nil, r, out)
}

// Rotations lists the rotations that are under way.
func (c *Client) Rotations(ctx context.Context) (*api.RotationList, error) {
	out := &api.RotationList{}
	return out, c.call(ctx, http.MethodGet, "/v1/pki/rotations", nil, nil, out)
}
