package api

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/api/discovery"
	"github.com/skerry-metal/skerry/mesh/api/telemetry"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// memory is a Backend that keeps everything in a catalog: what the API does beside its backend is seen plainly.
type memory struct {
	mu        sync.Mutex // guards what follows
	c         *intent.Catalog
	rev       uint64
	wake      chan struct{}
	batches   []Batch
	proposals []Proposal
	calls     []string
	feed      []*intent.Envelope
	fail      error
	revoked   []intent.Revocation
	notes     []intent.AuditRecord
	chains    []AuditLine
}

func newMemory(objects ...*intent.Object) *memory {
	return &memory{c: intent.NewCatalog(objects...), rev: 1, wake: make(chan struct{})}
}

func (m *memory) call(format string, args ...any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
	return m.fail
}

func (m *memory) change(fn func(c *intent.Catalog)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.c.Clone()
	fn(c)
	m.c, m.rev = c, m.rev+1
	close(m.wake)
	m.wake = make(chan struct{})
}

func (m *memory) Now() time.Time { return time.Now() }

func (m *memory) Describe() Info {
	return Info{Role: "coordinator", ID: "c1", Domain: "edge.example", Version: "0"}
}

func (m *memory) Snapshot(context.Context) (*intent.Catalog, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.c, m.rev, nil
}

