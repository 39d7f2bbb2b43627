package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/measured"
	"github.com/skerry-metal/skerry/coordinator/proposals"
	"github.com/skerry-metal/skerry/coordinator/repository"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/coordinator/telemetry"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/storage/blob"
)

const (
	maxJoinTTL   = 24 * time.Hour   // trust.md section 3
	askSiteLimit = 20 * time.Second // one question to a site over its own session; a slow link answers within
)

// backend answers the API from the catalog, and asks sites over the sessions that they dialled.
type backend struct {
	api.Keys
	api.Documents
	api.Vault
	telemetry.Asker
	uploads
	*measured.Desk
	carried func(ctx context.Context, q api.EventQuery, fn func(intent.Event) error) (found bool, err error) // what sticks brought
	info    api.Info
	store   store.Store
	objects *objects
	agents  *agents
	audit   *auditlog.Log
	blobs   *blob.Store
	revoker *revoker
	desk    *proposals.Desk
	pin     func() intent.Digest                        // what a join token pins
	addr    []string                                    // host:port at which agents reach this coordinator; at least one
	reverse func(site string) (http.RoundTripper, bool) // a session with an agent of the site
	// connected tells whether an agent has a session here now.
	connected func(site, agent string) bool
	now       func() time.Time
	held      func(ctx context.Context, site string) (string, error) // why nothing is published there
}

// Approve implements api.Approvals: an approval is given where the act is done.
func (b *backend) Approve(context.Context, api.Caller, string, string, string) error {
	return api.ErrElsewhere
}

// Describe implements api.Backend.
func (b *backend) Describe() api.Info { return b.info }

// Now implements api.Backend.
func (b *backend) Now() time.Time { return b.now() }

// Snapshot implements api.Backend.
func (b *backend) Snapshot(context.Context) (*intent.Catalog, uint64, error) {
	c, rev := b.objects.Snapshot()
	return c, rev, nil
}

// Changed implements api.Backend.
func (b *backend) Changed(ctx context.Context, since uint64) (uint64, error) {
	return b.store.Wait(ctx, since)
}

// Apply implements api.Backend. Agents come by joining only: an Agent document may change one, never make one. Uids are
// given here and never taken from a caller: instances are named after their array's, so that whoever could choose the uid of
// an array that is gone would inherit its machines.
func (b *backend) Apply(ctx context.Context, by api.Caller, batch api.Batch) ([]api.Result, error) {
	c, _ := b.objects.Snapshot()
	for _, o := range batch.Put {
		if o.Kind == intent.KindAgent && c.Get(o.Key()) == nil {
			return nil, api.Refuse("agents are not created, they join: `skerry token create --site " + o.Metadata.Site + " --agent " + o.Metadata.Name + "`")
		}
	}
	guards, err := b.revoker.vault.Check(ctx, batch)
	if err != nil {
		return nil, err
	}
	puts := make([]*intent.Object, len(batch.Put))
	for i, o := range batch.Put {
		with := *o
		with.Metadata.UID = ""
		puts[i] = &with
	}
	batch.Put = puts
	return b.objects.Apply(ctx, by, batch, store.Commit{If: guards})
}

// site returns a client that speaks to an agent of the site with the caller's eyes: reads only.
func (b *backend) site(site string) (*client.Client, error) {
	c, _ := b.objects.Snapshot()
	if c.Get(intent.Key{Kind: intent.KindSite, Name: site}) == nil {
		return nil, api.ErrNotFound
	}
	rt, ok := b.reverse(site)
	if !ok {
		return nil, api.ErrUnreachable
	}
	return client.New("http://"+site, "", rt), nil
}

func fromSite(err error) error {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return &api.Error{Status: p.Status, Type: "site", Detail: p.Detail}
	}
	if err != nil {
		return api.ErrUnreachable
	}
	return nil
}

// Events implements api.Backend.
func (b *backend) Events(ctx context.Context, q api.EventQuery, fn func(intent.Event) error) error {
	cl, err := b.site(q.Site)
	if errors.Is(err, api.ErrUnreachable) && !q.Follow {
		if found, cerr := b.carried(ctx, q, fn); found || cerr != nil {
			return cerr
		}
	}
	if err != nil {
		return err
	}
	if !q.Follow {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askSiteLimit)
		defer cancel()
	}
	return fromSite(cl.Events(ctx, q, fn))
}

