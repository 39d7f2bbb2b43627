package rotation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/holder"
	"github.com/skerry-metal/skerry/pki/trust"
)

// AddTrust implements api.Keys.
func (r *Rotation) AddTrust(ctx context.Context, by api.Caller, env *intent.Envelope) (*api.TrustResult, error) {
	if err := r.usable(env); err != nil {
		return nil, api.Refuse(err.Error())
	}
	added, offered := false, false
	err := r.Audit.Write(ctx, by.Audit("trust", env.Digest().Short(), ""), func(line store.Commit) (err error) {
		if added, err = r.add(ctx, env, line); err == nil && !added { // known; that somebody brought it is kept all the same
			_, err = r.Store.Commit(ctx, line)
		}
		if offered = errors.Is(err, document.ErrOffered); offered { // kept with the line
			return nil
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
	res := &api.TrustResult{Head: r.Trust.Head(), Added: added}
	if offered {
		res.Offered = r.offered()
	}
	return res, nil
}

// offered says what waits for AcceptTrust; nil for nothing.
func (r *Rotation) offered() *api.TrustOffer {
	env := r.Trust.Offered()
	if env == nil {
		return nil
	}
	chain, err := r.Trust.Rehearse(env.Digest())
	if err != nil {
		return nil // it was accepted meanwhile
	}
	return &api.TrustOffer{Digest: env.Digest(), Seq: chain.Head.Seq, Changes: r.changes(chain.Body)}
}

func (r *Rotation) changes(is *intent.TrustBody) []string {
	was := r.Trust.Body()
	return append([]string{holder.Replaces(was, is)}, holder.Changes(was, &holder.Offer{Body: *is})...)
}

// AcceptTrust implements api.Keys.
func (r *Rotation) AcceptTrust(ctx context.Context, by api.Caller, q api.AcceptRequest) (*api.AcceptResult, error) {
	if q.Site != "" {
		return nil, api.Refuse("this is the coordinator, which accepts for itself alone; at every agent of " + q.Site + " a person accepts too")
	}
	d, err := intent.ParseDigest(q.Digest)
	if err != nil {
		return nil, api.Refuse(err.Error() + "; `skerry pki status` shows the whole digest of what is offered")
	}
	if now := r.Trust.Chain(); slices.Contains(now.Lone(), d) {
		return &api.AcceptResult{Who: r.ID, Head: now.Head, Changes: []string{"nothing: it was accepted before"}, DryRun: q.DryRun}, nil
	}
	chain, err := r.Trust.Rehearse(d)
	if err != nil {
		return nil, notOffered(err)
	}
	if err := r.fits(chain.Body); err != nil {
		return nil, api.Refuse(err.Error())
	}
	res := &api.AcceptResult{Who: r.ID, Head: chain.Head, Changes: r.changes(chain.Body), DryRun: q.DryRun}
	if q.DryRun {
		return res, nil
	}
	line := by.Audit("trust.accept", fmt.Sprintf("Trust %d", chain.Head.Seq), d.Hex())
	err = r.Audit.Write(ctx, line, func(line store.Commit) error { return r.Trust.Accept(ctx, d, by.User, r.Now(), line) })
	switch {
	case errors.Is(err, publish.ErrNotOffered):
		return nil, notOffered(err)
	case errors.Is(err, store.ErrConflict):
		return nil, &api.Error{Status: http.StatusConflict, Type: "conflict", Detail: "another coordinator was faster; look at the head, then repeat"}
	case err != nil:
		return nil, err
	}
	r.Log.Warn("a trust document of the announced roots alone was accepted", "seq", chain.Head.Seq, "digest", d.Hex(), "by", by.User)
	r.Obey()
	return res, nil
}

func notOffered(err error) error {
	return api.Refuse(err.Error() + "; `skerry pki status` shows what is, and `skerry pki trust FILE` brings a document")
}

// usable refuses a document under which this coordinator could neither sign nor be heard: whoever made it forgot a key. What agents
// bring is taken all the same: it is out already.
func (r *Rotation) usable(env *intent.Envelope) error {
	chain := r.Trust.Chain()
	body, err := chain.Accept(env)
	if err != nil {
		return nil // refused with its reason by who keeps it, or judged when it is accepted
	}
	return r.fits(body)
}

func (r *Rotation) fits(body *intent.TrustBody) error {
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
