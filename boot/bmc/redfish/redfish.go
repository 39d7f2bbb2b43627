package redfish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/govern"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Config of one controller.
type Config struct {
	Address  string // host or host:port; https. With a scheme it is taken as it is (tests use http://)
	User     string
	Password string
	Pin      string // hex SHA-256 of the TLS key's SPKI; "" takes the first one seen
	Site     string // our site's id: part of the fence
	Logger   *slog.Logger
	OnPin    func(pin string) // told the first key seen; may be nil
	// RatePerSec is how many requests a second the controller gets at most; zero takes 2. Simulators stand more.
	RatePerSec float64
	// Dial opens connections; nil: this machine's network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

const (
	firstWait = 500 * time.Millisecond // between two tries of a busy controller; doubled up to lastWait
	lastWait  = 5 * time.Second
	maxTries  = 40              // with the waits above about three minutes: POST of a large machine
	authRest  = 5 * time.Minute // at most two wrong logins in ten minutes (boot.md section 4)
)

// Controller is a bmc.Controller. New makes it; it connects when it is first used.
type Controller struct {
	cfg Config
	gov *governor

	mu       sync.Mutex // guards what follows; no I/O under it
	client   *gofish.APIClient
	path     string // of the ComputerSystem
	caps     bmc.Caps
	probed   bool // caps.Fence is known
	bare     bool // quirk etag-bare
	authFail time.Time
	password string // that it logs in with: SetPassword changes it

	login chan struct{} // one login at a time
}

var (
	_ bmc.Controller = (*Controller)(nil)
	_ bmc.Reader     = (*Controller)(nil)
)

// New checks the configuration and does no I/O.
func New(cfg Config) (*Controller, error) {
	if cfg.Address == "" || cfg.User == "" || cfg.Logger == nil {
		return nil, fmt.Errorf("cannot use controller: address, user or logger is missing")
	}
	if !strings.Contains(cfg.Address, "://") {
		if a, err := netip.ParseAddr(cfg.Address); err == nil && a.Is6() {
			cfg.Address = "[" + cfg.Address + "]"
		}
		cfg.Address = "https://" + cfg.Address
	}
	p := &pinner{pin: strings.ToLower(cfg.Pin), onPin: cfg.OnPin}
	return &Controller{cfg: cfg, password: cfg.Password, gov: newGovernor(p, cfg), login: make(chan struct{}, 1)}, nil
}

// Caps returns what is known so far.
func (c *Controller) Caps() bmc.Caps {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caps
}

// session returns the client, logged in. One session per controller: many have eight in all.
func (c *Controller) session(ctx context.Context) (*gofish.APIClient, error) {
	if ctx.Value(changing{}) == nil {
		done, err := c.alone(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	c.mu.Lock()
	cl, failed := c.client, c.authFail
	c.mu.Unlock()
	if cl != nil {
		return cl, nil
	}
	if !failed.IsZero() && time.Since(failed) < authRest {
		return nil, fmt.Errorf("cannot log in: %w: tried %v ago", bmc.ErrAuth, time.Since(failed).Round(time.Second))
	}
	err := retry(ctx, func() error {
		rctx, cancel := context.WithTimeout(ctx, requestLimit)
		defer cancel()
		var err error
		cl, err = gofish.ConnectContext(rctx, gofish.ClientConfig{
			Endpoint: c.cfg.Address, Username: c.cfg.User, Password: c.credential(),
			HTTPClient: &http.Client{Transport: c.gov, CheckRedirect: noRedirect}, NoModifyTransport: true, ReuseConnections: true,
		})
		return classify(err, c.credential())
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, bmc.ErrAuth) {
		c.authFail = time.Now()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot log in to %s: %w", c.cfg.Address, err)
	}
	c.client = cl
	return cl, nil
}

// changing marks the requests of who holds alone already.
type changing struct{}

// alone waits for its turn to log in; while it lasts nobody else does.
func (c *Controller) alone(ctx context.Context) (done func(), err error) {
	select {
	case c.login <- struct{}{}:
		return func() { <-c.login }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// noRedirect: a controller that sends us elsewhere would get our token there.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// drop forgets a session that the controller no longer knows.
func (c *Controller) drop(cl *gofish.APIClient) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == cl {
		c.client = nil
	}
}

// errBusy marks an answer that is worth another try.
var errBusy = fmt.Errorf("%w", bmc.ErrBusy)

// statusError keeps the status for those who branch on it.
type statusError struct {
	status int
	id     string // MessageId of the first extended info, or code
	text   string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d %s: %.200s", e.status, e.id, e.text) }

// classify turns gofish's errors into ours. Passwords are taken out of what the controller says: some quote the value that they refuse.
func classify(err error, passwords ...string) error {
	var e *schemas.Error
	if err == nil || !errors.As(err, &e) {
		return err
	}
	s := &statusError{status: e.HTTPReturnedStatusCode, id: e.Code, text: e.Message}
	if len(e.ExtendedInfos) > 0 {
		s.id, s.text = e.ExtendedInfos[0].MessageID, e.ExtendedInfos[0].Message
	}
	for _, p := range passwords {
		if p != "" {
			s.id, s.text = strings.ReplaceAll(s.id, p, "***"), strings.ReplaceAll(s.text, p, "***")
		}
	}
	switch {
	case s.status == http.StatusUnauthorized || s.status == http.StatusForbidden:
		return fmt.Errorf("%w: %w", bmc.ErrAuth, s)
	case s.status == http.StatusNotFound || s.status == http.StatusMethodNotAllowed || s.status == http.StatusNotImplemented:
		return fmt.Errorf("%w: %w", bmc.ErrUnsupported, s)
	case s.status == http.StatusConflict, s.status == http.StatusServiceUnavailable, s.status == http.StatusTooManyRequests,
		strings.Contains(s.id, "UnableToModifyDuringSystemPOST"), strings.Contains(s.id, "NodeBusy"), strings.Contains(s.id, "ResourceInUse"):
		return fmt.Errorf("%w: %w", errBusy, s)
	}
	return s
}

func status(err error) int {
	var s *statusError
	if errors.As(err, &s) {
		return s.status
	}
	return 0
}

// retry calls fn until it returns something else than busy, the context ends, or maxTries.
func retry(ctx context.Context, fn func() error) error {
	wait := firstWait
	for try := 1; ; try++ {
		err := fn()
		if !errors.Is(err, bmc.ErrBusy) || try == maxTries {
			return err
		}
		if serr := sleep(ctx, wait); serr != nil {
			return errors.Join(err, serr)
		}
		wait = min(2*wait, lastWait)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// do sends one request, retried while the controller is busy, with one new login when the session has ended.
// Errors: bmc.ErrAuth, ErrBusy, ErrUnsupported, ErrUnknown (a write whose answer was lost), *statusError.
func (c *Controller) do(ctx context.Context, method, path string, payload any, header map[string]string) (body []byte, etag string, err error) {
	relogin, lost := true, 0
	err = retry(ctx, func() error {
		cl, err := c.session(ctx)
		if err != nil {
			return err
		}
		rctx, cancel := context.WithTimeout(ctx, requestLimit)
		defer cancel()
		body, etag, err = send(cl.WithContext(rctx), method, path, payload, header)
		switch {
		case errors.Is(err, bmc.ErrAuth) && relogin:
			relogin = false
			c.drop(cl)
			return fmt.Errorf("%w: session ended: %w", errBusy, err)
		case err == nil || status(err) != 0 || errors.Is(err, bmc.ErrPin) || errors.Is(err, bmc.ErrUnsupported):
			return err
		case ctx.Err() != nil:
			return errors.Join(bmc.ErrUnknown, ctx.Err())
		case method != http.MethodGet:
			return errors.Join(bmc.ErrUnknown, err) // perhaps done: the caller reads back
		}
		if lost++; lost < 3 {
			return fmt.Errorf("%w: %w", errBusy, err)
		}
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("cannot %s %s: %w", method, path, err)
	}
	return body, etag, nil
}

func send(cl *gofish.APIClient, method, path string, payload any, header map[string]string) ([]byte, string, error) {
	var resp *http.Response
	var err error
	switch method {
	case http.MethodGet:
		resp, err = cl.GetWithHeaders(path, header)
	case http.MethodPatch:
		resp, err = cl.PatchWithHeaders(path, payload, header)
	case http.MethodPost:
		resp, err = cl.PostWithHeaders(path, payload, header)
	default:
		return nil, "", fmt.Errorf("cannot send %s", method)
	}
	if err != nil {
		change, _ := payload.(passwordChange)
		return nil, "", classify(err, change.Password)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, "", err
	}
	return b, resp.Header.Get("ETag"), nil
}

// get reads a resource into v.
func (c *Controller) get(ctx context.Context, path string, v any) (etag string, err error) {
	b, etag, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return "", fmt.Errorf("cannot read %s: %w", path, err)
	}
	return etag, nil
}

// Get implements bmc.Reader.
func (c *Controller) Get(ctx context.Context, path string) ([]byte, error) {
	if !strings.HasPrefix(path, "/redfish/") {
		return nil, fmt.Errorf("cannot read %.80q: %w: it is no path of this controller", path, bmc.ErrUnsupported)
	}
	b, _, err := c.do(govern.Behind(ctx), http.MethodGet, path, nil, nil)
	return b, err
}

// Close deletes the session on the controller and closes connections. It is safe to use the Controller again: it logs in anew.
func (c *Controller) Close(ctx context.Context) error {
	c.mu.Lock()
	cl := c.client
	c.client = nil
	c.mu.Unlock()
	defer c.gov.next.CloseIdleConnections()
	if cl == nil {
		return nil
	}
	s, err := cl.GetSession()
	if err != nil {
		return nil // never logged in
	}
	err = retry(ctx, func() error {
		rctx, cancel := context.WithTimeout(ctx, requestLimit)
		defer cancel()
		return classify(cl.WithContext(rctx).Service.DeleteSession(s.ID))
	})
	if err != nil && !errors.Is(err, bmc.ErrAuth) && !errors.Is(err, bmc.ErrUnsupported) { // gone already
		return fmt.Errorf("cannot end session at %s: %w", c.cfg.Address, err)
	}
	return nil
}

// allowed checks a claim against the fence that the device shows.
func (c *Controller) allowed(s *system, cl intent.Claim) error {
	if e, ours := c.parseTag(s.AssetTag); ours && cl.Epoch.Compare(e) < 0 {
		return fmt.Errorf("cannot write with claim epoch %s: %w: device holds %s", cl.Epoch, bmc.ErrFenced, e)
	}
	return nil
}
