package redfish

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/govern"
)

const (
	requestLimit = 30 * time.Second // slow controllers take 20 s for a login during POST
	dialLimit    = 10 * time.Second
	maxBody      = 4 << 20 // the largest answer in 16 recorded trees is under 300 kB
)

// pinner accepts any certificate at first and the same key for ever after.
type pinner struct {
	onPin func(string)

	mu  sync.Mutex // guards what follows
	pin string
}

// verify is tls.Config.VerifyConnection. Controllers show self-signed certificates that nobody could check; what can be
// checked is that it is the same key as when an operator wrote the pin, or as the first time.
func (p *pinner) verify(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	h := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
	got := hex.EncodeToString(h[:])
	p.mu.Lock()
	first := p.pin == ""
	if first {
		p.pin = got
	}
	want := p.pin
	p.mu.Unlock()
	if subtle.ConstantTimeCompare([]byte(got), []byte(want)) != 1 {
		return fmt.Errorf("%w: %s, want %s", bmc.ErrPin, got[:16], want[:min(16, len(want))])
	}
	if first && p.onPin != nil {
		p.onPin(got)
	}
	return nil
}

// governor is the http.RoundTripper of one controller: one request at a time, two a second, bounded bodies.
type governor struct {
	host  string // the controller's: links are its own words, and one like "@elsewhere" would lead away with our credentials
	next  *http.Transport
	turns *govern.Governor
}

func newGovernor(p *pinner, cfg Config) *governor {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return &governor{host: cfg.Address[strings.Index(cfg.Address, "://")+3:], turns: govern.New(cfg.RatePerSec), next: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialLimit)
			defer cancel()
			return dial(ctx, network, addr)
		},
		// Verified by pin, above: a name or a date in a controller's own certificate proves nothing.
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true, VerifyConnection: p.verify, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: dialLimit,
		MaxIdleConns:        1,
		IdleConnTimeout:     20 * time.Second, // many controllers drop idle connections after 30 s, and a POST on such a one is lost
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
	}}
}

// RoundTrip waits for its turn. A 503 is asked again a few times at once: the request was not taken, and a login is two
// requests, of which an overloaded controller may refuse one each time.
func (g *governor) RoundTrip(r *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := g.once(r)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable || try == stormTries {
			return resp, err
		}
		if r.Body != nil && r.Body != http.NoBody {
			if r.GetBody == nil {
				return resp, nil
			}
			body, err := r.GetBody()
			if err != nil {
				return resp, nil
			}
			r = r.Clone(r.Context())
			r.Body = body
		}
		if err := resp.Body.Close(); err != nil {
			return nil, err
		}
		if err := sleep(r.Context(), firstWait); err != nil {
			return nil, err
		}
	}
}

const stormTries = 3

func (g *governor) once(r *http.Request) (*http.Response, error) {
	if r.URL.Host != g.host {
		return nil, fmt.Errorf("cannot ask %.60q: %w: the controller is %s, and its link leads elsewhere", r.URL.Host, bmc.ErrUnsupported, g.host)
	}
	done, err := g.turns.Take(r.Context())
	if err != nil {
		return nil, err
	}
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		done()
		return nil, err
	}
	resp.Body = &body{Reader: io.LimitReader(resp.Body, maxBody), c: resp.Body, done: done}
	return resp, nil
}

// body frees the gate when it is closed.
type body struct {
	io.Reader
	c    io.Closer
	done func()
}

func (b *body) Close() error {
	defer b.done()
	return b.c.Close()
}
