package client

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/api/consoles"
)

// Console shows a machine's console on s.Out, and sends what is typed at s.In if there is one, until the server or ctx ends it. Site, machine and
// what is wanted are the session's; the server knows who asks.
func (c *Client) Console(ctx context.Context, s consoles.Session) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	method := http.MethodGet
	var body io.Reader
	if s.In != nil {
		method, body = http.MethodPost, io.NopCloser(s.In)
	}
	res, err := c.request(ctx, method, machinePath(s.Site, s.Machine, "console"), s.Values(), body, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(s.Out, res.Body)
	cancel() // else HTTP/2 waits for the next key before it closes the body
	if err != nil {
		return fmt.Errorf("cannot read console of %s: %w", s.Machine, err)
	}
	return nil
}
