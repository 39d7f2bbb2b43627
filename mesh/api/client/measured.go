package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// Traffic asks what traffic a site had.
func (c *Client) Traffic(ctx context.Context, site string, q telemetry.TrafficQuery) (*telemetry.TrafficAnswer, error) {
	res, err := c.request(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(site)+"/traffic", q.Values(), nil, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	out := &telemetry.TrafficAnswer{}
	if m := res.Header.Get(telemetry.MissingHeader); m != "" {
		out.Missing = strings.Split(m, ",")
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil {
		err = json.Unmarshal(b, &out.Rows)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read traffic: %w", err)
	}
	return out, nil
}
