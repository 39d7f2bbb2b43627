package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/skerry-metal/skerry/pki/trust"
)

// halfOpenKey finds, in a connection's context, the function that ends its count as half-open.
type halfOpenKey struct{}

// admitHandshake bounds handshakes under way.
func (e *Endpoint) admitHandshake(ctx context.Context, c *quic.ClientInfo) (context.Context, error) {
	g := e.quicOpen.begin(ipOf(c.RemoteAddr), nil)
	if g == nil {
		return nil, errors.New("cannot take another handshake")
	}
	done := sync.OnceFunc(func() { e.quicOpen.end(g) })
	context.AfterFunc(ctx, done)
	return context.WithValue(ctx, halfOpenKey{}, done), nil
}

// wantsRetry tells quic-go to make a client prove its address first.
func (e *Endpoint) wantsRetry(a net.Addr) bool {
	ip := ipOf(a)
	return !ip.IsValid() || e.addrs.over(ip, time.Now()) || e.quicOpen.count() > retryAbove
}

func (e *Endpoint) acceptQUIC(ctx context.Context, l *quic.Listener) {
	for {
		q, err := l.Accept(ctx)
		if err != nil {
			return // the listener closed with Run
		}
		if done, ok := q.Context().Value(halfOpenKey{}).(func()); ok {
			done()
		}
		cs := q.ConnectionState().TLS
		id, err := e.identify(cs, true, trust.Want{})
		if err != nil {
			// A view changed between the handshake and now.
			_ = q.CloseWithError(CodeRevoked, "no longer admitted")
			continue
		}
		c := &Conn{e: e, id: id, alpn: cs.NegotiatedProtocol, lane: LaneQUIC, born: time.Now(), q: q}
		if !e.begin(c) {
			continue
		}
		e.accepted(c)
	}
}

// accepted files an incoming session.
func (e *Endpoint) accepted(c *Conn) {
	if c.alpn == trust.ALPNMesh {
		e.adopt(c)
	}
	if h := e.sessions[c.alpn]; h != nil {
		e.spawn(func() { h(c.Context(), c) })
	}
}

func (e *Endpoint) dialQUIC(ctx context.Context, addr, alpn string, want trust.Want) (*Conn, error) {
	ua, err := resolveUDP(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("cannot dial %s: %w", addr, err)
	}
	q, err := e.qt.Dial(ctx, ua, e.cfg.TLS.Client(alpn, want), e.profile(alpn))
	if err != nil {
		return nil, fmt.Errorf("cannot dial %s over QUIC: %w", addr, err)
	}
	id, err := e.identify(q.ConnectionState().TLS, false, want)
	if err != nil {
		_ = q.CloseWithError(CodeRevoked, "no longer admitted")
		return nil, fmt.Errorf("cannot dial %s over QUIC: %w", addr, err)
	}
	c := &Conn{e: e, id: id, alpn: alpn, lane: LaneQUIC, dialled: true, born: time.Now(), q: q}
	if !e.begin(c) {
		return nil, fmt.Errorf("cannot dial %s: %w", addr, ErrClosed)
	}
	return c, nil
}

// resolveUDP looks addr up with ctx's deadline.
func resolveUDP(ctx context.Context, addr string) (*net.UDPAddr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(ips[0].Unmap(), uint16(n))), nil
}

// begin tracks a QUIC session and starts its accept loops. False: the endpoint is closed or the peer is refused; c is closed.
func (e *Endpoint) begin(c *Conn) bool {
	c.link = &link{id: c.id, close: c.Close}
	if !e.track(c.link) {
		c.Close(CodeAway, "going away")
		return false
	}
	if !c.q.ConnectionState().GSO {
		e.slowUDP.Do(func() {
			e.cfg.Log.Warn("no segmentation offload: QUIC costs twice the CPU", "addr", e.Addr().String())
		})
	}
	ctx := c.q.Context()
	ok := e.spawn(func() {
		defer e.untrack(c.link)
		defer e.releaseGrants(c.q)
		for {
			s, err := c.q.AcceptStream(ctx)
			if err != nil {
				return
			}
			st := &Stream{Conn: &quicStream{Stream: s, local: c.q.LocalAddr(), remote: c.q.RemoteAddr()}, peer: c.id, sess: c}
			if !e.spawn(func() { e.dispatch(ctx, c.alpn, st) }) {
				_ = st.Close()
			}
		}
	})
	if ok && c.alpn == trust.ALPNMesh {
		ok = e.spawn(func() { e.receiveDatagrams(ctx, c) }) && e.spawn(func() { e.receiveUni(ctx, c) })
	}
	if !ok {
		c.Close(CodeAway, "going away")
	}
	return ok
}

func (e *Endpoint) receiveDatagrams(ctx context.Context, c *Conn) {
	for {
		b, err := c.q.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		e.packet(c.id, b)
	}
}

// receiveUni reads packets that were too large for a datagram: one per unidirectional stream.
func (e *Endpoint) receiveUni(ctx context.Context, c *Conn) {
	for {
		s, err := c.q.AcceptUniStream(ctx)
		if err != nil {
			return
		}
		if !e.spawn(func() {
			defer s.CancelRead(CodeDone)
			if err := s.SetReadDeadline(time.Now().Add(preambleTimeout)); err != nil {
				return
			}
			b, err := io.ReadAll(io.LimitReader(s, maxPacket+2))
			if err != nil || len(b) < 2 || len(b) > maxPacket+1 || b[0] != KindPacket {
				return
			}
			e.packet(c.id, b[1:])
		}) {
			s.CancelRead(CodeAway)
		}
	}
}

func (e *Endpoint) packet(from trust.Identity, b []byte) {
	if e.onPacket != nil && len(b) > 0 {
		e.onPacket(from, bytes.Clone(b))
	}
}
