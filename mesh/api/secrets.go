package api

import (
	"context"
	"net/http"
	"time"

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

// SecretRotation says what of a site's secrets is made anew: the data key of one agent, of all its agents (neither is named), or the
// password in one secret of type bmc.
type SecretRotation struct {
	Agent  string `json:"agent,omitempty" maxLength:"63" doc:"one agent's data key"`
	BMC    string `json:"bmc,omitempty" maxLength:"63" doc:"secret of type bmc: the BMCs that use it get a new password"`
	Reason string `json:"reason,omitempty" maxLength:"256"`
	DryRun bool   `json:"dryRun,omitempty"`
}

// SecretStatus is how far a site's secrets are.
type SecretStatus struct {
	Site     string          `json:"site"`
	DataKeys []DataKeyStatus `json:"dataKeys"`
	BMCs     []BMCSecret     `json:"bmcs"`
}

// DataKeyStatus is one agent's data key.
type DataKeyStatus struct {
	Agent   string `json:"agent"`
	From    uint64 `json:"from,omitempty"`   // before this rotation
	DEK     uint64 `json:"dek"`              // by which the agent is told its secrets
	Records int    `json:"records"`          // secrets that it is told
	Applied uint64 `json:"applied"`          // newest that it reported
	Behind  int    `json:"behind,omitempty"` // secrets that it has under an older one, as it reported
}

// BMCSecret is one secret of type bmc and the machines whose BMCs are opened with it.
type BMCSecret struct {
	Name string `json:"name"`
	Ver  uint64 `json:"ver"`
	// Since is when the change began that is under way; the password before it is kept until every BMC took the new one.
	Since    *time.Time   `json:"since,omitempty"`
	Machines []BMCMachine `json:"machines"`
	// Held is why no change was begun; asked again, it is.
	Held string `json:"held,omitempty"`
}

// BMCMachine is how far one BMC is.
type BMCMachine struct {
	Machine string `json:"machine"`
	Ver     uint64 `json:"ver"` // that its BMC was last seen to take; 0: none
	Done    bool   `json:"done"`
}

// Left counts the machines that have not taken the newest password.
func (s *BMCSecret) Left() (n int) {
	for _, m := range s.Machines {
		if !m.Done {
			n++
		}
	}
	return n
}

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
