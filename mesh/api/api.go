package api

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/skerry-metal/skerry/mesh/api/discovery"
	"github.com/skerry-metal/skerry/mesh/api/sites"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// Version is the version of the API in the OpenAPI document.
const Version = "1.0.0"

// Backend answers the API. The coordinator and the site agent each have one. A method that belongs to the other side
// returns ErrElsewhere.
type Backend interface {
	Keys
	Documents
	Vault
	Approvals
	telemetry.TrafficSource
	telemetry.Source
	Discoveries
	// Describe says who answers.
	Describe() Info
	Now() time.Time // what a token's end is measured by
	// Snapshot returns the objects as they are now, status filled in, and the revision of that state. The catalog is
	// shared and must not be changed.
	Snapshot(ctx context.Context) (*intent.Catalog, uint64, error)
	// Changed returns the newest revision as soon as it is above since, or ctx's error.
	Changed(ctx context.Context, since uint64) (uint64, error)
	// Apply changes all objects of the batch or none; what it answers is on disk.
	// Errors: *Error with problems for what does not fit, ErrPrecondition for a failed If-Match.
	Apply(ctx context.Context, by Caller, b Batch) ([]Result, error)
	// Events calls fn for the site's events after the cursor, oldest first, and returns when there are no more; with
	// follow it goes on until ctx ends or fn fails.
	Events(ctx context.Context, q EventQuery, fn func(intent.Event) error) error
	// SiteStatus reports one site.
	SiteStatus(ctx context.Context, site string) (*SiteStatus, error)
	// Explain returns the whole chain of one machine.
	Explain(ctx context.Context, site, machine string) (*Explanation, error)
	// Power asks for a power change; the answer says how far it is proven.
	Power(ctx context.Context, by Caller, site, machine string, action string) (*PowerResult, error)
	// Clear takes a broken or quarantined machine back into service; reason is kept in the event log.
	Clear(ctx context.Context, by Caller, site, machine, reason string) error
	// QuarantineMachine keeps a machine out of use until it is cleared; reason is kept in the event log.
	QuarantineMachine(ctx context.Context, by Caller, site, machine, reason string) error
	// Release gives a machine's instance back.
	Release(ctx context.Context, by Caller, site, machine string) error
	// JoinToken makes a single-use token for a new agent.
	JoinToken(ctx context.Context, by Caller, site string, r JoinTokenRequest) (*JoinTokenResult, error)
	// UserToken makes a bearer token; it is shown once.
	UserToken(ctx context.Context, by Caller, user string, r UserTokenRequest) (*UserTokenResult, error)
	// Revoked tells whether (kind, id) was revoked, as far as is known here.
	Revoked(kind intent.RevocationKind, id string) bool
	// Revoke takes an identity away for ever. What is revoked already is no error.
	Revoke(ctx context.Context, by Caller, r RevokeRequest) (*RevokeResult, error)
	// Revocations lists what is revoked.
	Revocations(ctx context.Context) (*RevocationList, error)
	// Proposals lists what of a site waits for a person; Settle decides on one.
	Proposals(ctx context.Context, site string) ([]Proposal, error)
	Settle(ctx context.Context, by Caller, site, id string, r DecisionRequest) error
	// Admit takes the signed admission of a spare; who brings it does not matter.
	Admit(ctx context.Context, site string, env *intent.Envelope) error
	// Quarantine cuts an agent off at its site, or lets it back.
	Quarantine(ctx context.Context, by Caller, site, agent string, r QuarantineRequest) (*QuarantineResult, error)
	// Upload reads an asset's bytes to the end, stores and registers them.
	Upload(ctx context.Context, by Caller, name, class string, body io.Reader) (*intent.Object, error)
	// Audit calls fn for the audit chains of a site, or all when it is "": each chain's AuditChain, then its records and heads.
	Audit(ctx context.Context, site string, fn func(AuditLine) error) error
	// Note keeps a record of what changed nothing: a refusal, which is bounded in time, or the use of an emergency key.
	Note(ctx context.Context, r intent.AuditRecord) error
	// Receipts lists what was signed for erased machines of a site; machine "" asks for all.
	Receipts(ctx context.Context, site, machine string) (*erasure.List, error)
	// IntentFeed calls fn for the signed envelopes of the site's chain from seq on, in order.
	IntentFeed(ctx context.Context, site string, from uint64, fn func(*intent.Envelope) error) error
}