// SiteStatus implements api.Backend: fresh from the site when it has a session, else the last report with its age.
func (b *backend) SiteStatus(ctx context.Context, site string) (*api.SiteStatus, error) {
	head, _, err := b.agents.pub.Head(ctx, site)
	if err != nil {
		return nil, err
	}
	held, err := b.held(ctx, site)
	if err != nil {
		return nil, err
	}
	cl, err := b.site(site)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, askSiteLimit)
		defer cancel()
		if s, err := cl.SiteStatus(ctx, site); err == nil {
			s.Published, s.Reachable, s.Held = head, "yes", held
			return s, nil
		}
	} else if !errors.Is(err, api.ErrUnreachable) {
		return nil, err
	}
	s, _ := b.objects.status(site)
	s.Published, s.Reachable, s.Held = head, "unknown", held
	return s, nil
}

// Explain implements api.Backend.
func (b *backend) Explain(ctx context.Context, site, machine string) (*api.Explanation, error) {
	cl, err := b.site(site)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askSiteLimit)
	defer cancel()
	e, err := cl.Explain(ctx, site, machine)
	return e, fromSite(err)
}

// Receipts implements api.Backend.
func (b *backend) Receipts(ctx context.Context, site, machine string) (*erasure.List, error) {
	cl, err := b.site(site)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askSiteLimit)
	defer cancel()
	l, err := cl.Receipts(ctx, site, machine)
	return l, fromSite(err)
}

// Power implements api.Backend: nothing is written to a device from here.
func (b *backend) Power(context.Context, api.Caller, string, string, string) (*api.PowerResult, error) {
	return nil, api.ErrElsewhere
}

// QuarantineMachine implements api.Backend.
func (b *backend) QuarantineMachine(context.Context, api.Caller, string, string, string) error {
	return api.ErrElsewhere
}

// Clear implements api.Backend.
func (b *backend) Clear(context.Context, api.Caller, string, string, string) error {
	return api.ErrElsewhere
}

// Release implements api.Backend.
func (b *backend) Release(context.Context, api.Caller, string, string) error { return api.ErrElsewhere }

// JoinToken implements api.Backend.
func (b *backend) JoinToken(ctx context.Context, by api.Caller, site string, r api.JoinTokenRequest) (*api.JoinTokenResult, error) {
	c, _ := b.objects.Snapshot()
	if c.Get(intent.Key{Kind: intent.KindSite, Name: site}) == nil {
		return nil, api.ErrNotFound
	}
	if !intent.IsLabel(r.Agent) {
		return nil, api.Refuse("the agent's id is no DNS label")
	}
	ttl := maxJoinTTL
	if r.TTL != "" {
		d, err := time.ParseDuration(r.TTL)
		if err != nil || d <= 0 || d > maxJoinTTL {
			return nil, api.Refuse("ttl is a duration of at most 24h")
		}
		ttl = d
	}
	t, err := join.NewToken(b.pin())
	if err != nil {
		return nil, err
	}
	rec := join.Record{ID: t.ID, Hash: t.Hash(), Site: site, Agent: r.Agent, Spare: r.Spare, Expires: b.now().Add(ttl).UTC().Truncate(time.Second)}
	v, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode token: %w", err)
	}
	key := tokenKey(t.ID)
	line := by.Audit("token", "Agent "+site+"/"+r.Agent, "join token "+t.ID)
	if _, err := b.audit.Commit(ctx, line, store.Commit{If: []store.Guard{{Key: key}}, Put: map[string][]byte{key: v}}); err != nil {
		return nil, storeError(err)
	}
	return &api.JoinTokenResult{Token: t.Text() + "@" + b.address(), Expires: rec.Expires}, nil
}

// address is the first address at which agents reach this coordinator.
func (b *backend) address() string { return b.addr[0] }

