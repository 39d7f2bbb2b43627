package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/gossip"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/replica"
)

const (
	maxRPC     = 1 << 20          // body of one request between agents (mesh.md section 1)
	maxPushed  = 2 << 20          // records that a peer pushes at once: what claim.MaxPull and its octets allow, and room
	maxAnswer  = 16 << 20         // of a peer that we asked: the promises of ten thousand devices
	pushes     = 4                // of one peer that are read at the same time
	permitWait = 10 * time.Second // a permission costs two confirmations and a BMC read
)

// Config is what a Mesh works with.
type Config struct {
	Site, Self string
	Life       string // of this process; random
	Endpoint   *transport.Endpoint
	Gossip     *gossip.Pool
	Replica    *replica.Replica
	Journal    *claim.Journal
	Log        *slog.Logger
}

// Mesh is one agent's end of what the agents of a site say to each other: HTTP over the mesh session, which says who asks.
type Mesh struct {
	Config
	// Claims, PermitHere, Assets and Abroad are set by the wiring before Handler serves: claims ask the mesh themselves, a permission of a
	// machine that this agent owns is signed for a peer's installer, and what is here of assets is told by who fetches them.
	Claims     *claim.Claims
	Assets     http.Handler
	Traffic    http.Handler // what this agent heard of the site's traffic
	Abroad     http.Handler // of what assets there are for agents of other sites
	Telemetry  http.Handler // below /m/1/telemetry/; nil: none
	Consoles   http.Handler // below /m/1/console/; nil: none
	PermitHere func(ctx context.Context, session string, r install.PermissionRequest) (install.PermissionEnvelope, error)
	// Doubled is called when two boxes speak as one agent.
	Doubled  func(ctx context.Context, agent string)
	Called   func() // the coordinator wants something, perhaps of this agent, which holds no session
	lives    lives
	turns    turns
	guests   guests
	standing standing
	started  time.Time // a peer that was never heard of counts as silent since then
}

// New returns a mesh that serves nothing until its Handler is used.
func New(cfg Config) *Mesh { return &Mesh{Config: cfg, started: time.Now()} }

func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	return readJSONLimit(w, r, v, maxRPC)
}

func readJSONLimit(w http.ResponseWriter, r *http.Request, v any, limit int64) bool {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		err = intent.DecodeStrict(b, v)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a broken session is noticed by its owner
}

// Handler is the mux /m/1/ that only mesh peers of this site reach; those of other sites get what is signed for all, and assets.
func (m *Mesh) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /m/1/journal", m.takeJournal)
	mux.HandleFunc("GET /m/1/journal", m.giveJournal)
	mux.HandleFunc("GET /m/1/journal/heads", m.giveHeads)
	mux.HandleFunc("POST /m/1/call", m.called)
	mux.HandleFunc("POST /m/1/claims/promise", m.promise)
	mux.HandleFunc("POST /m/1/claims/confirm", m.confirm)
	mux.HandleFunc("POST /m/1/claims/release", m.release)
	mux.HandleFunc("GET /m/1/claims", m.givePromises)
	mux.HandleFunc("POST /m/1/permission", m.permit)
	mux.HandleFunc("GET /m/1/intent", m.GiveIntent)
	mux.HandleFunc("GET /m/1/revocations", m.GiveRevocations)
	mux.HandleFunc("GET /m/1/trust", m.GiveTrust)
	mux.HandleFunc("GET /m/1/trust/forks", m.giveTrustForks)
	mux.Handle("/m/1/assets/", m.Assets)
	mux.Handle("/m/1/traffic/", m.Traffic)
	if m.Telemetry != nil {
		mux.Handle("/m/1/telemetry/", m.Telemetry)
	}
	if m.Consoles != nil {
		mux.Handle("/m/1/console/", m.Consoles)
	}
	return m.bySite(mux)
}

// Bulk is what of Handler peers reach by bulk sessions.
func (m *Mesh) Bulk() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/m/1/assets/", m.Assets)
	return m.bySite(mux)
}

// bySite gives agents of this site to here, and those of others to what is for them: signed streams of the domain, and assets by digest.
func (m *Mesh) bySite(here http.Handler) http.Handler {
	abroad := http.NewServeMux()
	abroad.HandleFunc("GET /m/1/revocations", m.GiveRevocations)
	abroad.HandleFunc("GET /m/1/trust", m.GiveTrust)
	abroad.HandleFunc("GET /m/1/trust/forks", m.giveTrustForks)
	abroad.Handle("/m/1/assets/", m.Abroad)
	known, guests := m.known(here), m.bounded(abroad)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if transport.PeerFrom(r.Context()).Site != m.Site {
			guests.ServeHTTP(w, r)
			return
		}
		known.ServeHTTP(w, r)
	})
}

