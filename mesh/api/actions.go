package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/api/discovery"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

type machineInput struct {
	Site    string `path:"site" maxLength:"63"`
	Machine string `path:"machine" maxLength:"63"`
}

// PowerRequest asks for a power change.
type PowerRequest struct {
	Action string `json:"action" enum:"on,off,cycle,soft-off,status"`
}

type siteInput struct {
	Site string `path:"site" maxLength:"63"`
}

type batchBody struct {
	Objects []map[string]any `json:"objects" doc:"documents of any kind, applied as one: all or none"`
}

// actions registers what is no plain object.
func (a *API) actions() {
	info := a.op(http.MethodGet, "/v1/info", "info", "Who answers", "Service")
	info.Security, info.Middlewares = nil, nil
	huma.Register(a.huma, info, func(context.Context, *struct{}) (*struct{ Body Info }, error) {
		return &struct{ Body Info }{a.b.Describe()}, nil
	})
	whoami := a.op(http.MethodGet, "/v1/whoami", "whoami", "Who asks, and with which roles", "Service")
	huma.Register(a.huma, whoami, func(ctx context.Context, _ *struct{}) (*struct{ Body Caller }, error) {
		return &struct{ Body Caller }{callerFrom(ctx)}, nil
	})
	apply := a.op(http.MethodPost, "/v1/apply", "apply", "Create or change many objects as one", "Service")
	apply.SkipValidateBody, apply.MaxBodyBytes = true, maxBatch
	apply.RequestBody = &huma.RequestBody{Required: true, Content: jsonContent(a.huma.OpenAPI().Components.Schemas.Schema(typeOf[batchBody](), true, "Batch"))}
	huma.Register(a.huma, apply, a.applyMany)
	a.siteActions()
	a.tokenActions()
	a.securityActions()
	a.proposals()
	a.keyActions()
	a.intentStatus()
	a.uploadActions()
}

func (a *API) applyMany(ctx context.Context, in *struct {
	DryRun  bool   `query:"dryRun" doc:"check and answer, change nothing"`
	Reason  string `query:"reason" maxLength:"256" doc:"kept in the audit log"`
	RawBody []byte `contentType:"application/json"`
},
) (*resultsOutput, error) {
	objects, err := decodeBatch(in.RawBody)
	if err != nil {
		return nil, problem(err)
	}
	return a.apply(ctx, Batch{Put: objects, DryRun: in.DryRun, Reason: in.Reason})
}

func (a *API) siteActions() {
	register(a, a.op(http.MethodGet, "/v1/sites/{site}/status", "site-status", "How a site is doing", "Site"),
		func(in *siteInput) rights.Request {
			return rights.Request{Verb: intent.VerbRead, Kind: intent.KindSite, Site: in.Site}
		},
		func(ctx context.Context, in *siteInput) (*SiteStatus, error) { return a.b.SiteStatus(ctx, in.Site) })
	register(a, a.op(http.MethodGet, "/v1/sites/{site}/machines/{machine}/explain", "explain-machine", "The whole chain behind a machine's state", "Machine"),
		func(in *machineInput) rights.Request {
			return rights.Request{Verb: intent.VerbRead, Kind: intent.KindMachine, Site: in.Site}
		},
		func(ctx context.Context, in *machineInput) (*Explanation, error) {
			return a.b.Explain(ctx, in.Site, in.Machine)
		})
	type power struct {
		Site    string `path:"site" maxLength:"63"`
		Machine string `path:"machine" maxLength:"63"`
		Body    PowerRequest
	}
	register(a, a.op(http.MethodPost, "/v1/sites/{site}/machines/{machine}/power", "power-machine", "Change a machine's power through its BMC", "Machine"),
		func(in *power) rights.Request {
			verb := intent.VerbPower
			if in.Body.Action == "status" {
				verb = intent.VerbRead
			}
			return rights.Request{Verb: verb, Kind: intent.KindMachine, Site: in.Site}
		},
		func(ctx context.Context, in *power) (*PowerResult, error) {
			return a.b.Power(ctx, callerFrom(ctx), in.Site, in.Machine, in.Body.Action)
		})
	register(a, a.op(http.MethodPost, "/v1/sites/{site}/assets/{asset}", "asset-action", "Fetch, verify or give up an asset at a site", "Asset"),
		func(in *assets.ActionInput) rights.Request {
			return rights.Request{Verb: intent.VerbWrite, Kind: intent.KindAsset, Site: in.Site}
		},
		func(ctx context.Context, in *assets.ActionInput) (*assets.ActionResult, error) {
			if at, ok := a.b.(assets.Holder); ok { // an agent; a coordinator holds all
				return at.AssetAction(ctx, in.Site, in.Asset, in.Body)
			}
			return nil, ErrElsewhere
		})
	type receipts struct {
		Site    string `path:"site" maxLength:"63"`
		Machine string `query:"machine" maxLength:"63" doc:"only this machine's"`
	}
	register(a, a.op(http.MethodGet, "/v1/sites/{site}/receipts", "list-receipts", "Signed receipts of erased machines, with the rosters that prove their signers", "Machine"),
		func(in *receipts) rights.Request {
			return rights.Request{Verb: intent.VerbRead, Kind: intent.KindMachine, Site: in.Site}
		},
		func(ctx context.Context, in *receipts) (*erasure.List, error) {
			return a.b.Receipts(ctx, in.Site, in.Machine)
		})
	register(a, a.op(http.MethodGet, "/v1/sites/{site}/discovered", "list-discovered", "Machines that booted from the site's network and that nobody declared", "Machine"),
		func(in *discovery.Query) rights.Request {
			return rights.Request{Verb: intent.VerbRead, Kind: intent.KindMachine, Site: in.Site}
		},
		func(ctx context.Context, in *discovery.Query) (*discovery.Found, error) {
			return a.b.Discovered(ctx, in.Site, in.Machine)
		})
	a.reasoned("ignore", "ignore-machine", "Leave a discovered machine to its own disk", a.b.Ignore)
	a.reasoned("clear", "clear-machine", "Take a machine that is broken, quarantined or held back into service", a.b.Clear)
	a.reasoned("quarantine", "quarantine-machine", "Keep a machine out of use until it is cleared", a.b.QuarantineMachine)
	a.reasoned("approve", "approve-machine", "Let a machine be written though no coordinator was heard", a.b.Approve)
	release := a.op(http.MethodPost, "/v1/sites/{site}/machines/{machine}/release", "release-machine", "Take a machine back from its instance", "Machine")
	huma.Register(a.huma, release, func(ctx context.Context, in *machineInput) (*struct{}, error) {
		if err := a.authorise(ctx, rights.Request{Verb: intent.VerbRelease, Kind: intent.KindMachine, Site: in.Site}); err != nil {
			return nil, problem(err)
		}
		return done(a.b.Release(ctx, callerFrom(ctx), in.Site, in.Machine))
	})
}

