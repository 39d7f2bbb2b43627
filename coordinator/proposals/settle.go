package proposals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// keep lays a proposal aside, once, with the newest reason.
func (d *Desk) keep(ctx context.Context, site, id string, k kept) error {
	key := proposalKey(site, id)
	if e, err := d.Store.Get(ctx, key); err == nil {
		var old kept
		if err := json.Unmarshal(e.Value, &old); err == nil && old.Why == k.Why {
			return nil // told again
		}
	} else if !errors.Is(err, store.ErrAbsent) {
		return err
	}
	n := 0
	if err := d.Store.Range(ctx, proposalKey(site, ""), "", func(store.Entry) error { n++; return nil }); err != nil {
		return err
	}
	if n >= maxKept {
		return fmt.Errorf("cannot keep override %s: %d of site %s wait already; settle them with `skerry override`", id, n, site)
	}
	v, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("cannot encode proposal %s: %w", id, err)
	}
	// Both agents of a site bring it: what one of them saw adopted a moment ago does not wait for anybody.
	c := store.Commit{If: []store.Guard{{Key: store.OverrideKey(site, id)}}, Put: map[string][]byte{key: v}}
	if _, err = d.Store.Commit(ctx, c); errors.Is(err, store.ErrConflict) {
		return errDecided
	}
	return err
}

// errDecided: somebody decided meanwhile.
var errDecided = errors.New("the override was decided meanwhile")

// List returns what of a site waits for a person, with both values, in the order in which it was made.
func (d *Desk) List(ctx context.Context, site string) ([]api.Proposal, error) {
	out, made := []api.Proposal{}, map[string]intent.Override{}
	err := d.Store.Range(ctx, proposalKey(site, ""), "", func(e store.Entry) error {
		k, o, err := decode(e)
		if err != nil {
			return err
		}
		p := api.Proposal{
			ID: o.ID, Site: site, Object: o.Key, Op: string(o.Op), Author: o.Author.User, Agent: o.Agent, Time: o.Time, Reason: o.Reason,
			Why: k.Why, Since: k.Since, Base: o.Base.Rev, Here: d.Catalog().Get(o.Key),
		}
		if p.There, err = intent.DecodeObject(o.Object); err != nil {
			return fmt.Errorf("cannot read proposal %s: %w", o.ID, err)
		}
		out, made[o.ID] = append(out, p), *o
		return nil
	})
	slices.SortFunc(out, func(a, b api.Proposal) int { return made[a.ID].Compare(made[b.ID]) })
	return out, err
}

func decode(e store.Entry) (k kept, o *intent.Override, err error) {
	if err = json.Unmarshal(e.Value, &k); err == nil {
		o = &intent.Override{}
		err = intent.DecodeStrict(k.Envelope.Payload, o)
	}
	if err != nil {
		return k, nil, fmt.Errorf("cannot read %s: %w", e.Key, err)
	}
	return k, o, nil
}

// Settle carries out a person's decision on a proposal that waits: the site's value becomes the catalog's, or the catalog's goes to
// the site. Errors: api.ErrNotFound; *api.Error for a value that does not fit the catalog.
func (d *Desk) Settle(ctx context.Context, by api.Caller, site, id string, r api.DecisionRequest) error {
	e, err := d.Store.Get(ctx, proposalKey(site, id))
	if errors.Is(err, store.ErrAbsent) {
		return api.ErrNotFound
	}
	if err != nil {
		return err
	}
	_, o, err := decode(e)
	if err != nil {
		return err
	}
	reason := fmt.Sprintf("%s override %s: %s", r.Decision, id, r.Reason)
	if r.Decision == Adopt {
		if r.DryRun {
			obj, err := intent.DecodeObject(o.Object)
			if err != nil {
				return err
			}
			if err := siteMayChange(o, d.Catalog().Get(o.Key), obj); err != nil {
				return err
			}
			b := api.Batch{DryRun: true, Reason: reason, Put: []*intent.Object{obj}}
			if o.Op == intent.OverrideTombstone {
				b.Put, b.Delete = nil, []intent.Key{o.Key}
			}
			_, err = d.Apply(ctx, by, b, store.Commit{})
			return err
		}
		return d.adopt(ctx, site, o, by, reason)
	}
	if r.DryRun {
		return nil
	}
	c := store.Commit{Put: map[string][]byte{store.OverrideKey(site, id): []byte(Discard)}, Delete: []string{proposalKey(site, id)}}
	if _, err := d.Audit.Commit(ctx, by.Audit("override.discard", o.Key.String(), reason), c); err != nil {
		return err
	}
	return d.acknowledge(ctx, site, intent.AckBody{Override: id, Decision: Discard, Reason: r.Reason})
}
