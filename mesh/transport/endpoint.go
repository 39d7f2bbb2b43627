package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"github.com/skerry-metal/skerry/pki/trust"
)

// What callers branch on.
var (
	ErrClosed      = errors.New("endpoint closed")
	ErrNoAddress   = errors.New("no address known")
	ErrUnreachable = errors.New("peer unreachable")
)

// Peer names an agent of a site.
type Peer struct{ Site, ID string }

// String returns SITE/ID.
func (p Peer) String() string { return p.Site + "/" + p.ID }

// PeerOf returns the peer of an agent's identity.
func PeerOf(id trust.Identity) Peer { return Peer{id.Site, id.ID} }

// Resolver knows where agents listen.
type Resolver interface {
	// Addrs returns the host:port addresses of p, best first; none when unknown. It does not block.
	Addrs(p Peer) []string
}

// ResolverFunc is a Resolver made of a function.
type ResolverFunc func(Peer) []string

// Addrs calls f.
func (f ResolverFunc) Addrs(p Peer) []string { return f(p) }

// Lane says what carries a session.
type Lane string

// The lanes. LaneAuto means QUIC, and TCP after quicFailures failed dials.
const (
	LaneAuto Lane = ""
	LaneQUIC Lane = "quic"
	LaneTCP  Lane = "tcp"
)

// Config of an Endpoint.
type Config struct {
	Listen   string     // host:port for both sockets; port 0 picks one free for both
	TLS      *trust.TLS // own identity and certificates
	UDP      []string   // ALPNs served on the UDP socket
	TCP      []string   // ALPNs served on the TCP socket
	Resolver Resolver   // nil: Dial knows no peer (a coordinator)
	Log      *slog.Logger
	// ResetKey, the same in each run, lets a peer notice at once that we restarted. Empty: it waits for its idle timeout.
	ResetKey []byte
	// Network opens the sockets; nil: Host.
	Network Network
	// Lane forces a lane for Dial, for sites where UDP is blocked and for tests.
	Lane Lane
	// Bulk forces a lane for Bulk. LaneAuto: as for Dial.
	Bulk Lane
}

// Endpoint is the one endpoint of a process.
type Endpoint struct {
	cfg Config
	udp net.PacketConn
	qt  *quic.Transport
	tcp net.Listener

	handlers map[string]map[byte]StreamHandler // by ALPN, kind; set before Run
	sessions map[string]func(context.Context, *Conn)
	onJoin   func(context.Context, *tls.Conn)
	onPacket func(from trust.Identity, b []byte)
	servers  []*httpServer
	web      *chanListener

	tcpOpen  halfOpen
	quicOpen halfOpen
	addrs    addrCounter
	grants   atomic.Int64
	granted  sync.Map // *quic.Conn -> *atomic.Int64
	guard    guard
	slowUDP  sync.Once // one warning

	mu     sync.Mutex // guards what follows
	closed bool
	wg     sync.WaitGroup
	live   map[*link]bool
	peers  map[Peer]*peerState
	parks  map[string]*Conn // accepted TCP sessions by ALPN, identity and nonce; without nonce the newest
}

// link is anything that must be cut when its identity is no longer admitted.
type link struct {
	id    trust.Identity
	close func(code int, reason string)
}

// New binds both sockets and starts nothing. Close undoes it when Run is never called.
func New(cfg Config) (*Endpoint, error) {
	if cfg.Network == nil {
		cfg.Network = Host{}
	}
	tcp, udp, err := bind(cfg.Network, cfg.Listen)
	if err != nil {
		return nil, err
	}
	e := &Endpoint{
		cfg: cfg, udp: udp, tcp: tcp,
		handlers: map[string]map[byte]StreamHandler{}, sessions: map[string]func(context.Context, *Conn){},
		live: map[*link]bool{}, peers: map[Peer]*peerState{}, parks: map[string]*Conn{},
	}
	e.qt = &quic.Transport{Conn: udp, ConnContext: e.admitHandshake, VerifySourceAddress: e.wantsRetry}
	if len(cfg.ResetKey) >= 32 {
		k := quic.StatelessResetKey(cfg.ResetKey[:32])
		e.qt.StatelessResetKey = &k
	}
	e.HandleStream(trust.ALPNMesh, KindPacket, e.receiveFramed)
	e.web = newChanListener(tcp.Addr())
	return e, nil
}

// bind opens TCP and UDP on one port.
func bind(n Network, addr string) (net.Listener, net.PacketConn, error) {
	const tries = 20 // a port free for TCP may be taken for UDP; twenty in a row is a full machine
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot listen on %q: %w", addr, err)
	}
	for i := 0; ; i++ {
		tcp, err := n.Listen("tcp", addr)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
		}
		at := net.JoinHostPort(host, strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port))
		udp, err := n.ListenPacket("udp", at)
		if err == nil {
			return tcp, udp, nil
		}
		_ = tcp.Close() // the UDP error is what counts
		if port != "0" || i == tries {
			return nil, nil, fmt.Errorf("cannot listen on %s: %w", at, err)
		}
	}
}

// Addr returns the address that both sockets listen on.
func (e *Endpoint) Addr() net.Addr { return e.tcp.Addr() }

// Self returns the own identity.
func (e *Endpoint) Self() trust.Identity { return e.cfg.TLS.Self }

// HandleStream sets who serves streams of a kind on alpn. Before Run only.
func (e *Endpoint) HandleStream(alpn string, kind byte, h StreamHandler) {
	if e.handlers[alpn] == nil {
		e.handlers[alpn] = map[byte]StreamHandler{}
	}
	e.handlers[alpn][kind] = h
}

