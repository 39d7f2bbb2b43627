package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/client"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// limit bounds one question to a site.
const limit = 10 * time.Second

// Asker is a telemetry.Source for all sites.
type Asker struct {
	Known   func(site string) bool
	Reverse func(site string) (http.RoundTripper, bool) // a session with an agent of the site
	Contact func(site string) time.Time                 // when the site was heard last; zero: never
	Now     func() time.Time
}

var _ telemetry.Source = (*Asker)(nil)

// Series implements telemetry.Source.
func (a *Asker) Series(ctx context.Context, site string, q telemetry.SeriesQuery) (*telemetry.SeriesList, error) {
	return ask(ctx, a, site, func(ctx context.Context, c *client.Client) (*telemetry.SeriesList, error) {
		return c.Series(ctx, site, q.Scope.Put(url.Values{"match": {q.Match}}))
	})
}

// Rows implements telemetry.Source.
func (a *Asker) Rows(ctx context.Context, site string, q telemetry.RowsQuery) (*telemetry.Rows, error) {
	return ask(ctx, a, site, func(ctx context.Context, c *client.Client) (*telemetry.Rows, error) {
		return c.Rows(ctx, site, q.Scope.Put(q.Values()))
	})
}

func ask[T any](ctx context.Context, a *Asker, site string, fn func(context.Context, *client.Client) (*T, error)) (*T, error) {
	if !a.Known(site) {
		return nil, &telemetry.Error{Status: http.StatusNotFound, Detail: "there is no such site, or you may not see it"}
	}
	rt, ok := a.Reverse(site)
	if !ok {
		return nil, a.unreachable(site)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	v, err := fn(ctx, client.New("http://"+site, "", rt))
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return nil, &telemetry.Error{Status: p.Status, Detail: p.Detail}
	}
	if err != nil {
		return nil, a.unreachable(site)
	}
	return v, nil
}

func (a *Asker) unreachable(site string) *telemetry.Error {
	since := "and was never heard"
	if t := a.Contact(site); !t.IsZero() {
		since = fmt.Sprintf("and was heard last %s ago", a.Now().Sub(t).Round(time.Second))
	}
	return &telemetry.Error{Status: http.StatusServiceUnavailable, Detail: "site " + site + " does not answer now " + since + "; its agents answer at the site"}
}
