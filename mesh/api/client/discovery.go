package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/skerry-metal/skerry/mesh/api/discovery"
)

// Discovered lists the machines of a site that nobody declared; with an id that one, if it is there, with its whole report.
func (c *Client) Discovered(ctx context.Context, site, id string) (*discovery.Found, error) {
	v := url.Values{}
	if id != "" {
		v.Set("machine", id)
	}
	out := &discovery.Found{}
	return out, c.call(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(site)+"/discovered", v, nil, out)
}

// Ignore leaves a discovered machine to its own disk.
func (c *Client) Ignore(ctx context.Context, site, id, reason string) error {
	return c.call(ctx, http.MethodPost, machinePath(site, id, "ignore"), nil, map[string]string{"reason": reason}, nil)
}
