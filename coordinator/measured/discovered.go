package measured

import (
	"context"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/discovery"
)

// Discovered implements api.Discoveries: the site keeps them.
func (d *Desk) Discovered(ctx context.Context, site, id string) (*discovery.Found, error) {
	return ask(ctx, d, site, func(ctx context.Context, cl *client.Client) (*discovery.Found, error) {
		return cl.Discovered(ctx, site, id)
	})
}

// Ignore implements api.Discoveries: what a session asks of a site changes nothing there.
func (d *Desk) Ignore(context.Context, api.Caller, string, string, string) error {
	return api.ErrElsewhere
}
