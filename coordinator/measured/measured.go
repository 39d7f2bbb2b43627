package measured

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// askLimit bounds one question: the site's agents have 10 s among themselves.
const askLimit = 15 * time.Second

// Desk asks sites.
type Desk struct {
	// Site returns a client of an agent of the site, by its session. Errors: api.ErrNotFound, api.ErrUnreachable.
	Site func(site string) (*client.Client, error)
	// Heard returns when the site reported last; ok is false for never.
	Heard func(site string) (at time.Time, ok bool)
	Now   func() time.Time
}

// ask puts one question to a site. Errors: the site's own; 503 with the age of the last contact where nobody answers.
func ask[T any](ctx context.Context, d *Desk, site string, put func(context.Context, *client.Client) (T, error)) (out T, err error) {
	cl, err := d.Site(site)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, askLimit)
		defer cancel()
		if out, err = put(ctx, cl); err == nil {
			return out, nil
		}
		if p, ok := errors.AsType[*client.Problem](err); ok {
			return out, &api.Error{Status: p.Status, Type: "site", Detail: p.Detail}
		}
		err = api.ErrUnreachable
	}
	if !errors.Is(err, api.ErrUnreachable) {
		return out, err
	}
	lost := *api.ErrUnreachable
	if at, ok := d.Heard(site); ok {
		lost.Detail += fmt.Sprintf("; it was heard last %s ago, at %s", d.Now().Sub(at).Round(time.Second), at.UTC().Format(time.RFC3339))
	} else {
		lost.Detail += "; it was never heard"
	}
	return out, &lost
}

// Top implements telemetry.TrafficSource: the site gives one frame at a time.
func (d *Desk) Top(ctx context.Context, site string, q telemetry.TopQuery) (*telemetry.TopFrame, error) {
	return ask(ctx, d, site, func(ctx context.Context, cl *client.Client) (*telemetry.TopFrame, error) {
		var out *telemetry.TopFrame
		if err := cl.Top(ctx, site, q, 1, func(f telemetry.TopFrame) error { out = &f; return nil }); err != nil {
			return nil, err
		}
		if out == nil {
			return nil, errors.New("the site gave no rates")
		}
		return out, nil
	})
}

// Traffic implements telemetry.TrafficSource, as Top does.
func (d *Desk) Traffic(ctx context.Context, site string, q telemetry.TrafficQuery) (*telemetry.TrafficAnswer, error) {
	return ask(ctx, d, site, func(ctx context.Context, cl *client.Client) (*telemetry.TrafficAnswer, error) {
		return cl.Traffic(ctx, site, q)
	})
}
