package rotation

import (
	"context"
	"errors"
	"net/http"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// AddTrust implements api.Keys.
func (r *Rotation) AddTrust(ctx context.Context, by api.Caller, env *intent.Envelope) (*api.TrustResult, error) {
	added := false
	err := r.Audit.Write(ctx, by.Audit("trust", env.Digest().Short(), ""), func(line store.Commit) (err error) {
		if added, err = r.add(ctx, env, line); err == nil && !added { // known; that somebody brought it is kept all the same
			_, err = r.Store.Commit(ctx, line)
		}
		return err
	})
	switch {
	case errors.Is(err, document.ErrFork):
		return nil, &api.Error{Status: http.StatusConflict, Type: "fork", Detail: err.Error()}
	case errors.Is(err, store.ErrConflict):
		return nil, &api.Error{Status: http.StatusConflict, Type: "conflict", Detail: "another coordinator was faster; look at the head, then repeat"}
	case errors.Is(err, store.ErrUnknown):
		return nil, err
	case err != nil:
		return nil, api.Refuse(err.Error())
	}
	return &api.TrustResult{Head: r.Trust.Head(), Added: added}, nil
}

var _ api.Keys = (*Rotation)(nil)