func (m *Mesh) takeJournal(w http.ResponseWriter, r *http.Request) {
	var in claim.Page
	defer m.turn(transport.PeerFrom(r.Context()).ID)()
	if !readJSONLimit(w, r, &in, maxPushed) {
		return
	}
	last, err := m.Journal.Receive(transport.PeerFrom(r.Context()).ID, in)
	if err != nil && !errors.Is(err, claim.ErrChain) {
		http.Error(w, err.Error(), http.StatusInsufficientStorage)
		return
	}
	answerJSON(w, http.StatusOK, map[string]uint64{"last": last})
}

// turns bound what one peer makes us hold at once. Peers are agents that the roster lists or listed.
type turns struct {
	mu sync.Mutex // guards of
	of map[string]chan struct{}
}

// turn waits until fewer than pushes of a peer are read; the returned function ends this one.
func (m *Mesh) turn(peer string) func() {
	m.turns.mu.Lock()
	if m.turns.of == nil {
		m.turns.of = map[string]chan struct{}{}
	}
	c := m.turns.of[peer]
	if c == nil {
		c = make(chan struct{}, pushes)
		m.turns.of[peer] = c
	}
	m.turns.mu.Unlock()
	c <- struct{}{}
	return func() { <-c }
}

func (m *Mesh) giveJournal(w http.ResponseWriter, r *http.Request) {
	from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 64)
	agent := r.URL.Query().Get("agent")
	if err != nil || !intent.IsLabel(agent) {
		http.Error(w, "agent and from do not fit", http.StatusBadRequest)
		return
	}
	page, err := m.Journal.Range(agent, from, claim.MaxPull)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answerJSON(w, http.StatusOK, page)
}

func (m *Mesh) giveHeads(w http.ResponseWriter, _ *http.Request) {
	answerJSON(w, http.StatusOK, map[string]any{"heads": m.Journal.Heads()})
}

type promiseBody struct {
	Generation uint64        `json:"generation"`
	Promise    claim.Promise `json:"promise"`
}

func (m *Mesh) promise(w http.ResponseWriter, r *http.Request) {
	var in promiseBody
	if !readJSON(w, r, &in) {
		return
	}
	if in.Promise.Owner != transport.PeerFrom(r.Context()).ID {
		http.Error(w, "a claim for somebody else", http.StatusForbidden)
		return
	}
	answerClaim(w, m.Claims.OnPromise(in.Generation, in.Promise))
}

func (m *Mesh) confirm(w http.ResponseWriter, r *http.Request) {
	var in promiseBody
	if readJSON(w, r, &in) {
		answerClaim(w, m.Claims.OnConfirm(in.Promise))
	}
}

func (m *Mesh) release(w http.ResponseWriter, r *http.Request) {
	var in promiseBody
	if !readJSON(w, r, &in) {
		return
	}
	if in.Promise.Owner != transport.PeerFrom(r.Context()).ID {
		http.Error(w, "a claim of somebody else", http.StatusForbidden)
		return
	}
	answerClaim(w, m.Claims.OnRelease(in.Promise))
}

func (m *Mesh) givePromises(w http.ResponseWriter, _ *http.Request) {
	all, err := m.Claims.OnPromises()
	if err != nil {
		answerClaim(w, err)
		return
	}
	answerJSON(w, http.StatusOK, promiseTable{all})
}

type promiseTable struct {
	Promises []claim.Promise `json:"promises"`
}

