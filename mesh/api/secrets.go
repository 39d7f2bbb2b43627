package api

import (
	"context"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/api/vault"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// Vault is the part of a Backend that changes secrets by itself: a coordinator. An agent answers ErrElsewhere.
type Vault interface {
	// RotateSecrets makes new data keys for agents, or a new password for the BMCs that use a secret; it does not wait for them.
	// Errors: 404 for what is not there, 409 where a change of that password is under way.
	RotateSecrets(ctx context.Context, by Caller, site string, r SecretRotation) (*SecretStatus, error)
	// SecretStatus says how far a site's secrets are.
	SecretStatus(ctx context.Context, site string) (*SecretStatus, error)
}

// How far a site's secrets are has a package of its own.
type (
	SecretRotation = vault.SecretRotation
	SecretStatus   = vault.SecretStatus
	DataKeyStatus  = vault.DataKeyStatus
	BMCSecret      = vault.BMCSecret
	BMCMachine     = vault.BMCMachine
)

// secretActions registers what changes secrets.
func (a *API) secretActions() {
	type rotation struct {
		Site string `path:"site" maxLength:"63"`
		Body SecretRotation
	}
	register(a, a.op(http.MethodPost, "/v1/sites/{site}/secret-rotations", "rotate-secrets", "Make new data keys, or a new BMC password", "Security"),
		func(in *rotation) rights.Request {
			return rights.Request{Verb: intent.VerbWrite, Kind: intent.KindSecret, Site: in.Site}
		},
		func(ctx context.Context, in *rotation) (*SecretStatus, error) {
			return a.b.RotateSecrets(ctx, callerFrom(ctx), in.Site, in.Body)
		})
	type ofSite struct {
		Site string `path:"site" maxLength:"63"`
	}
	register(a, a.op(http.MethodGet, "/v1/sites/{site}/secret-status", "secret-status", "How far a site's secrets are", "Security"),
		func(in *ofSite) rights.Request {
			return rights.Request{Verb: intent.VerbRead, Kind: intent.KindSecret, Site: in.Site}
		},
		func(ctx context.Context, in *ofSite) (*SecretStatus, error) { return a.b.SecretStatus(ctx, in.Site) })
}
