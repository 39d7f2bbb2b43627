package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/skerry-metal/skerry/mesh/api/telemetry"
)

// Top calls fn for each frame of who has how much traffic just now, as many as count says, until fn fails.
func (c *Client) Top(ctx context.Context, site string, q telemetry.TopQuery, count int, fn func(telemetry.TopFrame) error) error {
	res, err := c.request(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(site)+"/top", q.Values(count), nil, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(io.LimitReader(res.Body, maxAnswer))
	for {
		var f telemetry.TopFrame
		if err := dec.Decode(&f); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("cannot read rates: %w", err)
		}
		if err := fn(f); err != nil {
			return err
		}
	}
}

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
