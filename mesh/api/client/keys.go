package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// AddTrust brings a trust document that the roots signed.
func (c *Client) AddTrust(ctx context.Context, env *intent.Envelope) (*api.TrustResult, error) {
	out := &api.TrustResult{}
	return out, c.call(ctx, http.MethodPost, "/v1/trust", nil, env, out)
}

// AcceptTrust lets a document count that only the announced roots signed, at whoever is asked.
func (c *Client) AcceptTrust(ctx context.Context, r api.AcceptRequest) (*api.AcceptResult, error) {
	out := &api.AcceptResult{}
	return out, c.call(ctx, http.MethodPost, "/v1/trust/acceptance", nil, r, out)
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

// RotateSecrets makes data keys or a BMC password of a site anew.
func (c *Client) RotateSecrets(ctx context.Context, site string, r api.SecretRotation) (*api.SecretStatus, error) {
	out := &api.SecretStatus{}
	return out, c.call(ctx, http.MethodPost, "/v1/sites/"+url.PathEscape(site)+"/secret-rotations", nil, r, out)
}

// SecretStatus says how far a site's secrets are.
func (c *Client) SecretStatus(ctx context.Context, site string) (*api.SecretStatus, error) {
	out := &api.SecretStatus{}
	return out, c.call(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(site)+"/secret-status", nil, nil, out)
}

// Rotations lists the rotations that are under way.
func (c *Client) Rotations(ctx context.Context) (*api.RotationList, error) {
	out := &api.RotationList{}
	return out, c.call(ctx, http.MethodGet, "/v1/pki/rotations", nil, nil, out)
}
