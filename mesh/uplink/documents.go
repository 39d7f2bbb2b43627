package uplink

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// Envelopes calls fn for each envelope that url gives, one per line, with its octets.
func Envelopes(ctx context.Context, rt http.RoundTripper, url string, fn func(*intent.Envelope, int) error) error {
	res, err := Get(ctx, rt, url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	sc := bufio.NewScanner(res.Body)
	sc.Buffer(make([]byte, 64<<10), 2*intent.MaxEnvelope)
	for sc.Scan() {
		env, err := document.Decode(sc.Bytes())
		if err != nil { // %v: a line that was cut says nothing of the document
			return fmt.Errorf("cannot read what %s gives: %v", url, err)
		}
		if err := fn(env, len(sc.Bytes())); err != nil {
			return err
		}
	}
	return sc.Err()
}

// Get asks for url; an answer that is not 200 is an error. The caller closes the body.
func Get(ctx context.Context, rt http.RoundTripper, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("cannot get %s: %s", req.URL.Path, res.Status), res.Body.Close())
	}
	return res, nil
}
