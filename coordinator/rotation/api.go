package rotation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
)

// AddTrust implements api.Keys.
func (r *Rotation) AddTrust(ctx context.Context, by api.Caller, env *intent.Envelope) (*api.TrustResult, error) {
	if err := r.usable(env); err != nil {
		return nil, api.Refuse(err.Error())
	}
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

// usable refuses a document under which this coordinator could neither sign nor be heard: whoever made it forgot a key. What agents
// bring is taken all the same: it is out already.
func (r *Rotation) usable(env *intent.Envelope) error {
	chain := r.Trust.Chain()
	body, err := chain.Accept(env)
	if err != nil {
		return nil // refused with its reason by who keeps it
	}
	if _, err := publish.EpochOf(body, r.Writer()); err != nil {
		return fmt.Errorf("%w: nothing could be published; bring its new writer key first, or sign a document that lists the old one", err)
	}
	v, err := trust.NewView(body)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(r.Leaf())
	if err != nil {
		return err
	}
	if _, err := trust.VerifyPeer(v, "", []*x509.Certificate{leaf}, trust.Want{Kind: trust.Coordinator}); err != nil {
		return fmt.Errorf("no agent would speak with this coordinator under trust %d: %w", body.Seq, err)
	}
	return nil
}

var _ api.Keys = (*Rotation)(nil)
