package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
)

func uploadPath(id string) string { return "/v1/uploads/" + url.PathEscape(id) }

// BeginUpload finds or begins the upload of a request; it says from which octet on to send.
func (c *Client) BeginUpload(ctx context.Context, r assets.UploadRequest) (*assets.Upload, error) {
	out := &assets.Upload{}
	return out, c.call(ctx, http.MethodPost, "/v1/uploads", nil, r, out)
}

// AppendUpload sends size octets of body, which begins at octet offset of the asset. After any error BeginUpload says how many came.
func (c *Client) AppendUpload(ctx context.Context, id string, offset uint64, body io.Reader, size int64) (*assets.Upload, error) {
	req, err := c.bytes(ctx, http.MethodPatch, uploadPath(id), body, size)
	if err != nil {
		return nil, err
	}
	req.Header.Set(assets.OffsetHeader, strconv.FormatUint(offset, 10))
	out := &assets.Upload{}
	return out, c.sendBytes(req, out)
}

// PublishUpload registers the asset of a whole upload and returns its document.
func (c *Client) PublishUpload(ctx context.Context, id string) (*intent.Object, error) {
	out := &intent.Object{}
	return out, c.call(ctx, http.MethodPost, uploadPath(id)+"/publish", nil, nil, out)
}

// DropUpload forgets an upload, and returns how it was.
func (c *Client) DropUpload(ctx context.Context, id string) (*assets.Upload, error) {
	out := &assets.Upload{}
	return out, c.call(ctx, http.MethodDelete, uploadPath(id), nil, nil, out)
}

// CollectAssets removes the octets of assets that were deleted long ago; with dryRun it only says which.
func (c *Client) CollectAssets(ctx context.Context, dryRun bool) (*assets.Collection, error) {
	out := &assets.Collection{}
	return out, c.call(ctx, http.MethodPost, "/v1/assets/collect", writeQuery(dryRun, ""), nil, out)
}

// AssetAction lets the agents of a site do something about an asset; an agent of the site is to be asked.
func (c *Client) AssetAction(ctx context.Context, site, asset string, q assets.ActionRequest) (*assets.ActionResult, error) {
	out := &assets.ActionResult{}
	return out, c.call(ctx, http.MethodPost, "/v1/sites/"+url.PathEscape(site)+"/assets/"+url.PathEscape(asset), nil, q, out)
}

// UploadStatus says how far an upload is.
func (c *Client) UploadStatus(ctx context.Context, id string) (*assets.Upload, error) {
	out := &assets.Upload{}
	return out, c.call(ctx, http.MethodGet, uploadPath(id), nil, nil, out)
}

// Uploads lists the assets that are on their way.
func (c *Client) Uploads(ctx context.Context) (*assets.UploadList, error) {
	out := &assets.UploadList{}
	return out, c.call(ctx, http.MethodGet, "/v1/uploads", nil, nil, out)
}
