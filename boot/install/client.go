package install

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/inventory"

	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

const (
	// firstPause and maxPause bound the wait between tries: a rack that comes back after a power cut must not flood two agents.
	firstPause = 500 * time.Millisecond
	maxPause   = 30 * time.Second
	// callTimeout is how long one agent may take to answer anything but a long poll; a live one answers in milliseconds.
	callTimeout = 10 * time.Second
	// dialTimeout tells a dead agent from a slow one: a live one on the boot network answers a SYN within a millisecond.
	dialTimeout = 5 * time.Second
	// giveUp is how long nobody may answer before an idle machine boots anew: a changed site may have other agents (boot.md section 6).
	giveUp = 10 * time.Minute
	// replyLimit bounds an answer: work with a NoCloud seed of at most 4 files of 1 MiB, base64 nowhere.
	replyLimit = 5 << 20
)

// ClientConfig says how to reach the site.
type ClientConfig struct {
	Agents []string // host:port, tried in order
	Pins   []string // hex SHA-256 of the PKIX DER of each server key that is trusted, any order
	Token  string
	Log    *slog.Logger
}

// Client speaks /install/v1 and outlives the loss of agents: every call is tried at one agent after the other, for ever,
// until ctx ends or an agent gives an answer that another one would give too. It is not safe for concurrent calls, except
// SendLog and Report beside a long poll.
type Client struct {
	token string
	log   *slog.Logger
	http  *http.Client

	mu      sync.Mutex // guards what follows
	agents  []string
	pins    map[string]bool
	at      int // agent that answered last
	session string
}

// NewClient checks the configuration. Errors: no agent, a pin that is not 64 hex digits.
func NewClient(cfg ClientConfig) (*Client, error) {
	if len(cfg.Agents) == 0 {
		return nil, errors.New("cannot reach a site: no agents given")
	}
	c := &Client{token: cfg.Token, log: cfg.Log, agents: cfg.Agents, pins: map[string]bool{}}
	for _, p := range cfg.Pins {
		if b, err := hex.DecodeString(p); err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("cannot use pin %q: want 64 hex digits", p)
		}
		c.pins[strings.ToLower(p)] = true
	}
	c.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: []string{"http/1.1"},
			// The key is pinned in VerifyConnection: in the ramdisk there is no clock and no root to check a chain with.
			InsecureSkipVerify: true, VerifyConnection: c.verify,
		},
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, TLSHandshakeTimeout: dialTimeout,
		IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 2,
	}}
	return c, nil
}

// Pin returns the pin of a certificate's key, as ClientConfig and Agent hold it.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func (c *Client) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("cannot verify agent: no certificate")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := Pin(cs.PeerCertificates[0]); !c.pins[p] {
		return fmt.Errorf("cannot verify agent: its key %s is not pinned", p)
	}
	return nil
}

// learn replaces the agents by those which the site named; pins are added.
func (c *Client) learn(agents []Agent) {
	if len(agents) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	current := c.agents[c.at]
	c.agents, c.at = nil, 0
	for _, a := range agents {
		if a.Addr == current {
			c.at = len(c.agents)
		}
		c.agents = append(c.agents, a.Addr)
		c.pins[strings.ToLower(a.Pin)] = true
	}
}

// Hello opens the session, once: afterwards it returns an error, for a second hello with one token is an alarm at the site.
// Errors: ErrToken, ErrTokenReused, ctx.
func (c *Client) Hello(ctx context.Context, h Hello) (Session, error) {
	if c.sessionID() != "" {
		return Session{}, errors.New("cannot say hello twice")
	}
	h.Token, h.Nonce = c.token, crand.Text()
	var s Session
	if err := c.call(ctx, http.MethodPost, "hello", h, &s, callTimeout, giveUp); err != nil {
		return Session{}, err
	}
	if s.ID == "" {
		return Session{}, errors.New("cannot use an empty session id")
	}
	c.mu.Lock()
	c.session = s.ID
	c.mu.Unlock()
	c.learn(s.Agents)
	return s, nil
}

// Inventory sends the whole report.
func (c *Client) Inventory(ctx context.Context, r *inventory.Report) error {
	return c.call(ctx, http.MethodPut, "inventory", r, nil, callTimeout, giveUp)
}

// Work waits for an order, at most 25 s at one agent, then asks again; it returns WorkWait never.
func (c *Client) Work(ctx context.Context) (Work, error) {
	for {
		var w Work
		at := time.Now()
		if err := c.call(ctx, http.MethodGet, "work?wait=25", nil, &w, maxWait+callTimeout, giveUp); err != nil {
			return Work{}, err
		}
		if w.Kind != WorkWait {
			return w, nil
		}
		if time.Since(at) < time.Second { // a site that does not wait must not be hammered
			if err := pause(ctx, time.Second); err != nil {
				return Work{}, err
			}
		}
	}
}

