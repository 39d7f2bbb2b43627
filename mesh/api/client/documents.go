package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/skerry-metal/skerry/mesh/api"
)

func stickPath(site string) string { return "/v1/sites/" + url.PathEscape(site) + "/stick" }

// ExportStick writes the stick of a site to w and returns how many octets it has. An answer that broke off is an error.
func (c *Client) ExportStick(ctx context.Context, site string, from uint64, w io.Writer) (int64, error) {
	res, err := c.request(ctx, http.MethodGet, stickPath(site), url.Values{"from": {strconv.FormatUint(from, 10)}}, nil, nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	n, err := io.Copy(w, res.Body)
	if err != nil {
		return n, fmt.Errorf("cannot read stick of %s: %w", site, err)
	}
	return n, nil
}

// ImportStick sends a stick; it is read once, and not held in memory.
func (c *Client) ImportStick(ctx context.Context, site string, r io.Reader, dryRun bool) (*api.StickResult, error) {
	res, err := c.request(ctx, http.MethodPost, stickPath(site), writeQuery(dryRun, ""), r, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	out := &api.StickResult{}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out); err != nil {
		return nil, fmt.Errorf("cannot read answer of %s: %w", c.base, err)
	}
	return out, nil
}

// IntentStatus tells how far the signed streams are; site "" asks for all.
func (c *Client) IntentStatus(ctx context.Context, site string) (*api.IntentStatus, error) {
	q := url.Values{}
	if site != "" {
		q.Set("site", site)
	}
	out := &api.IntentStatus{}
	return out, c.call(ctx, http.MethodGet, "/v1/streams", q, nil, out)
}