func (m *memory) Changed(ctx context.Context, since uint64) (uint64, error) {
	for {
		m.mu.Lock()
		rev, wake := m.rev, m.wake
		m.mu.Unlock()
		if rev > since {
			return rev, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (m *memory) Apply(_ context.Context, _ Caller, b Batch) ([]Result, error) {
	m.mu.Lock()
	m.batches = append(m.batches, b)
	c, fail := m.c, m.fail
	m.mu.Unlock()
	if fail != nil {
		return nil, fail
	}
	var out []Result
	for k, want := range b.IfMatch {
		if o := c.Get(k); o == nil || (want != "*" && want != ETag(o)) {
			return nil, ErrPrecondition
		}
	}
	for k := range b.IfNone {
		if c.Get(k) != nil {
			return nil, ErrPrecondition
		}
	}
	for _, o := range b.Put {
		action, rev := "created", uint64(1)
		if old := c.Get(o.Key()); old != nil {
			action, rev = "changed", old.Metadata.Rev+1
		}
		o.Metadata.UID, o.Metadata.Rev = "u-"+o.Metadata.Name, rev
		out = append(out, Result{Object: o.Key(), Action: action, UID: o.Metadata.UID, Rev: rev})
	}
	for _, k := range b.Delete {
		out = append(out, Result{Object: k, Action: "deleted"})
	}
	if !b.DryRun {
		m.change(func(c *intent.Catalog) {
			for _, o := range b.Put {
				c.Put(o)
			}
			for _, k := range b.Delete {
				c.Delete(k)
			}
		})
	}
	return out, nil
}

func (m *memory) Events(_ context.Context, q EventQuery, fn func(intent.Event) error) error {
	if err := m.call("events %s %s %v %s", q.Site, q.Machine, q.Follow, q.Since.UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	return fn(intent.Event{Site: q.Site, Type: "machine.boot.dhcp", Machine: "m1", Message: "hello"})
}

func (m *memory) Approve(_ context.Context, by Caller, site, machine, reason string) error {
	return m.call("approve %s %s %q by %s", site, machine, reason, by.User)
}

func (m *memory) ExportStick(_ context.Context, w io.Writer, q StickQuery) error {
	if err := m.call("export stick %s from %d, audit %v", q.Site, q.From, q.Audit); err != nil {
		return err
	}
	_, err := io.WriteString(w, "stick of "+q.Site)
	return err
}

func (m *memory) ImportStick(_ context.Context, by Caller, site string, r io.Reader, dryRun bool) (*StickResult, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return &StickResult{Site: site, DryRun: dryRun}, m.call("import stick %s %q %v by %s", site, b, dryRun, by.User)
}

func (m *memory) IntentStatus(_ context.Context, site string) (*IntentStatus, error) {
	return &IntentStatus{By: "c1"}, m.call("intent status %s", site)
}

func (m *memory) SiteStatus(_ context.Context, site string) (*SiteStatus, error) {
	return &SiteStatus{Site: site, Reachable: "yes", Machines: map[string]int{"running": 1}}, m.call("status %s", site)
}

func (m *memory) Traffic(_ context.Context, site string, q telemetry.TrafficQuery) (*telemetry.TrafficAnswer, error) {
	a := &telemetry.TrafficAnswer{Missing: []string{"s2"}}
	for _, p := range []string{"", "acme", "evil"} {
		if q.Projects == nil || slices.Contains(q.Projects, p) {
			a.Rows = append(a.Rows, telemetry.TrafficRow{Project: p, Direction: "in", Bytes: 1000, Flags: []string{}})
		}
	}
	return a, m.call("traffic %s by %v", site, q.By)
}

func (m *memory) Top(_ context.Context, site string, q telemetry.TopQuery) (*telemetry.TopFrame, error) {
	f := &telemetry.TopFrame{By: q.By}
	for _, p := range []string{"", "acme", "evil"} {
		if q.Projects == nil || slices.Contains(q.Projects, p) {
			f.Rows = append(f.Rows, telemetry.TopRow{Project: p, Direction: "in", Bytes: 1000})
		}
	}
	return f, m.call("top %s by %s", site, q.By)
}

func (m *memory) Receipts(_ context.Context, site, _ string) (*erasure.List, error) {
	return &erasure.List{Site: site, Receipts: []*intent.Envelope{}, Rosters: []*intent.Envelope{}}, nil
}

func (m *memory) Explain(_ context.Context, site, machine string) (*Explanation, error) {
	return &Explanation{Site: site, Machine: machine}, m.call("explain %s %s", site, machine)
}

func (m *memory) Discovered(_ context.Context, site, id string) (*discovery.Found, error) {
	return &discovery.Found{Site: site}, m.call("discovered %s %s", site, id)
}

func (m *memory) Ignore(_ context.Context, by Caller, site, id, reason string) error {
	return m.call("ignore %s %s by %s: %s", site, id, by.User, reason)
}

func (m *memory) Power(_ context.Context, by Caller, site, machine, action string) (*PowerResult, error) {
	return &PowerResult{Machine: machine, Power: action, Effect: "readback"}, m.call("power %s %s %s by %s", site, machine, action, by.User)
}

func (m *memory) Clear(_ context.Context, by Caller, site, machine, reason string) error {
	return m.call("clear %s %s %s by %s", site, machine, reason, by.User)
}

func (m *memory) QuarantineMachine(_ context.Context, by Caller, site, machine, reason string) error {
	return m.call("quarantine %s %s %s by %s", site, machine, reason, by.User)
}

func (m *memory) Release(_ context.Context, by Caller, site, machine string) error {
	return m.call("release %s %s by %s", site, machine, by.User)
}

func (m *memory) JoinToken(_ context.Context, by Caller, site string, r JoinTokenRequest) (*JoinTokenResult, error) {
	return &JoinTokenResult{Token: "skj1.x"}, m.call("jointoken %s %s %s by %s", site, r.Agent, r.TTL, by.User)
}

func (m *memory) UserToken(_ context.Context, by Caller, user string, r UserTokenRequest) (*UserTokenResult, error) {
	return &UserTokenResult{ID: "t", Token: "sku1.x"}, m.call("usertoken %s %s by %s", user, r.TTL, by.User)
}

func (m *memory) BeginUpload(_ context.Context, by Caller, r assets.UploadRequest) (*assets.Upload, error) {
	return &assets.Upload{ID: "u1", Name: r.Name, State: assets.Open}, m.call("begin %s by %s", r.Name, by.User)
}

// AppendUpload knows one upload, which stands at octet 7 and takes three more.
func (m *memory) AppendUpload(_ context.Context, id string, offset uint64, body *assets.Body) (*assets.Upload, error) {
	s := &assets.Upload{ID: id, Offset: 7}
	if offset != 7 {
		return s, Refuse("elsewhere")
	}
	b, err := io.ReadAll(body)
	s.Offset += uint64(len(b))
	return s, errors.Join(err, m.call("append %s %d %s", id, offset, b))
}

func (m *memory) PublishUpload(_ context.Context, by Caller, id string) (*intent.Object, error) {
	return &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindAsset, Metadata: intent.Metadata{Name: id}, Spec: &intent.AssetSpec{}}, m.call("publish %s by %s", id, by.User)
}

func (m *memory) DropUpload(_ context.Context, by Caller, id string) (*assets.Upload, error) {
	return &assets.Upload{ID: id}, m.call("drop %s by %s", id, by.User)
}

func (m *memory) CollectAssets(_ context.Context, dryRun bool) (*assets.Collection, error) {
	return &assets.Collection{DryRun: dryRun}, m.call("collect %v", dryRun)
}

func (m *memory) UploadStatus(_ context.Context, id string) (*assets.Upload, error) {
	return &assets.Upload{ID: id}, m.call("upload %s", id)
}

func (m *memory) ListUploads(context.Context) (*assets.UploadList, error) {
	return &assets.UploadList{Items: []assets.Upload{}}, m.call("uploads")
}

func (m *memory) Upload(_ context.Context, by Caller, name, class string, body io.Reader) (*intent.Object, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	o := &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindAsset, Metadata: intent.Metadata{Name: name, UID: "u", Rev: 1}, Spec: &intent.AssetSpec{Class: class, Size: uint64(len(b)), Digest: intent.DigestOf(b), Manifest: intent.DigestOf(b)}}
	return o, m.call("upload %s %s %d by %s", name, class, len(b), by.User)
}

func (m *memory) Revoked(kind intent.RevocationKind, id string) bool {
	return slices.ContainsFunc(m.revoked, func(r intent.Revocation) bool { return r.Kind == kind && r.ID == id })
}

func (m *memory) Revoke(_ context.Context, _ Caller, r RevokeRequest) (*RevokeResult, error) {
	m.revoked = append(m.revoked, intent.Revocation{Kind: intent.RevocationKind(r.Kind), ID: r.ID, Reason: r.Reason})
	return &RevokeResult{Entries: m.revoked}, nil
}

func (m *memory) AddTrust(context.Context, Caller, *intent.Envelope) (*TrustResult, error) {
	return &TrustResult{}, nil
}

func (m *memory) AcceptTrust(_ context.Context, by Caller, r AcceptRequest) (*AcceptResult, error) {
	return &AcceptResult{Changes: []string{}}, m.call("accept %s at %q by %s", r.Digest, r.Site, by.User)
}

func (m *memory) RotateSecrets(context.Context, Caller, string, SecretRotation) (*SecretStatus, error) {
	return nil, ErrElsewhere
}

func (m *memory) SecretStatus(context.Context, string) (*SecretStatus, error) {
	return nil, ErrElsewhere
}

func (m *memory) KeyStatus(context.Context) (*KeyStatus, error) { return &KeyStatus{}, nil }

func (m *memory) Rotate(_ context.Context, by Caller, r RotateRequest) (*RotationStatus, error) {
	return &RotationStatus{What: r.What, Phase: PhaseDone}, m.call("rotate %s of %s/%s by %s", r.What, r.Site, r.Agent, by.User)
}

func (m *memory) Rotations(context.Context) (*RotationList, error) { return &RotationList{}, nil }

func (m *memory) Revocations(context.Context) (*RevocationList, error) {
	return &RevocationList{Entries: m.revoked, Agents: []RevocationSeen{}}, m.call("revocations")
}

func (m *memory) Quarantine(_ context.Context, by Caller, site, agent string, r QuarantineRequest) (*QuarantineResult, error) {
	return &QuarantineResult{Agent: site + "/" + agent, On: r.On, N: 1, Agents: []string{}}, m.call("quarantine %s %s by %s", site, agent, by.User)
}

func (m *memory) Audit(_ context.Context, site string, fn func(AuditLine) error) error {
	if err := m.call("audit %s", site); err != nil {
		return err
	}
	for _, l := range m.chains {
		if err := fn(l); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Note(_ context.Context, r intent.AuditRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notes = append(m.notes, r)
	return nil
}

func (m *memory) Proposals(context.Context, string) ([]Proposal, error) { return m.proposals, nil }

func (m *memory) Settle(_ context.Context, by Caller, site, id string, r DecisionRequest) error {
	m.calls = append(m.calls, fmt.Sprintf("settle %s/%s %s by %s", site, id, r.Decision, by.User))
	return nil
}

func (m *memory) Admit(context.Context, string, *intent.Envelope) error {
	return Refuse("not an admission of this site's spare")
}

func (m *memory) IntentFeed(_ context.Context, site string, from uint64, fn func(*intent.Envelope) error) error {
	m.mu.Lock()
	feed, fail := m.feed, m.fail
	m.mu.Unlock()
	if fail != nil {
		return fail
	}
	for i, e := range feed {
		if uint64(i+1) >= from {
			if err := fn(e); err != nil {
				return err
			}
		}
	}
	return nil
}

var _ Backend = (*memory)(nil)

// scene is an API over memory with one user per role; tokens holds their bearer tokens.
type scene struct {
	t      *testing.T
	m      *memory
	api    *API
	tokens map[string]string            // by user
	certs  map[string]*x509.Certificate // by user
}

func object(t testing.TB, text string) *intent.Object {
	t.Helper()
	o, err := intent.DecodeObject([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	o.Metadata.UID, o.Metadata.Rev = "u-"+o.Metadata.Name, 1
	return o
}

const (
	docSite    = `{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1"},"spec":{"region":"eu","zone":"z"}}`
	docProject = `{"apiVersion":"skerry/v1","kind":"Project","metadata":{"name":"acme"},"spec":{"sites":["lon1"]}}`
	docForeign = `{"apiVersion":"skerry/v1","kind":"Project","metadata":{"name":"evil"},"spec":{"sites":["lon1"]}}`
	docInfra   = `{"apiVersion":"skerry/v1","kind":"Infrastructure","metadata":{"name":"shop","project":"acme","site":"lon1"},"spec":{}}`
	docOther   = `{"apiVersion":"skerry/v1","kind":"Infrastructure","metadata":{"name":"lair","project":"evil","site":"lon1"},"spec":{}}`
	docSecret  = `{"apiVersion":"skerry/v1","kind":"Secret","metadata":{"name":"bmc","site":"lon1"},"spec":{"type":"opaque","data":{"k":"hunter2"}}}`
	docMachine = `{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m1","site":"lon1"},"spec":{"nics":[{"mac":"52:54:00:00:00:01"}]}}`
)

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, tokens: map[string]string{}, certs: map[string]*x509.Certificate{}}
	var objects []*intent.Object
	for _, d := range []string{docSite, docProject, docForeign, docInfra, docOther, docSecret, docMachine} {
		objects = append(objects, object(t, d))
	}
	for _, role := range intent.BuiltinRoles() {
		b := intent.RoleBinding{Role: role}
		if role == "reader" || role == "member" || role == "owner" {
			b.Project = "acme"
		}
		objects = append(objects, s.user(role, b))
	}
	s.m = newMemory(objects...)
	s.api = New(s.m, slog.New(slog.DiscardHandler))
	return s
}

// user makes a user with a token and a key, and keeps their other halves.
func (s *scene) user(name string, bindings ...intent.RoleBinding) *intent.Object {
	s.t.Helper()
	token, half := NewUserToken(0, time.Now())
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1, 0)} // long over: its dates do not count
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, priv)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	s.tokens[name], s.certs[name] = token, cert
	return &intent.Object{
		APIVersion: intent.APIVersion, Kind: intent.KindUser, Metadata: intent.Metadata{Name: name, UID: "u-" + name, Rev: 1},
		Spec: &intent.UserSpec{Tokens: []intent.UserToken{half}, Keys: []intent.UserKey{{Public: base64.StdEncoding.EncodeToString(cert.RawSubjectPublicKeyInfo)}}, Bindings: bindings},
	}
}

// show returns a request as a client sends it that has finished its handshake with the user's certificate; "" = without one.
func (s *scene) show(user string, r *http.Request) *http.Request {
	r.TLS = &tls.ConnectionState{}
	if user != "" {
		r.TLS.PeerCertificates = []*x509.Certificate{s.certs[user]}
	}
	return r
}

// ask sends one request as a role ("" = no token) and returns status, headers and body.
func (s *scene) ask(role, method, path, body string, header ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	if role != "" {
		header = append([]string{"Authorization", "Bearer " + s.tokens[role]}, header...)
	}
	return s.send(newRequest(method, path, body, header...))
}

func (s *scene) send(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.api.ServeHTTP(w, r)
	return w
}

func newRequest(method, path, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// want fails unless the answer has the status and its body the text.
func (s *scene) want(w *httptest.ResponseRecorder, status int, text string) {
	s.t.Helper()
	if w.Code != status || !strings.Contains(w.Body.String(), text) {
		s.t.Errorf("answered %d %s, want %d with %q", w.Code, w.Body, status, text)
	}
	if w.Code >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
		s.t.Errorf("a refusal of type %q", w.Header().Get("Content-Type"))
	}
}

var errBroken = errors.New("cannot read state: the disk is on fire")

func (m *memory) Series(_ context.Context, site string, q telemetry.SeriesQuery) (*telemetry.SeriesList, error) {
	return &telemetry.SeriesList{Site: site}, m.call("series %s %s %v", site, q.Match, q.Scope)
}

func (m *memory) Rows(_ context.Context, site string, q telemetry.RowsQuery) (*telemetry.Rows, error) {
	return &telemetry.Rows{Site: site}, m.call("rows %s %s %v", site, q.Match, q.Scope)
}
