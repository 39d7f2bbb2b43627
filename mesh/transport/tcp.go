package transport

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/pki/trust"
)

// On this lane one stream is one TLS connection, without a multiplexer. The first octet is the stream's kind, or kindSession
// for the connection that stands for the session, or kindPark for one on which the accepting side writes the kind itself.

// keepAlive finds a dead peer in 35 s: the control connection of a session carries no data.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}
}

// tracked is a TCP connection that tells when it was closed, whoever closed it: net/http must be given the *tls.Conn itself.
type tracked struct {
	net.Conn
	once   sync.Once
	onDone func()
}

func (t *tracked) Close() error {
	err := t.Conn.Close()
	t.once.Do(t.onDone)
	return err
}

func (e *Endpoint) acceptTCP(ctx context.Context) {
	conf := e.cfg.TLS.Server(e.cfg.TCP...)
	var open atomic.Int64
	for {
		raw, err := e.tcp.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			e.cfg.Log.WarnContext(ctx, "cannot accept; waiting for descriptors", "err", err)
			select {
			case <-time.After(100 * time.Millisecond): // EMFILE: some connection must end first
			case <-ctx.Done():
				return
			}
			continue
		}
		if open.Load() >= maxConns {
			_ = raw.Close()
			continue
		}
		open.Add(1)
		t := &tracked{Conn: raw, onDone: func() { open.Add(-1) }}
		g := e.tcpOpen.begin(ipOf(raw.RemoteAddr()), func() { _ = t.Close() })
		if !e.spawn(func() { e.greet(ctx, tls.Server(t, conf), g) }) {
			e.tcpOpen.end(g)
			_ = t.Close()
		}
	}
}

// greet does the handshake and sends the connection where its protocol belongs.
func (e *Endpoint) greet(ctx context.Context, c *tls.Conn, g *greeting) {
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	err := c.HandshakeContext(hctx)
	cancel()
	if !e.tcpOpen.end(g) && err == nil {
		err = net.ErrClosed // cut in its last moment: nobody would untrack it
	}
	if err != nil {
		e.cfg.Log.DebugContext(ctx, "handshake failed", "from", c.RemoteAddr().String(), "err", err)
		_ = c.Close()
		return
	}
	cs := c.ConnectionState()
	id, err := e.identify(cs, true, trust.Want{})
	if err != nil {
		_ = c.Close() // a view changed meanwhile
		return
	}
	if !e.watchTLS(c, id) {
		_ = c.Close()
		return
	}
	switch cs.NegotiatedProtocol {
	case trust.ALPNH2, trust.ALPNHTTP, "":
		e.web.deliver(ctx, c)
	case trust.ALPNJoin:
		if e.onJoin == nil {
			_ = c.Close()
			return
		}
		e.onJoin(ctx, c)
	default:
		e.serveTLS(ctx, c, id, cs.NegotiatedProtocol)
	}
}

// nonceSize is the octets by which a dialler tells its sessions apart.
const nonceSize = 16

// readNonce reads the name of a session, which follows the kind.
func readNonce(c net.Conn, limit time.Duration) (string, error) {
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	var b [nonceSize]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), c.SetReadDeadline(time.Time{})
}

// watchTLS lets CloseIf and Close cut c until it is closed.
func (e *Endpoint) watchTLS(c *tls.Conn, id trust.Identity) bool {
	t := c.NetConn().(*tracked)
	l := &link{id: id, close: func(int, string) { _ = t.Close() }}
	old := t.onDone
	t.onDone = func() { old(); e.untrack(l) }
	return e.track(l)
}

// serveTLS handles one incoming TLS connection of a skerry protocol.
func (e *Endpoint) serveTLS(ctx context.Context, c *tls.Conn, id trust.Identity, alpn string) {
	kind, err := readKind(c, preambleTimeout)
	if err != nil {
		_ = c.Close()
		return
	}
	key := alpn + " " + id.String()
	own := key // of one session of id: while it renews itself two stand
	if kind == kindSession || kind == kindPark {
		nonce, err := readNonce(c, preambleTimeout)
		if err != nil {
			_ = c.Close()
			return
		}
		own += " " + nonce
	}
	switch kind {
	case kindSession:
		s := e.newTCPSession(c, id, alpn)
		e.mu.Lock()
		e.parks[key], e.parks[own] = s, s
		e.mu.Unlock()
		// The echo tells the dialler that its certificate was accepted (in TLS 1.3 it cannot know before) and that streams
		// now find their session.
		if _, err := c.Write([]byte{kindSession}); err != nil {
			s.Close(CodeProtocol, "no echo")
		}
		e.accepted(s)
		s.waitControl()
		e.mu.Lock()
		for _, k := range []string{key, own} {
			if e.parks[k] == s {
				delete(e.parks, k)
			}
		}
		e.mu.Unlock()
		s.drainParked()
	case kindPark:
		e.mu.Lock()
		s := e.parks[own]
		e.mu.Unlock()
		if s == nil {
			_ = c.Close()
			return
		}
		select {
		case s.parked <- c:
		default:
			_ = c.Close() // more parked than anyone asked for
		}
	default:
		e.mu.Lock()
		s := e.parks[key]
		e.mu.Unlock()
		sctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if s != nil {
			stop := context.AfterFunc(s.life, cancel)
			defer stop()
		}
		e.serve(sctx, alpn, kind, &Stream{Conn: c, peer: id, sess: s})
	}
}

