package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// Series lists what a site measures; v has match.
func (c *Client) Series(ctx context.Context, site string, v url.Values) (*telemetry.SeriesList, error) {
	out := &telemetry.SeriesList{}
	return out, c.call(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(site)+"/series", v, nil, out)
}

// Rows returns rows of what a site measured; v is telemetry.RowsQuery's, or what ParseRows reads.
func (c *Client) Rows(ctx context.Context, site string, v url.Values) (*telemetry.Rows, error) {
	out := &telemetry.Rows{}
	return out, c.call(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(site)+"/query", v, nil, out)
}