// Permit asks for a permission. Errors: ErrStale.
func (c *Client) Permit(ctx context.Context, r PermissionRequest) (PermissionEnvelope, error) {
	var p PermissionEnvelope
	err := c.call(ctx, http.MethodPost, "permission", r, &p, callTimeout, 0)
	return p, err
}

// Report sends progress to one agent and does not insist: the next one follows in 5 s.
func (c *Client) Report(ctx context.Context, p Progress) (Control, error) {
	var ctl Control
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := c.once(ctx, http.MethodPost, "progress", p, &ctl)
	if err == nil {
		c.learn(ctl.Agents)
	} else if retriable(err) {
		c.next()
	}
	return ctl, err
}

// SendLog sends lines to one agent and does not insist: the console has them too.
func (c *Client) SendLog(ctx context.Context, lines []LogLine) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.once(ctx, http.MethodPost, "log", lines, nil)
}

// Receipt hands in the proof of an erasure, until an agent signed for it. Errors: ErrStale.
func (c *Client) Receipt(ctx context.Context, p erasure.Proof) (ReceiptPlace, error) {
	var at ReceiptPlace
	err := c.call(ctx, http.MethodPost, "receipt", p, &at, callTimeout, 0)
	return at, err
}

// Done reports the end of a task, until an agent took it.
func (c *Client) Done(ctx context.Context, d Done) error {
	return c.call(ctx, http.MethodPost, "done", d, nil, callTimeout, 0)
}

func (c *Client) sessionID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// next turns to the following agent.
func (c *Client) next() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = (c.at + 1) % len(c.agents)
}

// call tries once after once. All agents are asked before the first pause; pauses grow to 30 s with jitter. limit bounds
// the whole, 0 = for ever. Errors: ErrUnreachable after limit.
func (c *Client) call(ctx context.Context, method, path string, in, out any, timeout, limit time.Duration) error {
	wait, begun := firstPause, time.Now()
	for tries := 1; ; tries++ {
		octx, cancel := context.WithTimeout(ctx, timeout)
		err := c.once(octx, method, path, in, out)
		cancel()
		if err == nil || !retriable(err) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("cannot call %s: %w", path, ctx.Err())
		}
		if limit > 0 && time.Since(begun) > limit {
			return fmt.Errorf("cannot call %s: %w: %w", path, ErrUnreachable, err)
		}
		c.log.Warn("agent does not answer", "path", path, "err", err, "try", tries)
		c.next()
		c.mu.Lock()
		round := tries%len(c.agents) == 0
		c.mu.Unlock()
		if !round {
			continue
		}
		if err := pause(ctx, wait/2+rand.N(wait/2)); err != nil {
			return fmt.Errorf("cannot call %s: %w", path, err)
		}
		wait = min(2*wait, maxPause)
	}
}

// retriable tells errors of one agent from answers of the site.
func retriable(err error) bool {
	for _, final := range []error{ErrToken, ErrTokenReused, ErrSession, ErrStale, ErrBadRequest} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}

func (c *Client) once(ctx context.Context, method, path string, in, out any) error {
	c.mu.Lock()
	agent, session := c.agents[c.at], c.session
	c.mu.Unlock()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("cannot encode %s: %w: %w", path, ErrBadRequest, err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+agent+"/install/v1/"+path, body)
	if err != nil {
		return fmt.Errorf("cannot call %s: %w", path, err)
	}
	if session != "" {
		r.Header.Set("Authorization", "Bearer "+session)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("cannot call %s: %w", path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, replyLimit+1))
	if err != nil || len(b) > replyLimit {
		return fmt.Errorf("cannot read answer of %s to %s, %d octets: %w", agent, path, len(b), err)
	}
	if resp.StatusCode != http.StatusOK {
		return remoteError(agent, path, resp.StatusCode, b)
	}
	if out == nil {
		return nil
	}
	// Unknown fields are let pass here: an agent may be newer than the ramdisk that it serves.
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("cannot read answer of %s to %s: %w", agent, path, err)
	}
	return nil
}

func remoteError(agent, path string, status int, b []byte) error {
	var e errorBody
	_ = json.Unmarshal(b, &e) // a proxy's HTML leaves it empty
	for _, w := range wireErrors() {
		if w.status == status && w.code == e.Code {
			return fmt.Errorf("cannot %s: %w: %s", path, w.err, e.Error)
		}
	}
	return fmt.Errorf("cannot call %s: %s answers %d %s", path, agent, status, e.Error)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