func answerClaim(w http.ResponseWriter, err error) {
	if r, ok := errors.AsType[*claim.Refusal](err); ok {
		answerJSON(w, http.StatusConflict, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answerJSON(w, http.StatusOK, struct{}{})
}

// GiveIntent gives the site's chain, staged entries too: to peers, and to a coordinator that lost it.
func (m *Mesh) GiveIntent(w http.ResponseWriter, r *http.Request) {
	if err := api.ServeIntent(feedOnly{m.Replica}, w, r, m.Site); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// GiveRevocations gives the revocation stream from ?from= on, as the coordinator would.
func (m *Mesh) GiveRevocations(w http.ResponseWriter, r *http.Request) {
	m.give(w, r, m.Replica.RevocationFeed)
}

// GiveTrust gives the trust stream: to peers, and to a coordinator that lost the end of it.
func (m *Mesh) GiveTrust(w http.ResponseWriter, r *http.Request) { m.give(w, r, m.Replica.TrustFeed) }

// giveTrustForks gives what is kept as evidence that somebody else signs with the roots.
func (m *Mesh) giveTrustForks(w http.ResponseWriter, r *http.Request) {
	m.give(w, r, func(_ uint64, fn func(*intent.Envelope) error) error {
		envs, err := m.Replica.TrustForks()
		for _, env := range envs {
			err = errors.Join(err, fn(env))
		}
		return err
	})
}

// give answers with the envelopes of a stream from ?from= on, one per line.
func (m *Mesh) give(w http.ResponseWriter, r *http.Request, feed func(uint64, func(*intent.Envelope) error) error) {
	from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 64)
	if err != nil {
		http.Error(w, "from is no sequence number", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	if err := feed(from, func(env *intent.Envelope) error { return enc.Encode(env) }); err != nil {
		peer, level := transport.PeerFrom(r.Context()), slog.LevelWarn
		if peer.Kind == trust.Agent && peer.Site != m.Site {
			level = slog.LevelDebug // a stranger does not fill our log
		}
		m.Log.Log(r.Context(), level, "stream not given", "path", r.URL.Path, "to", peer.String(), "err", err)
	}
}

// call asks a peer.
func (m *Mesh) call(ctx context.Context, peer, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("cannot encode request to %s: %w", peer, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+peer+path, body)
	if err != nil {
		return err
	}
	req.Header.Set(lifeHeader, m.Life)
	res, err := m.Endpoint.RoundTripper(transport.Peer{Site: m.Site, ID: peer}).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("cannot ask %s: %w", peer, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("cannot read answer of %s: %w", peer, err)
	}
	if res.StatusCode == http.StatusConflict {
		ref := &claim.Refusal{}
		if json.Unmarshal(b, ref) == nil && ref.Why != "" {
			return ref
		}
	}
	if res.StatusCode != http.StatusOK {
		return &rpcError{peer, res.StatusCode, string(bytes.TrimSpace(b[:min(len(b), 200)]))}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// Ask posts in to a path of a peer and decodes its answer into out.
func (m *Mesh) Ask(ctx context.Context, peer, path string, in, out any) error {
	return m.call(ctx, peer, http.MethodPost, path, in, out)
}

// Read reads a peer's answer below /m/1/ into out.
func (m *Mesh) Read(ctx context.Context, peer, path string, out any) error {
	return m.call(ctx, peer, http.MethodGet, path, nil, out)
}

// rpcError is a peer's refusal.
type rpcError struct {
	peer   string
	status int
	text   string
}

// Error returns who refused, and why.
func (e *rpcError) Error() string { return fmt.Sprintf("%s answered %d: %s", e.peer, e.status, e.text) }

// Live implements claim.Peers.
func (m *Mesh) Live() []string {
	var out []string
	for id, s := range m.Gossip.Sights() {
		if s.Alive && id != m.Self {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Hearing lists the agents that hear a coordinator, this one too, in the order in which they pull the chain for the site.
func (m *Mesh) Hearing() []string {
	ids := []string{m.Self}
	for _, p := range m.Gossip.Members() {
		if p.Alive && p.Tags.WAN && p.ID != m.Self {
			ids = append(ids, p.ID)
		}
	}
	return claim.Rendezvous(m.Site, ids)
}

// Push implements claim.Peers.
func (m *Mesh) Push(ctx context.Context, peer string, p claim.Page) (uint64, error) {
	var out struct {
		Last uint64 `json:"last"`
	}
	err := m.call(ctx, peer, http.MethodPost, "/m/1/journal", p, &out)
	return out.Last, err
}

// Heads implements claim.Peers.
func (m *Mesh) Heads(ctx context.Context, peer string) (map[string]uint64, error) {
	var out struct {
		Heads map[string]uint64 `json:"heads"`
	}
	err := m.call(ctx, peer, http.MethodGet, "/m/1/journal/heads", nil, &out)
	return out.Heads, err
}

// Pull implements claim.Peers.
func (m *Mesh) Pull(ctx context.Context, peer, agent string, from uint64) (claim.Page, error) {
	var out claim.Page
	err := m.call(ctx, peer, http.MethodGet, fmt.Sprintf("/m/1/journal?agent=%s&from=%d", agent, from), nil, &out)
	return out, err
}

// Promise implements claim.Remote.
func (m *Mesh) Promise(ctx context.Context, peer string, generation uint64, p claim.Promise) error {
	return m.call(ctx, peer, http.MethodPost, "/m/1/claims/promise", promiseBody{generation, p}, nil)
}

// Confirm implements claim.Remote.
func (m *Mesh) Confirm(ctx context.Context, peer string, p claim.Promise) error {
	return m.call(ctx, peer, http.MethodPost, "/m/1/claims/confirm", promiseBody{Promise: p}, nil)
}

// Release implements claim.Remote.
func (m *Mesh) Release(ctx context.Context, peer string, p claim.Promise) error {
	return m.call(ctx, peer, http.MethodPost, "/m/1/claims/release", promiseBody{Promise: p}, nil)
}

// permit answers POST /m/1/permission of a peer whose installer this agent's machine is.
func (m *Mesh) permit(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Session string                    `json:"session"`
		Request install.PermissionRequest `json:"request"`
	}
	if !readJSON(w, r, &in) {
		return
	}
	env, err := m.PermitHere(r.Context(), in.Session, in.Request)
	if err == nil {
		answerJSON(w, http.StatusOK, env)
		return
	}
	status := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, install.ErrStale):
		status = http.StatusConflict
	case errors.Is(err, install.ErrSession):
		status = http.StatusUnauthorized
	}
	answerJSON(w, status, map[string]string{"error": err.Error()})
}

// Owners returns who acts on a device now, the likeliest first: the holder of its claim, as far as this agent knows, then the
// natural owner. Empty: nobody.
func (m *Mesh) Owners(device string) []string {
	_, members := m.Members()
	out := []string{m.Claims.Holder(device), claim.Owner(device, members, time.Now())}
	return slices.DeleteFunc(slices.Compact(out), func(agent string) bool { return agent == "" })
}

// Promises implements claim.Remote.
func (m *Mesh) Promises(ctx context.Context, peer string) ([]claim.Promise, error) {
	var out promiseTable
	err := m.call(ctx, peer, http.MethodGet, "/m/1/claims", nil, &out)
	return out.Promises, err
}

// Forward asks the owner of a machine for a permission.
func (m *Mesh) Forward(ctx context.Context, owner, session string, r install.PermissionRequest) (install.PermissionEnvelope, error) {
	ctx, cancel := context.WithTimeout(ctx, permitWait)
	defer cancel()
	var out install.PermissionEnvelope
	err := m.call(ctx, owner, http.MethodPost, "/m/1/permission", map[string]any{"session": session, "request": r}, &out)
	if e, ok := errors.AsType[*rpcError](err); ok && e.status == http.StatusConflict {
		return out, fmt.Errorf("%w: %s", install.ErrStale, e.text)
	}
	if err != nil {
		return out, fmt.Errorf("%w: %w", install.ErrBusy, err)
	}
	return out, nil
}

// Members implements claim.Sight: the roster with gossip's view.
func (m *Mesh) Members() (uint64, []claim.Member) {
	seen := m.Gossip.Sights()
	roster := m.Replica.Roster()
	var out []claim.Member
	for _, a := range roster.Agents {
		if a.State != intent.StateAgent {
			continue
		}
		g := seen[a.ID]
		if g.Since.IsZero() {
			g.Since = m.started
		}
		out = append(out, claim.Member{ID: a.ID, Rank: a.Rank, Alive: g.Alive || a.ID == m.Self, Since: g.Since})
	}
	return roster.Generation, out
}

// feedOnly is the part of an API backend that peers pull intent through.
type feedOnly struct{ s *replica.Replica }

// IntentFeed gives the chain, staged entries too.
func (f feedOnly) IntentFeed(_ context.Context, _ string, from uint64, fn func(*intent.Envelope) error) error {
	return f.s.Feed(from, fn)
}

// Snapshot returns the revision only.
func (f feedOnly) Snapshot(context.Context) (*intent.Catalog, uint64, error) {
	return nil, f.s.State().Rev, nil
}

// Changed waits for a newer intent.
func (f feedOnly) Changed(ctx context.Context, since uint64) (uint64, error) {
	for {
		st := f.s.State()
		if st.Rev > since {
			return st.Rev, nil
		}
		select {
		case <-st.Wake:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
