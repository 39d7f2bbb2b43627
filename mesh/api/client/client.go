package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// maxAnswer bounds one JSON answer; 10,000 machines are about 20 MiB.
const maxAnswer = 64 << 20

// Client asks one server.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// New returns a client of the server at base ("https://host:port"). rt carries the trust in the server; token may be empty.
func New(base, token string, rt http.RoundTripper) *Client {
	return &Client{base: strings.TrimSuffix(base, "/"), token: token, http: &http.Client{Transport: rt}}
}

// Problem is an RFC 9457 answer.
type Problem struct {
	Type   string          `json:"type"`
	Title  string          `json:"title"`
	Status int             `json:"status"`
	Detail string          `json:"detail"`
	Errors []ProblemDetail `json:"errors"`
}

// ProblemDetail is one place and what is wrong there. Object is set when several objects were sent.
type ProblemDetail struct {
	Message  string      `json:"message"`
	Location string      `json:"location"`
	Object   *intent.Key `json:"value"`
}

// Error returns detail and places, one a line.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Detail)
	for _, e := range p.Errors {
		b.WriteString("\n  ")
		if e.Object != nil && *e.Object != (intent.Key{}) {
			b.WriteString(e.Object.String() + ": ")
		}
		if e.Location != "" {
			b.WriteString(e.Location + ": ")
		}
		b.WriteString(e.Message)
	}
	return b.String()
}

// Is reports whether err is an answer with that HTTP status.
func Is(err error, status int) bool {
	p, ok := errors.AsType[*Problem](err)
	return ok && p.Status == status
}

// IsType reports whether err is an answer of that problem type, like "elsewhere".
func IsType(err error, name string) bool {
	p, ok := errors.AsType[*Problem](err)
	return ok && strings.HasSuffix(p.Type, "/"+name)
}

func (c *Client) request(ctx context.Context, method, path string, q url.Values, body io.Reader, header http.Header) (*http.Response, error) {
	u := c.base + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, fmt.Errorf("cannot make request: %w", err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", c.base, err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	return nil, c.problem(res)
}

// problem reads a refusal and closes it. What is no RFC 9457 answer, like a gateway's page, is told by its status.
func (c *Client) problem(res *http.Response) *Problem {
	defer res.Body.Close()
	p := &Problem{Status: res.StatusCode, Title: res.Status}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil {
		err = json.Unmarshal(b, p)
	}
	if _, other := errors.AsType[*json.UnmarshalTypeError](err); other { // a value that is no key: the server checked a single field
		err = nil
	}
	if err != nil || p.Detail == "" {
		p.Detail = fmt.Sprintf("%s answered %s", c.base, res.Status)
	}
	p.Status = res.StatusCode
	return p
}

// call sends in as JSON (nil: no body) and decodes the answer into out (nil: ignored).
func (c *Client) call(ctx context.Context, method, path string, q url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("cannot encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	return c.send(ctx, method, path, q, body, nil, out)
}

func (c *Client) send(ctx context.Context, method, path string, q url.Values, body io.Reader, header http.Header, out any) error {
	res, err := c.request(ctx, method, path, q, body, header)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("cannot read answer of %s: %w", c.base, err)
	}
	if out == nil || len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("cannot read answer of %s: %w", c.base, err)
	}
	return nil
}

// stream reads one JSON value a line and calls fn; it ends with the stream, ctx or fn's error.
func stream[T any](res *http.Response, fn func(T) error) error {
	defer res.Body.Close()
	sc := bufio.NewScanner(res.Body)
	sc.Buffer(make([]byte, 64<<10), 2<<20)
	for sc.Scan() {
		var v T
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			return fmt.Errorf("cannot read stream: %w", err)
		}
		if err := fn(v); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("cannot read stream: %w", err)
	}
	return nil
}

// Info asks who answers.
func (c *Client) Info(ctx context.Context) (*api.Info, error) {
	out := &api.Info{}
	return out, c.call(ctx, http.MethodGet, "/v1/info", nil, nil, out)
}

// Whoami asks who we are.
func (c *Client) Whoami(ctx context.Context) (*api.Caller, error) {
	out := &api.Caller{}
	return out, c.call(ctx, http.MethodGet, "/v1/whoami", nil, nil, out)
}

// List returns the objects of a kind; site and project may be empty.
func (c *Client) List(ctx context.Context, info intent.KindInfo, site, project string) ([]*intent.Object, error) {
	q := url.Values{}
	if site != "" {
		q.Set("site", site)
	}
	if project != "" {
		q.Set("project", project)
	}
	var out struct {
		Items []*intent.Object `json:"items"`
	}
	err := c.call(ctx, http.MethodGet, "/v1/"+info.Plural, q, nil, &out)
	return out.Items, err
}