// UserToken implements api.Backend: the user keeps its other tokens.
func (b *backend) UserToken(ctx context.Context, by api.Caller, user string, r api.UserTokenRequest) (*api.UserTokenResult, error) {
	var ttl time.Duration
	if r.TTL != "" {
		d, err := time.ParseDuration(r.TTL)
		if err != nil || d <= 0 {
			return nil, api.Refuse("ttl is no duration, like 720h")
		}
		ttl = d
	}
	c, _ := b.objects.Snapshot()
	old := c.Get(intent.Key{Kind: intent.KindUser, Name: user})
	if old == nil {
		return nil, api.ErrNotFound
	}
	token, half := api.NewUserToken(ttl, b.now())
	o := old.Clone()
	spec := o.Spec.(*intent.UserSpec)
	spec.Tokens = append(spec.Tokens, half)
	if err := o.Validate().Err(); err != nil {
		return nil, err
	}
	batch := batchOf(o, "new token "+half.ID)
	batch.IfMatch = map[intent.Key]string{o.Key(): api.ETag(old)}
	if _, err := b.objects.Apply(ctx, by, batch, store.Commit{}); err != nil {
		return nil, err
	}
	return &api.UserTokenResult{ID: half.ID, Token: token, Expires: half.Expires}, nil
}

// Upload implements api.Backend.
func (b *backend) Upload(ctx context.Context, by api.Caller, name, class string, body io.Reader) (*intent.Object, error) {
	o, err := repository.Import(ctx, b.blobs, name, class, body)
	if errors.Is(err, blob.ErrFull) {
		return nil, api.ErrFull
	}
	if err != nil {
		return nil, err
	}
	if _, err := b.objects.Apply(ctx, by, batchOf(o, "uploaded"), store.Commit{}); err != nil {
		return nil, err
	}
	if _, whole, err := b.blobs.Have(o.Spec.(*intent.AssetSpec).Digest); err != nil || !whole {
		return nil, api.Refuse("the same octets were of a deleted asset and were removed a moment ago; upload it again")
	}
	c, _ := b.objects.Snapshot()
	if stored := c.Get(o.Key()); stored != nil {
		return stored, nil
	}
	return o, nil
}

// IntentFeed implements api.Backend.
func (b *backend) IntentFeed(ctx context.Context, site string, from uint64, fn func(*intent.Envelope) error) error {
	return b.agents.pub.Feed(ctx, site, from, fn)
}

func batchOf(o *intent.Object, reason string) api.Batch {
	return api.Batch{Put: []*intent.Object{o}, Reason: reason}
}

// apiCaller is who acts without a request: via names the credential, or the part of the program.
func apiCaller(via, user string) api.Caller { return api.Caller{User: user, Via: via} }

var _ api.Backend = (*backend)(nil)

// Revoked implements api.Backend.
func (b *backend) Revoked(kind intent.RevocationKind, id string) bool {
	return b.revoker.stream.Has(kind, id)
}

// Revoke implements api.Backend.
func (b *backend) Revoke(ctx context.Context, by api.Caller, r api.RevokeRequest) (*api.RevokeResult, error) {
	return b.revoker.revoke(ctx, by, r)
}

// Revocations implements api.Backend.
func (b *backend) Revocations(context.Context) (*api.RevocationList, error) {
	return b.revoker.list(), nil
}

// Audit implements api.Backend.
func (b *backend) Audit(ctx context.Context, site string, fn func(api.AuditLine) error) error {
	return b.audit.Audit(ctx, site, fn)
}

// Note implements api.Backend.
func (b *backend) Note(ctx context.Context, r intent.AuditRecord) error { return b.audit.Note(ctx, r) }

// Quarantine implements api.Backend: it is a site's own act.
func (b *backend) Quarantine(context.Context, api.Caller, string, string, api.QuarantineRequest) (*api.QuarantineResult, error) {
	return nil, api.ErrElsewhere
}

// Proposals implements api.Backend.
func (b *backend) Proposals(ctx context.Context, site string) ([]api.Proposal, error) {
	return b.desk.List(ctx, site)
}

// Settle implements api.Backend.
func (b *backend) Settle(ctx context.Context, by api.Caller, site, id string, r api.DecisionRequest) error {
	return b.desk.Settle(ctx, by, site, id, r)
}
