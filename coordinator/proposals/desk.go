package proposals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/publish"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
	"github.com/skerry-metal/skerry/pki/document"
)

// The answers to an override.
const (
	Adopt    = "adopt"
	Discard  = "discard"
	Conflict = "conflict" // kept for a person
	Settled  = "settled"  // of Preview: it was decided before
)

// Desk decides. Every field is set.
type Desk struct {
	Store   store.Store
	Audit   *auditlog.Log
	Now     func() time.Time
	Catalog func() *intent.Catalog
	Roster  func(ctx context.Context, site string) (*intent.RosterBody, error) // nil: a site without agents
	// Apply changes the catalog and commits more with it. Errors: *api.Error for what does not fit.
	Apply func(ctx context.Context, by api.Caller, b api.Batch, more store.Commit) ([]api.Result, error)
	// Publish brings a site's chain up to the catalog.
	Publish func(ctx context.Context, site string) error
	Lock    func(site string) (unlock func())
	Open    func(ctx context.Context, site string) (*publish.Chain, error)
	Notify  func(site string)
}

// kept is a proposal that waits for a person.
type kept struct {
	Envelope *intent.Envelope `json:"envelope"`
	Why      string           `json:"why"`
	Since    time.Time        `json:"since"`
}

func proposalKey(site, id string) string { return "proposal/" + site + "/" + id }

// maxKept bounds what one site has waiting: a person reads them.
const maxKept = 1000

// Take decides on an override that an agent brought: Adopt or Discard when it is settled, now or before; Conflict when it waits for
// a person. Errors: what is not signed by an agent that the site has or had, or is not the site's to change.
func (d *Desk) Take(ctx context.Context, site string, env *intent.Envelope) (string, error) {
	o, gone, err := d.open(ctx, site, env)
	if err != nil {
		return "", err
	}
	if decided, err := d.again(ctx, site, o.ID); decided != "" || err != nil {
		return decided, err
	}
	if err := d.mayChange(site, o); err != nil {
		return "", err
	}
	if err := d.charge(ctx, site, o); err != nil {
		return "", err
	}
	why := ""
	switch fits, rev, err := d.fits(ctx, site, o); {
	case err != nil:
		return "", err
	case gone != "":
		why = fmt.Sprintf("agent %s, which signed it, is no agent of the site any more", gone)
	case !fits:
		why = fmt.Sprintf("the object is at version %d here, the site changed version %d", rev, o.Base.Rev)
	default:
		err := d.adopt(ctx, site, o, api.Caller{User: o.Author.User, Via: o.Author.Via}, "override "+o.ID+": "+o.Reason)
		e, refused := errors.AsType[*api.Error](err)
		if !refused || e.Status >= 500 {
			return Adopt, err
		}
		why = e.Error()
	}
	if err := d.keep(ctx, site, o.ID, kept{env, why, d.Now().UTC()}); errors.Is(err, errDecided) {
		return d.again(ctx, site, o.ID)
	} else if err != nil {
		return "", err
	}
	return Conflict, nil
}

// again finishes what was decided on an override that is told twice, or that we died over before the ack; "" for one that is new.
func (d *Desk) again(ctx context.Context, site, id string) (string, error) {
	e, err := d.Store.Get(ctx, store.OverrideKey(site, id))
	if errors.Is(err, store.ErrAbsent) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return d.repeat(ctx, site, id, string(e.Value))
}

// Preview says what Take would answer, as far as that can be told without doing it, and Settled for what was decided before.
// Errors: as Take.
func (d *Desk) Preview(ctx context.Context, site string, env *intent.Envelope) (string, error) {
	o, gone, err := d.open(ctx, site, env)
	if err != nil {
		return "", err
	}
	if _, err := d.Store.Get(ctx, store.OverrideKey(site, o.ID)); !errors.Is(err, store.ErrAbsent) {
		return Settled, err
	}
	if err := d.mayChange(site, o); err != nil {
		return "", err
	}
	fits, _, err := d.fits(ctx, site, o)
	if !fits || gone != "" {
		return Conflict, err
	}
	return Adopt, err
}

// repeat finishes a decision that was made before.
func (d *Desk) repeat(ctx context.Context, site, id, was string) (string, error) {
	if was == Discard {
		return Discard, d.acknowledge(ctx, site, intent.AckBody{Override: id, Decision: Discard})
	}
	rev, err := strconv.ParseUint(was, 10, 64)
	if err != nil {
		return "", fmt.Errorf("cannot read decision on %s: %w", id, err)
	}
	return Adopt, d.acknowledge(ctx, site, intent.AckBody{Override: id, Decision: Adopt, Rev: rev})
}

// fits tells whether the object stands as the site knew it: at the version that the change was made on, or at the one that the
// change before it, by the same site, led to.
func (d *Desk) fits(ctx context.Context, site string, o *intent.Override) (bool, uint64, error) {
	rev := uint64(0)
	if have := d.Catalog().Get(o.Key); have != nil {
		rev = have.Metadata.Rev
	}
	if rev == o.Base.Rev || o.Base.After == "" {
		return rev == o.Base.Rev, rev, nil
	}
	e, err := d.Store.Get(ctx, store.OverrideKey(site, o.Base.After))
	if errors.Is(err, store.ErrAbsent) {
		return false, rev, nil
	}
	return err == nil && string(e.Value) == strconv.FormatUint(rev, 10), rev, err
}