// Discoveries is what is known of machines that nobody declared.
type Discoveries interface {
	discovery.Source
	// Ignore leaves one to its own disk; reason is kept in the event log.
	Ignore(ctx context.Context, by Caller, site, id, reason string) error
}

// Info says who answers.
type Info struct {
	Role    string `json:"role"` // coordinator, site
	ID      string `json:"id"`   // coordinator or agent id
	Site    string `json:"site,omitempty"`
	Domain  string `json:"domain"`
	Version string `json:"version"`
}

// Batch is changed as one: all or nothing.
type Batch struct {
	Put     []*intent.Object
	Delete  []intent.Key
	IfMatch map[intent.Key]string // ETag that the stored object must have; "*" = it exists
	IfNone  map[intent.Key]bool   // the object must not exist
	DryRun  bool
	Reason  string
}

// Result says what became of one object of a batch.
type Result struct {
	Object   intent.Key `json:"object"`
	Action   string     `json:"action"` // created, changed, unchanged, deleted
	UID      string     `json:"uid,omitempty"`
	Rev      uint64     `json:"generation,omitempty"`
	Override string     `json:"override,omitempty"` // id of the override, when a site took the change while cut off
}

// EventQuery selects events.
type EventQuery struct {
	Site    string
	Machine string
	Since   time.Time
	Follow  bool
}

// How a site is doing, as mesh/api/sites has it.
type (
	Proposal        = sites.Proposal
	DecisionRequest = sites.DecisionRequest
	Explanation     = sites.Explanation
	ExplainSection  = sites.ExplainSection
	ExplainFact     = sites.ExplainFact
	SiteStatus      = sites.SiteStatus
	Gateway         = sites.Gateway
	EmergencyUse    = sites.EmergencyUse
	AgentStatus     = sites.AgentStatus
	Override        = sites.Override
)

// PowerResult says how far a power change is proven.
type PowerResult struct {
	Machine string `json:"machine"`
	Power   string `json:"power"`
	Effect  string `json:"effect"` // none, accepted, readback, observed
}

// JoinTokenRequest asks for a token of one agent.
type JoinTokenRequest struct {
	Agent string `json:"agent"`
	Spare bool   `json:"spare,omitempty" doc:"for a kit that waits to take another agent's place"`
	TTL   string `json:"ttl,omitempty"` // Go duration, at most and by default 24h
}

// JoinTokenResult is shown once.
type JoinTokenResult struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// UserTokenRequest asks for a bearer token.
type UserTokenRequest struct {
	TTL string `json:"ttl,omitempty"` // Go duration; empty: never expires
}

// UserTokenResult is shown once.
type UserTokenResult struct {
	ID      string     `json:"id"`
	Token   string     `json:"token"`
	Expires *time.Time `json:"expires,omitempty"`
}

// Caller is who asks, after authentication.
type Caller struct {
	User     string
	Token    string               // id of the bearer token, if one came
	Key      string               // hex SPKI of the client certificate, if one came
	Via      string               // which of both counts, for the audit log: token:ID or key:16 hex digits
	Bindings []intent.RoleBinding // own and groups'
}

// API is the handler.
type API struct {
	b    Backend
	log  *slog.Logger
	mux  *http.ServeMux
	huma huma.API
}

// New returns the handler of /v1 over b. Each request gets a line in log: writes at info, reads at debug.
func New(b Backend, log *slog.Logger) *API {
	a := &API{b: b, log: log, mux: http.NewServeMux()}
	a.huma = humago.New(a.mux, config())
	a.objects()
	a.actions()
	a.streams()
	return a
}

func config() huma.Config {
	c := huma.DefaultConfig("Skerry", Version)
	c.Info.Description = "Bare metal at many small sites. The coordinator and every site agent answer the same API."
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "/v1/openapi", "", "", nil // DocsPath would load a script from a CDN
	c.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	c.RejectUnknownQueryParameters = true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer", BearerFormat: "sku1.<id>.<secret>"}, "certificate": {Type: "mutualTLS", Description: "self-signed by a key that stands on the User"}}
	return c
}

// OpenAPI returns the description as JSON.
func (a *API) OpenAPI() ([]byte, error) { return json.MarshalIndent(a.huma.OpenAPI(), "", "  ") }