// Get returns one object.
func (c *Client) Get(ctx context.Context, info intent.KindInfo, scope, name string) (*intent.Object, error) {
	out := &intent.Object{}
	if err := c.call(ctx, http.MethodGet, api.CollectionPath(info, scope)+"/"+url.PathEscape(name), nil, nil, out); err != nil {
		return nil, err
	}
	return out, nil
}

func writeQuery(dryRun bool, reason string) url.Values {
	q := url.Values{}
	if dryRun {
		q.Set("dryRun", "true")
	}
	if reason != "" {
		q.Set("reason", reason)
	}
	return q
}

// Apply sends documents, all or none. Each is the JSON of one object.
func (c *Client) Apply(ctx context.Context, docs []json.RawMessage, dryRun bool, reason string) ([]api.Result, error) {
	var out struct {
		Results []api.Result `json:"results"`
	}
	err := c.call(ctx, http.MethodPost, "/v1/apply", writeQuery(dryRun, reason), map[string]any{"objects": docs}, &out)
	return out.Results, err
}

// Delete removes one object.
func (c *Client) Delete(ctx context.Context, info intent.KindInfo, scope, name string, dryRun bool, reason string) ([]api.Result, error) {
	var out struct {
		Results []api.Result `json:"results"`
	}
	err := c.call(ctx, http.MethodDelete, api.CollectionPath(info, scope)+"/"+url.PathEscape(name), writeQuery(dryRun, reason), nil, &out)
	return out.Results, err
}

// Watch calls fn for all objects of a kind ("" = every kind), then for every change.
func (c *Client) Watch(ctx context.Context, kind intent.Kind, fn func(api.Change) error) error {
	q := url.Values{}
	if kind != "" {
		q.Set("kind", string(kind))
	}
	res, err := c.request(ctx, http.MethodGet, "/v1/watch", q, nil, nil)
	if err != nil {
		return err
	}
	return stream(res, fn)
}

// Events calls fn for a site's events.
func (c *Client) Events(ctx context.Context, eq api.EventQuery, fn func(intent.Event) error) error {
	q := url.Values{}
	if eq.Machine != "" {
		q.Set("machine", eq.Machine)
	}
	if !eq.Since.IsZero() {
		q.Set("since", eq.Since.UTC().Format(time.RFC3339Nano))
	}
	if eq.Follow {
		q.Set("follow", "true")
	}
	res, err := c.request(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(eq.Site)+"/events", q, nil, nil)
	if err != nil {
		return err
	}
	return stream(res, fn)
}

// SiteStatus reports one site.
func (c *Client) SiteStatus(ctx context.Context, site string) (*api.SiteStatus, error) {
	out := &api.SiteStatus{}
	return out, c.call(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(site)+"/status", nil, nil, out)
}

func machinePath(site, machine, verb string) string {
	return "/v1/sites/" + url.PathEscape(site) + "/machines/" + url.PathEscape(machine) + "/" + verb
}

// Explain returns the chain behind a machine's state.
func (c *Client) Explain(ctx context.Context, site, machine string) (*api.Explanation, error) {
	out := &api.Explanation{}
	return out, c.call(ctx, http.MethodGet, machinePath(site, machine, "explain"), nil, nil, out)
}

// Receipts lists the receipts of a site's erased machines, or of one ("": all), with what proves their signers.
func (c *Client) Receipts(ctx context.Context, site, machine string) (*erasure.List, error) {
	out := &erasure.List{}
	return out, c.call(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(site)+"/receipts", url.Values{"machine": {machine}}, nil, out)
}

// Power asks for a power change: on, off, cycle, soft-off, status.
func (c *Client) Power(ctx context.Context, site, machine, action string) (*api.PowerResult, error) {
	out := &api.PowerResult{}
	return out, c.call(ctx, http.MethodPost, machinePath(site, machine, "power"), nil, map[string]string{"action": action}, out)
}

// Clear takes a broken or quarantined machine back into service.
func (c *Client) Clear(ctx context.Context, site, machine, reason string) error {
	return c.call(ctx, http.MethodPost, machinePath(site, machine, "clear"), nil, map[string]string{"reason": reason}, nil)
}

// QuarantineMachine keeps a machine out of use until it is cleared.
func (c *Client) QuarantineMachine(ctx context.Context, site, machine, reason string) error {
	return c.call(ctx, http.MethodPost, machinePath(site, machine, "quarantine"), nil, map[string]string{"reason": reason}, nil)
}

// Approve lets a machine be written though no coordinator was heard; the server wants a registered key.
func (c *Client) Approve(ctx context.Context, site, machine, reason string) error {
	return c.call(ctx, http.MethodPost, machinePath(site, machine, "approve"), nil, map[string]string{"reason": reason}, nil)
}

// Release takes a machine back from its instance.
func (c *Client) Release(ctx context.Context, site, machine string) error {
	return c.call(ctx, http.MethodPost, machinePath(site, machine, "release"), nil, nil, nil)
}