// reasoned registers what an operator does to a machine with a reason.
func (a *API) reasoned(verb, id, summary string, do func(ctx context.Context, by Caller, site, machine, reason string) error) {
	op := a.op(http.MethodPost, "/v1/sites/{site}/machines/{machine}/"+verb, id, summary, "Machine")
	huma.Register(a.huma, op, func(ctx context.Context, in *struct {
		Site    string `path:"site" maxLength:"63"`
		Machine string `path:"machine" maxLength:"63"`
		Body    struct {
			Reason string `json:"reason" minLength:"1" maxLength:"256" doc:"why; kept in the event log"`
		}
	},
	) (*struct{}, error) {
		if err := a.authorise(ctx, rights.Request{Verb: intent.VerbRelease, Kind: intent.KindMachine, Site: in.Site}); err != nil {
			return nil, problem(err)
		}
		return done(do(ctx, callerFrom(ctx), in.Site, in.Machine, in.Body.Reason))
	})
}

// done is the answer of what has none but its success.
func done(err error) (*struct{}, error) {
	if err != nil {
		return nil, problem(err)
	}
	return &struct{}{}, nil
}

func (a *API) tokenActions() {
	type join struct {
		Site string `path:"site" maxLength:"63"`
		Body JoinTokenRequest
	}
	register(a, a.op(http.MethodPost, "/v1/sites/{site}/jointokens", "create-jointoken", "Make a single-use token for a new agent", "Token"),
		func(in *join) rights.Request {
			return rights.Request{Verb: intent.VerbToken, Kind: intent.KindAgent, Site: in.Site}
		},
		func(ctx context.Context, in *join) (*JoinTokenResult, error) {
			return a.b.JoinToken(ctx, callerFrom(ctx), in.Site, in.Body)
		})
	type user struct {
		User string `path:"user" maxLength:"63"`
		Body UserTokenRequest
	}
	register(a, a.op(http.MethodPost, "/v1/users/{user}/tokens", "create-usertoken", "Make a bearer token; it is shown once", "Token"),
		func(*user) rights.Request { return rights.Request{Verb: intent.VerbToken, Kind: intent.KindUser} },
		func(ctx context.Context, in *user) (*UserTokenResult, error) {
			return a.b.UserToken(ctx, callerFrom(ctx), in.User, in.Body)
		})
}

// authorise checks one request of the authenticated caller. Who may not even read the kind learns nothing.
func (a *API) authorise(ctx context.Context, r rights.Request) error {
	c, _, err := a.b.Snapshot(ctx)
	if err != nil {
		return err
	}
	return deny(ctx, authorise(c, callerFrom(ctx), r))
}

// deny notes for the audit log that the table, and not the state of things, is why the request is refused.
func deny(ctx context.Context, err error) error {
	if q, ok := ctx.Value(requestKey{}).(*request); ok && err != nil {
		q.denied, q.why = true, "the caller's roles do not allow it"
	}
	return err
}

func authorise(c *intent.Catalog, by Caller, r rights.Request) error {
	if may(c, by, r) {
		return nil
	}
	if r.Verb == intent.VerbAudit { // asked of the site, which one may see and its audit not
		return ErrForbidden
	}
	r.Verb = intent.VerbRead
	if may(c, by, r) {
		return ErrForbidden
	}
	return ErrNotFound
}
