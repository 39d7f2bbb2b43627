package coordinator

import (
	"context"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/skerry-metal/skerry/coordinator/auditlog"
	"github.com/skerry-metal/skerry/coordinator/recovery"
	"github.com/skerry-metal/skerry/coordinator/repository"
	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/origin"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/storage/state"
)

// uploads answers the API's Uploads from the repository: what is published becomes an object like any other.
type uploads struct {
	repo    *repository.Repository
	objects *objects
	audit   *auditlog.Log
}

var _ api.Uploads = (*backend)(nil)

// openRepository opens the sessions of uploads beside the blobs: they become some, without a copy.
func (c *Coordinator) openRepository(db *state.DB) (err error) {
	policy := origin.Policy{Allow: c.cfg.URLAllow, Managed: func() []netip.Prefix {
		cat, _ := c.objects.Snapshot()
		return origin.Managed(cat)
	}}
	if _, host := c.cfg.Network.(transport.Host); c.cfg.Network != nil && !host {
		policy.Dial = c.cfg.Network.DialContext
	}
	c.repository, err = repository.Open(repository.Config{
		Dir: filepath.Join(c.cfg.Data, "assets", "uploads"), State: db, Blobs: c.blobs, Now: c.clock.Now, Logger: c.cfg.Logger,
		Hourly: func(ctx context.Context) error {
			_, err := c.backend.CollectAssets(ctx, false)
			return err
		},
		Policy: policy,
	})
	return err
}

// BeginUpload implements api.Uploads. Whom the coordinator is to dial is kept in the audit log.
func (u *uploads) BeginUpload(ctx context.Context, by api.Caller, r assets.UploadRequest) (*assets.Upload, error) {
	s, err := u.repo.Begin(ctx, by.User, r)
	if err != nil || r.URL == "" {
		return s, err
	}
	return s, u.audit.Note(ctx, by.Audit("register", "Asset "+r.Name, "reads "+r.URL))
}

// AppendUpload implements api.Uploads.
func (u *uploads) AppendUpload(ctx context.Context, id string, offset uint64, body *assets.Body) (*assets.Upload, error) {
	return u.repo.Append(ctx, id, offset, body)
}

// PublishUpload implements api.Uploads.
func (u *uploads) PublishUpload(ctx context.Context, by api.Caller, id string) (out *intent.Object, err error) {
	err = u.repo.Publish(ctx, id, func(o *intent.Object, url string) error {
		why := "uploaded"
		if url != "" {
			why = "read from " + url
		}
		if _, err := u.objects.Apply(ctx, by, batchOf(o, why), store.Commit{}); err != nil {
			return err
		}
		out = o
		c, _ := u.objects.Snapshot()
		if stored := c.Get(o.Key()); stored != nil {
			out = stored
		}
		return nil
	})
	return out, err
}

// CollectAssets implements api.Uploads. While a site is held the catalog may be an older one: nothing is removed then.
func (u *uploads) CollectAssets(ctx context.Context, dryRun bool) (*assets.Collection, error) {
	held, err := recovery.Held(ctx, u.objects.store)
	if err != nil {
		return nil, storeError(err)
	}
	out, err := u.repo.Collect(ctx, u.objects.store, func(d intent.Digest) bool { return u.objects.hasAsset(ctx, d) }, dryRun || len(held) > 0)
	if err == nil && len(held) > 0 {
		out.Held = "the coordinator was restored, and has not heard all agents of " + strings.Join(held, ", ")
	}
	return out, err
}

// DropUpload implements api.Uploads.
func (u *uploads) DropUpload(ctx context.Context, _ api.Caller, id string) (*assets.Upload, error) {
	return u.repo.Drop(ctx, id)
}

// UploadStatus implements api.Uploads.
func (u *uploads) UploadStatus(_ context.Context, id string) (*assets.Upload, error) {
	return u.repo.Get(id)
}

// ListUploads implements api.Uploads.
func (u *uploads) ListUploads(context.Context) (*assets.UploadList, error) { return u.repo.List(), nil }