// JoinToken makes a single-use token for a new agent.
func (c *Client) JoinToken(ctx context.Context, site string, r api.JoinTokenRequest) (*api.JoinTokenResult, error) {
	out := &api.JoinTokenResult{}
	return out, c.call(ctx, http.MethodPost, "/v1/sites/"+url.PathEscape(site)+"/jointokens", nil, r, out)
}

// UserToken makes a bearer token.
func (c *Client) UserToken(ctx context.Context, user string, r api.UserTokenRequest) (*api.UserTokenResult, error) {
	out := &api.UserTokenResult{}
	return out, c.call(ctx, http.MethodPost, "/v1/users/"+url.PathEscape(user)+"/tokens", nil, r, out)
}

// Upload sends an asset's bytes at once and returns its document. size may be -1. AppendUpload goes on after a cut.
func (c *Client) Upload(ctx context.Context, name, class string, body io.Reader, size int64) (*intent.Object, error) {
	req, err := c.bytes(ctx, http.MethodPut, "/v1/assets/"+url.PathEscape(name)+"/content?class="+url.QueryEscape(class), body, size)
	if err != nil {
		return nil, err
	}
	out := &intent.Object{}
	return out, c.sendBytes(req, out)
}

// bytes makes a request whose body is no JSON, of size octets; -1: until body ends.
func (c *Client) bytes(ctx context.Context, method, path string, body io.Reader, size int64) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot make request: %w", err)
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/octet-stream")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

func (c *Client) sendBytes(req *http.Request, out any) error {
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("cannot upload to %s: %w", c.base, err)
	}
	if res.StatusCode >= 300 {
		return c.problem(res)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		return fmt.Errorf("cannot read answer of %s: %w", c.base, err)
	}
	return nil
}

// Revoke takes an identity away for ever.
func (c *Client) Revoke(ctx context.Context, r api.RevokeRequest) (*api.RevokeResult, error) {
	out := &api.RevokeResult{}
	return out, c.call(ctx, http.MethodPost, "/v1/revocations", nil, r, out)
}

// Revocations lists what is revoked.
func (c *Client) Revocations(ctx context.Context) (*api.RevocationList, error) {
	out := &api.RevocationList{}
	return out, c.call(ctx, http.MethodGet, "/v1/revocations", nil, nil, out)
}

// Quarantine cuts an agent off at its site, or lets it back; the server is an agent of that site.
func (c *Client) Quarantine(ctx context.Context, site, agent string, r api.QuarantineRequest) (*api.QuarantineResult, error) {
	out := &api.QuarantineResult{}
	return out, c.call(ctx, http.MethodPost, "/v1/sites/"+url.PathEscape(site)+"/agents/"+url.PathEscape(agent)+"/quarantine", nil, r, out)
}

// Put creates or changes one object, if it still has the version that it was read with; an object without uid must be new.
func (c *Client) Put(ctx context.Context, o *intent.Object, dryRun bool, reason string) ([]api.Result, error) {
	info, ok := o.Kind.Info()
	if !ok {
		return nil, fmt.Errorf("cannot put a %s: unknown kind", o.Kind)
	}
	condition, tag := "If-None-Match", "*"
	if o.Metadata.UID != "" {
		condition, tag = "If-Match", api.ETag(o)
	}
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("cannot encode request: %w", err)
	}
	var out struct {
		Results []api.Result `json:"results"`
	}
	path := api.CollectionPath(info, o.Key().Scope) + "/" + url.PathEscape(o.Metadata.Name)
	err = c.send(ctx, http.MethodPut, path, writeQuery(dryRun, reason), bytes.NewReader(b), http.Header{condition: {tag}}, &out)
	return out.Results, err
}

// Audit calls fn for the lines of the audit chains that q selects; with q.Follow it goes on until ctx ends.
func (c *Client) Audit(ctx context.Context, q api.AuditQuery, fn func(api.AuditLine) error) error {
	v := url.Values{}
	for name, s := range map[string]string{"site": q.Site, "user": q.User} {
		if s != "" {
			v.Set(name, s)
		}
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	for name, on := range map[string]bool{"follow": q.Follow, "proofs": q.Proofs} {
		if on {
			v.Set(name, "true")
		}
	}
	res, err := c.request(ctx, http.MethodGet, "/v1/audit", v, nil, nil)
	if err != nil {
		return err
	}
	return stream(res, fn)
}

// Proposals lists what a site changed by itself and waits for a person.
func (c *Client) Proposals(ctx context.Context, site string) ([]api.Proposal, error) {
	var out api.ProposalList
	err := c.call(ctx, http.MethodGet, "/v1/sites/"+url.PathEscape(site)+"/proposals", nil, nil, &out)
	return out.Items, err
}

// Settle decides on one of them.
func (c *Client) Settle(ctx context.Context, site, id string, r api.DecisionRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/sites/"+url.PathEscape(site)+"/proposals/"+url.PathEscape(id), nil, r, nil)
}