func (e *Endpoint) newTCPSession(control net.Conn, id trust.Identity, alpn string) *Conn {
	s := &Conn{e: e, id: id, alpn: alpn, lane: LaneTCP, born: time.Now(), control: control, parked: make(chan net.Conn, 2*parkedConns)}
	s.life, s.end = context.WithCancelCause(context.Background())
	return s
}

// waitControl returns when the session's connection ends. Nothing is ever sent on it.
func (c *Conn) waitControl() {
	var b [1]byte
	_, err := c.control.Read(b[:])
	if err == nil {
		err = errors.New("data on a control connection")
	}
	c.end(fmt.Errorf("session ended: %w", err))
	_ = c.control.Close()
}

func (c *Conn) drainParked() {
	for {
		select {
		case p := <-c.parked:
			_ = p.Close()
		default:
			return
		}
	}
}

// dialTLS opens one TLS connection and checks who answers.
func (e *Endpoint) dialTLS(ctx context.Context, addr, alpn string, want trust.Want) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*handshakeTimeout) // SYN retries of a lossy WAN, then the handshake
	defer cancel()
	raw, err := e.cfg.Network.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot dial %s over TCP: %w", addr, err)
	}
	c := tls.Client(&tracked{Conn: raw, onDone: func() {}}, e.cfg.TLS.Client(alpn, want))
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("cannot dial %s over TCP: %w", addr, err)
	}
	id, err := e.identify(c.ConnectionState(), false, want)
	if err == nil && !e.watchTLS(c, id) {
		err = ErrClosed
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("cannot dial %s over TCP: %w", addr, err)
	}
	return c, nil
}

// dialTCP opens a session: the control connection, and parked ones for the other side's streams.
func (e *Endpoint) dialTCP(ctx context.Context, addr, alpn string, want trust.Want) (*Conn, error) {
	c, err := e.dialTLS(ctx, addr, alpn, want)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never fails: crypto/rand, Go 1.24
	if _, err = c.Write(append([]byte{kindSession}, nonce...)); err == nil {
		_, err = readKind(c, handshakeTimeout)
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("cannot open session at %s: %w", addr, err)
	}
	id, err := e.identify(c.ConnectionState(), false, want)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("cannot open session at %s: %w", addr, err)
	}
	s := e.newTCPSession(c, id, alpn)
	s.dialled, s.addr, s.want, s.nonce = true, addr, want, nonce
	ok := e.spawn(s.waitControl)
	for range parkedConns {
		ok = ok && e.spawn(func() { s.park() })
	}
	if !ok {
		s.Close(CodeAway, "going away")
		return nil, fmt.Errorf("cannot open session at %s: %w", addr, ErrClosed)
	}
	return s, nil
}

// park keeps one idle connection at the other side for as long as the session lives, and serves each stream that comes.
func (c *Conn) park() {
	const pause = time.Second // a peer that refuses parked connections is asked once a second, no more
	for c.life.Err() == nil {
		if err := c.parkOne(); err != nil && c.life.Err() == nil {
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-c.life.Done():
			}
			t.Stop()
		}
	}
}

func (c *Conn) parkOne() error {
	nc, err := c.e.dialTLS(c.life, c.addr, c.alpn, c.want)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(c.life, func() { _ = nc.Close() })
	if _, err := nc.Write(append([]byte{kindPark}, c.nonce...)); err != nil {
		stop()
		_ = nc.Close()
		return err
	}
	var b [1]byte
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		stop()
		_ = nc.Close()
		return err
	}
	st := &Stream{Conn: nc, peer: c.id, sess: c}
	if !c.e.spawn(func() { defer stop(); c.e.serve(c.life, c.alpn, b[0], st) }) {
		stop()
		_ = nc.Close()
	}
	return nil
}