// mayChange holds a site to what is its own, and to what a site may change by itself.
func (d *Desk) mayChange(site string, o *intent.Override) error {
	obj, err := intent.DecodeObject(o.Object)
	if err != nil {
		return err
	}
	info, _ := obj.Kind.Info()
	if !info.User && obj.Kind != intent.KindMachine || obj.Key() != o.Key || obj.Metadata.Site != site && obj.Kind != intent.KindSSHKey {
		return fmt.Errorf("cannot adopt override %s: %s is not the site's to change", o.ID, o.Key)
	}
	if obj.Kind == intent.KindMachine {
		return nil // adopt compares it with what stands here
	}
	if p, _, ok := intent.Lookup[*intent.ProjectSpec](d.Catalog(), intent.KindProject, "", o.Key.Scope); !ok || !slices.Contains(p.Sites, site) {
		// SSH keys name no site: without this an agent could put a key on another site's machines.
		return fmt.Errorf("cannot adopt override %s: project %s is not at site %s", o.ID, o.Key.Scope, site)
	}
	return nil
}

// siteMayChange refuses what a site may not have made of have: the machine was changed here too, or the site overstepped.
func siteMayChange(o *intent.Override, have, obj *intent.Object) error {
	if o.Op == intent.OverrideTombstone {
		have, obj = obj, nil
	}
	if why := rights.SiteMayChange(have, obj); why != "" {
		return api.Refuse(why)
	}
	return nil
}

// adopt makes the site's value the catalog's. The decision is one commit with it.
func (d *Desk) adopt(ctx context.Context, site string, o *intent.Override, by api.Caller, reason string) error {
	obj, err := intent.DecodeObject(o.Object)
	if err != nil {
		return err
	}
	have := d.Catalog().Get(o.Key)
	if err := siteMayChange(o, have, obj); err != nil {
		return err
	}
	b, rev := api.Batch{Reason: reason}, uint64(1)
	switch {
	case o.Op == intent.OverrideTombstone && have != nil:
		b.Delete, rev = []intent.Key{o.Key}, 0
	case o.Op == intent.OverrideTombstone: // gone here too
		_, err := d.Store.Commit(ctx, store.Commit{Put: map[string][]byte{store.OverrideKey(site, o.ID): []byte("0")}, Delete: []string{proposalKey(site, o.ID)}})
		return errors.Join(err, d.acknowledge(ctx, site, intent.AckBody{Override: o.ID, Decision: Adopt}))
	default:
		b.Put = []*intent.Object{obj}
		if have != nil && have.Metadata.UID != obj.Metadata.UID { // made at both, or made anew here: the site's one stays, with its machines
			b.Delete, b.IfMatch = []intent.Key{o.Key}, map[intent.Key]string{o.Key: api.ETag(have)}
		} else if have != nil {
			b.IfMatch, rev = map[intent.Key]string{o.Key: api.ETag(have)}, have.Metadata.Rev+1
		}
	}
	more := store.Commit{Put: map[string][]byte{store.OverrideKey(site, o.ID): strconv.AppendUint(nil, rev, 10)}, Delete: []string{proposalKey(site, o.ID)}}
	if _, err := d.Apply(ctx, by, b, more); err != nil {
		return err
	}
	return d.acknowledge(ctx, site, intent.AckBody{Override: o.ID, Decision: Adopt, Rev: rev})
}

// acknowledge publishes what was decided, then its ack, once: the object first, so that the ack finds it in place.
func (d *Desk) acknowledge(ctx context.Context, site string, ack intent.AckBody) error {
	if err := d.Publish(ctx, site); err != nil {
		return err
	}
	defer d.Lock(site)()
	ch, err := d.Open(ctx, site)
	if err != nil {
		return err
	}
	_, err = d.Store.Get(ctx, store.AckKey(site, ack.Override))
	if err == nil || !errors.Is(err, store.ErrAbsent) {
		return err
	}
	if err := ch.Append(ctx, intent.EntryAck, ack, store.Commit{Put: map[string][]byte{store.AckKey(site, ack.Override): strconv.AppendUint(nil, ch.Head().Seq+1, 10)}}); err != nil {
		return err
	}
	d.Notify(site)
	return nil
}

// Former lists every agent that a site ever had, as it was rostered last.
func (d *Desk) Former(ctx context.Context, site string) (out []intent.RosterAgent, err error) {
	err = d.Store.Range(ctx, store.AgentKey(site, ""), "", func(e store.Entry) error {
		var a intent.RosterAgent
		if err := json.Unmarshal(e.Value, &a); err != nil {
			return fmt.Errorf("cannot read %s: %w", e.Key, err)
		}
		out = append(out, a)
		return nil
	})
	return out, err
}

// open verifies that an agent of the site signed env. gone names one that signed it and is no agent any more: it was removed,
// replaced or revoked, and nothing of it is adopted without a person.
func (d *Desk) open(ctx context.Context, site string, env *intent.Envelope) (o *intent.Override, gone string, err error) {
	roster, err := d.Roster(ctx, site)
	if err != nil {
		return nil, "", err
	}
	if roster == nil {
		return nil, "", fmt.Errorf("cannot take override of %s: it has no roster", site)
	}
	if _, err = document.SignedByAgent(env, intent.PayloadOverride, roster); err != nil {
		former, rerr := d.Former(ctx, site)
		if gone, err = document.SignedByAgent(env, intent.PayloadOverride, &intent.RosterBody{Agents: former}); err != nil || rerr != nil {
			return nil, "", errors.Join(err, rerr)
		}
	}
	o = &intent.Override{}
	if err := intent.DecodeStrict(env.Payload, o); err != nil {
		return nil, "", err
	}
	if o.Site != site {
		return nil, "", fmt.Errorf("cannot take override %s: %w", o.ID, document.ErrOtherSite)
	}
	return o, gone, nil
}