// HandleSession sets who is told of each accepted session of alpn. h runs in its own goroutine and should return when the
// session ends. Before Run only.
func (e *Endpoint) HandleSession(alpn string, h func(ctx context.Context, c *Conn)) {
	e.sessions[alpn] = h
}

// HandleJoin sets who serves skerry-join connections; h owns and closes the connection. Before Run only.
func (e *Endpoint) HandleJoin(h func(ctx context.Context, c *tls.Conn)) { e.onJoin = h }

// HandlePacket sets who gets packets of mesh peers. h must not block and must not keep b. Before Run only.
func (e *Endpoint) HandlePacket(h func(from trust.Identity, b []byte)) { e.onPacket = h }

// HTTPListener yields the TLS connections whose protocol is h2 or http/1.1, as *tls.Conn after the handshake; give it to
// http.Server.Serve. It ends with Run.
func (e *Endpoint) HTTPListener() net.Listener { return e.web }

// Run serves until ctx ends, then closes every session with CodeAway and waits for all goroutines.
func (e *Endpoint) Run(ctx context.Context) error {
	var ql *quic.Listener
	if len(e.cfg.UDP) > 0 {
		var err error
		if ql, err = e.qt.Listen(e.cfg.TLS.Server(e.cfg.UDP...), e.listenProfile()); err != nil {
			return errors.Join(fmt.Errorf("cannot listen for QUIC: %w", err), e.Close())
		}
		e.spawn(func() { e.acceptQUIC(ctx, ql) })
	}
	e.spawn(func() { e.acceptTCP(ctx) })
	for _, s := range e.servers {
		e.spawn(s.serve)
	}
	<-ctx.Done()
	if ql != nil {
		_ = ql.Close() // new handshakes end here; the error says only that it was closed
	}
	return e.Close()
}

// Close ends everything and waits. Run calls it; it is for endpoints that never ran.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	e.closed = true
	links := make([]*link, 0, len(e.live))
	for l := range e.live {
		links = append(links, l)
	}
	for _, p := range e.peers {
		p.stop()
	}
	e.mu.Unlock()
	_ = e.tcp.Close() // ends the accept loop
	_ = e.web.Close()
	for _, s := range e.servers {
		s.stop()
	}
	for _, l := range links {
		l.close(CodeAway, "going away")
	}
	err := e.qt.Close() // after the sessions: their close frames should leave first
	e.wg.Wait()
	return errors.Join(err, ignoreClosed(e.udp.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// spawn runs f as a goroutine that Close waits for. It reports false, and does not run f, when the endpoint is closed.
func (e *Endpoint) spawn(f func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.wg.Go(f)
	return true
}

// track adds l to what CloseIf looks at. False: the endpoint is closed, or the peer has too many connections or was struck
// out, and l must be cut now.
func (e *Endpoint) track(l *link) (ok bool) {
	if !e.guard.admit(l.id) {
		return false
	}
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.live[l] = true
	}
	e.mu.Unlock()
	if closed {
		e.guard.leave(l.id)
	}
	return !closed
}

func (e *Endpoint) untrack(l *link) {
	e.mu.Lock()
	had := e.live[l]
	delete(e.live, l)
	e.mu.Unlock()
	if had {
		e.guard.leave(l.id)
	}
}

// Admits tells whether a peer may speak now.
func (e *Endpoint) Admits(id trust.Identity) bool {
	v := e.cfg.TLS.View()
	return v != nil && v.Admits(id)
}

// CloseIf cuts every connection whose peer gone tells to go, and returns how many. Call it after each new roster or
// revocation head, with the negation of trust.View.Admits.
func (e *Endpoint) CloseIf(gone func(trust.Identity) bool) int {
	return e.cut(CodeRevoked, "no longer admitted", gone)
}

func (e *Endpoint) cut(code int, reason string, gone func(trust.Identity) bool) int {
	e.mu.Lock()
	links := make([]*link, 0, len(e.live))
	for l := range e.live {
		links = append(links, l)
	}
	e.mu.Unlock()
	links = slices.DeleteFunc(links, func(l *link) bool { return l.id.Kind == trust.None || !gone(l.id) })
	for _, l := range links {
		l.close(code, reason)
	}
	return len(links)
}

// Sessions returns the sessions that stand, in no order.
func (e *Endpoint) Sessions() []*Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	var cs []*Conn
	for _, p := range e.peers {
		if p.conn != nil {
			cs = append(cs, p.conn)
		}
	}
	return cs
}

// dispatch reads the kind of an opened stream and hands it to its handler.
func (e *Endpoint) dispatch(ctx context.Context, alpn string, s *Stream) {
	kind, err := readKind(s, preambleTimeout)
	if err != nil {
		_ = s.Close() // it never said what it wants
		return
	}
	e.serve(ctx, alpn, kind, s)
}

func (e *Endpoint) serve(ctx context.Context, alpn string, kind byte, s *Stream) {
	h := e.handlers[alpn][kind]
	if h == nil {
		_ = s.Close()
		e.protocolError(s, fmt.Sprintf("stream of unknown kind %d on %s", kind, alpn))
		return
	}
	s.kind = kind
	s.count()
	defer func() {
		if p := recover(); p != nil {
			e.cfg.Log.ErrorContext(ctx, "stream handler panicked", "peer", s.peer.String(), "kind", kind, "panic", fmt.Sprint(p))
			_ = s.Close()
		}
	}()
	h(ctx, s)
}
