package intake

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/holder"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

// Door implements api.Keys and api.Vault of an agent: a person brings trust documents, and lets one count that only the announced roots
// signed. All fields are set before use.
type Door struct {
	Desk       *Desk
	Site, Self string
	Now        func() time.Time
	// Note keeps an audit record, and an event beside it where kind is not empty. What it returned nil for is on disk.
	Note func(ctx context.Context, r intent.AuditRecord, kind, message string) error
}

var (
	_ api.Keys  = (*Door)(nil)
	_ api.Vault = (*Door)(nil)
)

// AddTrust implements api.Keys: a person brings a trust document to an agent that nobody else brings it to.
func (d *Door) AddTrust(ctx context.Context, by api.Caller, env *intent.Envelope) (*api.TrustResult, error) {
	was := d.Desk.Replica.TrustHead()
	err := d.Desk.Offer(env)
	switch {
	case errors.Is(err, document.ErrOffered):
	case errors.Is(err, document.ErrFork):
		return nil, &api.Error{Status: http.StatusConflict, Type: "fork", Detail: err.Error()}
	case document.Refused(err):
		return nil, api.Refuse(err.Error())
	case err != nil:
		return nil, err
	}
	res := &api.TrustResult{Head: d.Desk.Replica.TrustHead()}
	res.Added = res.Head != was
	if err != nil {
		res.Offered = d.offered()
	}
	return res, d.Note(ctx, by.Audit("trust", env.Digest().Short(), ""), "", "")
}

// offered says what waits for AcceptTrust; nil for nothing.
func (d *Door) offered() *api.TrustOffer {
	env := d.Desk.Replica.OfferedTrust()
	if env == nil {
		return nil
	}
	was, is, err := d.Desk.Replica.AcceptTrust(env.Digest(), "", d.Now(), true)
	if err != nil {
		return nil // it was accepted meanwhile
	}
	return &api.TrustOffer{Digest: env.Digest(), Seq: is.Seq, Changes: trustChanges(was, is)}
}

func trustChanges(was, is *intent.TrustBody) []string {
	return append([]string{holder.Replaces(was, is)}, holder.Changes(was, &holder.Offer{Body: *is})...)
}

// AcceptTrust implements api.Keys. It counts for this agent alone: a person who stands at one box says nothing for another.
func (d *Door) AcceptTrust(ctx context.Context, by api.Caller, q api.AcceptRequest) (*api.AcceptResult, error) {
	me := d.Site + "/" + d.Self
	if q.Site != d.Site {
		return nil, api.Refuse(fmt.Sprintf("this is agent %s, which accepts for itself alone; name its site", me))
	}
	digest, err := intent.ParseDigest(q.Digest)
	if err != nil {
		return nil, api.Refuse(err.Error() + "; `skerry pki status` shows the whole digest of what is offered")
	}
	if now := d.Desk.Replica.TrustChain(); slices.Contains(now.Lone(), digest) {
		return &api.AcceptResult{Who: me, Head: now.Head, Changes: []string{"nothing: it was accepted before"}, DryRun: q.DryRun}, nil
	}
	was, is, err := d.Desk.Replica.AcceptTrust(digest, by.User, d.Now(), q.DryRun)
	if errors.Is(err, replica.ErrNotOffered) {
		return nil, api.Refuse(err.Error() + "; `skerry pki status` shows what is, and `skerry pki trust FILE` brings a document")
	}
	if err != nil {
		return nil, err
	}
	res := &api.AcceptResult{Who: me, Head: intent.Head{Seq: is.Seq, Hash: digest}, Changes: trustChanges(was, is), DryRun: q.DryRun}
	if q.DryRun {
		return res, nil
	}
	d.Desk.Followed()
	object := fmt.Sprintf("Trust %d", is.Seq)
	line := by.Audit("trust.accept", object, digest.Hex())
	text := fmt.Sprintf("%s accepted trust %d (%s), which the announced roots signed alone", by.User, is.Seq, digest.Hex())
	if err := d.Note(ctx, line, "trust.accepted", text); err != nil {
		return nil, fmt.Errorf("cannot keep in the audit log that trust %d was accepted; it counts: %w", is.Seq, err)
	}
	return res, nil
}

// KeyStatus implements api.Keys: an agent knows its own streams.
func (d *Door) KeyStatus(context.Context) (*api.KeyStatus, error) {
	s := &api.KeyStatus{
		At: d.Now(), Trust: d.Desk.Replica.TrustHead(), Revocation: d.Desk.Replica.RevocationHead(), Offered: d.offered(), Oldest: []api.KeyAge{}, Sites: []api.SiteKeys{},
	}
	forks, err := d.Desk.Replica.TrustForks()
	s.Forks = len(forks)
	return s, err
}

// Rotate implements api.Keys.
func (d *Door) Rotate(context.Context, api.Caller, api.RotateRequest) (*api.RotationStatus, error) {
	return nil, api.ErrElsewhere
}

// Rotations implements api.Keys.
func (d *Door) Rotations(context.Context) (*api.RotationList, error) {
	return nil, api.ErrElsewhere
}

// RotateSecrets implements api.Vault.
func (d *Door) RotateSecrets(context.Context, api.Caller, string, api.SecretRotation) (*api.SecretStatus, error) {
	return nil, api.ErrElsewhere
}

// SecretStatus implements api.Vault.
func (d *Door) SecretStatus(context.Context, string) (*api.SecretStatus, error) {
	return nil, api.ErrElsewhere
}
