package rotation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/join"
	"github.com/skerry-metal/skerry/pki/rotate"
	"github.com/skerry-metal/skerry/pki/trust"
)

// Missed implements join.Returner: an agent that was away until its certificate counted no more gets one under the CA that is used
// now, on the keys that it has, and the streams beyond what it holds.
func (r *Rotation) Missed(ctx context.Context, b join.Back, send func(string, *intent.Envelope) error) error {
	if err := r.recertify(ctx, b); err != nil {
		return err
	}
	if _, _, err := r.Publish(ctx, b.Site); err != nil && !errors.Is(err, publish.ErrHeld) {
		return err
	}
	err := r.Revocations.Feed(ctx, b.Revocation+1, func(env *intent.Envelope) error { return send(intent.StreamRevocation, env) })
	if err != nil {
		return err
	}
	p := &publish.Publisher{Store: r.Store}
	return p.Feed(ctx, b.Site, b.Intent+1, func(env *intent.Envelope) error { return send(intent.StreamIntent, env) })
}

// recertify checks who returns. Errors: join.ErrRefused.
func (r *Rotation) recertify(ctx context.Context, b join.Back) error {
	defer r.Lock(b.Site)()
	who := trust.Identity{Kind: trust.Agent, Site: b.Site, ID: b.Agent}
	refuse := func(why string) error { return fmt.Errorf("cannot let %s back: %s: %w", who, why, join.ErrRefused) }
	seated, err := r.seated(ctx, b)
	if err != nil {
		return err
	}
	if !seated {
		return refuse("it is in no roster, or a spare")
	}
	me, guard, err := r.entry(ctx, b.Site, b.Agent)
	if err != nil {
		return err
	}
	signs := func(k []byte) bool { return bytes.Equal(k, b.Sign) }
	if !slices.ContainsFunc(me.Sign, signs) || r.Revocations.Has(intent.RevokeAgent, who.String()) {
		return refuse("the roster has another key for it, or it was revoked")
	}
	if len(b.Offer) == 0 || !r.uses() {
		return nil
	}
	o, spki, err := rotate.Read(b.Offer, who.String())
	if err != nil {
		return err
	}
	holds := slices.ContainsFunc(me.TLS, func(k []byte) bool { return bytes.Equal(k, spki) })
	if !holds || !signs(o.Sign) || r.spent(who, spki) {
		return refuse("the roster has another TLS key for it, or it was revoked")
	}
	if leafUnder(me.Certs, spki, r.CA()) {
		return nil
	}
	rec, err := r.record(ctx, b.Site, b.Agent)
	if err != nil {
		return err
	}
	return r.certify(ctx, rec, me, guard, o, spki)
}

// seated tells whether the site's roster has the agent, and not as a spare in a drawer.
func (r *Rotation) seated(ctx context.Context, b join.Back) (bool, error) {
	e, err := r.Store.Get(ctx, store.RosterKey(b.Site))
	if errors.Is(err, store.ErrAbsent) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	roster := &intent.RosterBody{}
	if err := json.Unmarshal(e.Value, roster); err != nil {
		return false, fmt.Errorf("cannot read roster of %s: %w", b.Site, err)
	}
	return slices.ContainsFunc(roster.Agents, func(a intent.RosterAgent) bool { return a.ID == b.Agent && a.State == intent.StateAgent }), nil
}
