package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// ProposalList is what of a site waits for a person.
type ProposalList struct {
	Items []Proposal `json:"items"`
}

// proposals registers what a person settles of a site's own changes. Who may write the object decides on it.
func (a *API) proposals() {
	list := a.op(http.MethodGet, "/v1/sites/{site}/proposals", "list-proposals", "What a site changed by itself and waits for a person", "Site")
	huma.Register(a.huma, list, func(ctx context.Context, in *struct {
		Site string `path:"site" maxLength:"63"`
	},
	) (*struct{ Body ProposalList }, error) {
		c, _, err := a.b.Snapshot(ctx)
		if err != nil {
			return nil, problem(err)
		}
		all, err := a.b.Proposals(ctx, in.Site)
		if err != nil {
			return nil, problem(err)
		}
		out := &struct{ Body ProposalList }{ProposalList{Items: []Proposal{}}}
		for _, p := range all {
			if may(c, callerFrom(ctx), requestFor(intent.VerbRead, p.There)) {
				out.Body.Items = append(out.Body.Items, p)
			}
		}
		return out, nil
	})
	settle := a.op(http.MethodPost, "/v1/sites/{site}/proposals/{id}", "settle-proposal", "Adopt or discard what a site changed by itself", "Site")
	huma.Register(a.huma, settle, func(ctx context.Context, in *struct {
		Site string `path:"site" maxLength:"63"`
		ID   string `path:"id" maxLength:"128"`
		Body DecisionRequest
	},
	) (*struct{}, error) {
		c, _, err := a.b.Snapshot(ctx)
		if err != nil {
			return nil, problem(err)
		}
		all, err := a.b.Proposals(ctx, in.Site)
		if err != nil {
			return nil, problem(err)
		}
		for _, p := range all {
			if p.ID != in.ID {
				continue
			}
			if err := deny(ctx, authoriseWrite(c, callerFrom(ctx), p.There, p.Here)); err != nil {
				return nil, problem(err)
			}
			return done(a.b.Settle(ctx, callerFrom(ctx), in.Site, in.ID, in.Body))
		}
		return nil, problem(ErrNotFound)
	})
}
