package repository

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/blob"
)

// Grace is how long the octets of a deleted asset stay: a site that hears nothing for a weekend finds them still, and who deleted the
// wrong one needs no new upload.
const Grace = 7 * 24 * time.Hour

// goneMark is what the deletion of an asset leaves, under store.AssetGoneKey. Only a mark lets a blob go: a catalog that does not name
// it may be an older copy, or damaged.
type goneMark struct {
	Name string    `json:"name"`
	Size uint64    `json:"size"`
	At   time.Time `json:"at"`
}

// Mark adds to the commit that deletes o, if that is an asset whose octets none of the next catalog has, what lets them go one day.
func Mark(put map[string][]byte, o *intent.Object, next *intent.Catalog, now time.Time) error {
	s, ok := o.Spec.(*intent.AssetSpec)
	if !ok || slices.ContainsFunc(next.List(intent.KindAsset), func(x *intent.Object) bool { return x.Spec.(*intent.AssetSpec).Digest == s.Digest }) {
		return nil
	}
	v, err := json.Marshal(goneMark{o.Metadata.Name, s.Size, now.UTC()})
	if err != nil {
		return fmt.Errorf("cannot encode the end of %s: %w", o.Key(), err)
	}
	put[store.AssetGoneKey(s.Digest.Hex())] = v
	return nil
}

// Unmark adds to the commit that puts o, if that is an asset, that its octets stay: who deletes it later gives them Grace anew.
func Unmark(c *store.Commit, o *intent.Object) {
	if s, ok := o.Spec.(*intent.AssetSpec); ok {
		k := store.AssetGoneKey(s.Digest.Hex())
		delete(c.Put, k) // deleted under another name by the same commit
		c.Delete = append(c.Delete, k)
	}
}

// Collect removes the blobs of assets that were deleted longer than Grace ago, and says what it did or, with dryRun, would do. named tells
// whether an asset of the catalog has the digest, and is asked last. The marks stay: other coordinators over the same store have blobs
// of their own.
func (r *Repository) Collect(ctx context.Context, st store.Store, named func(intent.Digest) bool, dryRun bool) (*assets.Collection, error) {
	out := &assets.Collection{DryRun: dryRun, Items: []assets.Collected{}}
	err := st.Range(ctx, store.AssetGoneKey(""), "", func(e store.Entry) error {
		d, err := intent.ParseDigest(e.Key[len(store.AssetGoneKey("")):])
		if err != nil {
			return err
		}
		var m goneMark
		if err := json.Unmarshal(e.Value, &m); err != nil {
			return fmt.Errorf("cannot read %s: %w", e.Key, err)
		}
		if _, err := r.cfg.Blobs.Manifest(d); errors.Is(err, blob.ErrAbsent) {
			return nil // gone, or never here
		}
		c := assets.Collected{Digest: d, Name: m.Name, Size: m.Size, Deleted: m.At, Due: m.At.Add(Grace), State: assets.Due}
		switch {
		case r.cfg.Now().Before(c.Due):
			c.State = assets.Waits
		case r.awaited(d), named(d):
			c.State = assets.Named
		case !dryRun:
			if err := r.cfg.Blobs.Delete(d); err != nil {
				return err
			}
			c.State = assets.Removed
			r.cfg.Logger.Info("octets of a deleted asset removed", "asset", m.Name, "digest", d.Short(), "octets", m.Size, "deleted", m.At)
		}
		out.Items = append(out.Items, c)
		return nil
	})
	slices.SortFunc(out.Items, func(a, b assets.Collected) int { return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.Name, b.Name)) })
	return out, err
}

// awaited tells whether an upload would publish the digest.
func (r *Repository) awaited(d intent.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		if s.blobDigest() == d {
			return true
		}
	}
	return false
}
