package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/skerry-metal/skerry/pki/trust"
)

// Conn is one session with one authenticated peer.
type Conn struct {
	e       *Endpoint
	id      trust.Identity
	alpn    string
	lane    Lane
	dialled bool
	born    time.Time
	link    *link

	requests atomic.Int64 // HTTP and gossip streams of both directions that are not closed

	q *quic.Conn // QUIC lane

	// TCP lane
	control net.Conn
	addr    string        // where further connections are dialled; dialling side only
	want    trust.Want    //
	nonce   []byte        // dialling side: names the session to the other side's parking
	parked  chan net.Conn // accepting side: connections the dialler left for our streams
	life    context.Context
	end     context.CancelCauseFunc // of life, which is the session's own, as quic.Conn.Context is
	once    sync.Once
}

// Peer returns who is at the other end.
func (c *Conn) Peer() trust.Identity { return c.id }

// Lane returns what carries the session.
func (c *Conn) Lane() Lane { return c.lane }

// RTT returns how long the way to the peer and back takes of late (RFC 9002, section 5.3); ok is false on the TCP lane, and before the first
// answer.
func (c *Conn) RTT() (rtt time.Duration, ok bool) {
	if c.q == nil {
		return 0, false
	}
	rtt = c.q.ConnectionStats().SmoothedRTT
	return rtt, rtt > 0
}

// Dialled tells whether we opened the session.
func (c *Conn) Dialled() bool { return c.dialled }

// RemoteAddr returns the peer's address.
func (c *Conn) RemoteAddr() net.Addr {
	if c.q != nil {
		return c.q.RemoteAddr()
	}
	return c.control.RemoteAddr()
}

// Context ends with the session; its cause says why.
func (c *Conn) Context() context.Context {
	if c.q != nil {
		return c.q.Context()
	}
	return c.life
}

// Close ends the session and its streams. code is one of the Code constants.
func (c *Conn) Close(code int, reason string) {
	c.once.Do(func() {
		if c.q != nil {
			_ = c.q.CloseWithError(quic.ApplicationErrorCode(code), reason) // fails only when it is closed already
			return
		}
		c.end(fmt.Errorf("session closed: %s", reason))
		_ = c.control.Close()
	})
}

// OpenStream opens a stream of the given kind. On the accepting side of a TCP session it waits up to 10 s for a connection
// that the dialler parks. The caller closes the stream.
func (c *Conn) OpenStream(ctx context.Context, kind byte) (*Stream, error) {
	nc, err := c.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot open stream to %s: %w", c.id, err)
	}
	if err := nc.SetWriteDeadline(time.Now().Add(preambleTimeout)); err == nil {
		_, err = nc.Write([]byte{kind})
		if err == nil {
			err = nc.SetWriteDeadline(time.Time{})
		}
		if err != nil {
			_ = nc.Close() // the write error is what counts
			return nil, fmt.Errorf("cannot open stream to %s: %w", c.id, err)
		}
	}
	s := &Stream{Conn: nc, kind: kind, peer: c.id, sess: c}
	s.count()
	return s, nil
}

func (c *Conn) open(ctx context.Context) (net.Conn, error) {
	switch {
	case c.q != nil:
		s, err := c.q.OpenStreamSync(ctx)
		if err != nil {
			return nil, err
		}
		return &quicStream{Stream: s, local: c.q.LocalAddr(), remote: c.q.RemoteAddr()}, nil
	case c.dialled:
		if err := c.life.Err(); err != nil {
			return nil, context.Cause(c.life)
		}
		return c.e.dialTLS(ctx, c.addr, c.alpn, c.want)
	default:
		ctx, cancel := context.WithTimeout(ctx, parkWait)
		defer cancel()
		select {
		case p := <-c.parked:
			return p, nil
		case <-c.life.Done():
			return nil, context.Cause(c.life)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// peerState is what we know of one mesh peer.
type peerState struct {
	route // of mesh
	bulk  route
	box   *outbox
}

// route is one kind of session with a peer.
type route struct {
	conn     *Conn     // the session that stands; guarded by Endpoint.mu, like all here
	failures int       // failed QUIC dials in a row
	tcpUntil time.Time // TCP only until then
	dialling chan struct{}
}

func (p *peerState) stop() {
	if p.box != nil {
		p.box.stop()
	}
}

func (e *Endpoint) peer(p Peer) *peerState {
	s := e.peers[p]
	if s == nil {
		s = &peerState{}
		e.peers[p] = s
	}
	return s
}

// Dial returns the mesh session with p, opening it when there is none. At most one dial per peer is under way; others wait
// for it. Errors: ErrNoAddress, ErrUnreachable, ErrClosed, ctx's.
func (e *Endpoint) Dial(ctx context.Context, p Peer) (*Conn, error) {
	return e.dial(ctx, p, trust.ALPNMesh)
}

func (e *Endpoint) dial(ctx context.Context, p Peer, alpn string) (*Conn, error) {
	for {
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			return nil, fmt.Errorf("cannot dial %s: %w", p, ErrClosed)
		}
		s, stands := &e.peer(p).route, e.adopt
		if alpn == trust.ALPNBulk {
			s, stands = &e.peer(p).bulk, e.keep
		}
		if s.conn != nil && s.conn.Context().Err() == nil {
			c := s.conn
			e.mu.Unlock()
			return c, nil
		}
		if wait := s.dialling; wait != nil {
			e.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("cannot dial %s: %w", p, ctx.Err())
			}
		}
		done := make(chan struct{})
		s.dialling = done
		lane := e.laneOf(s)
		if alpn == trust.ALPNBulk && e.cfg.Bulk != LaneAuto {
			lane = e.cfg.Bulk
		}
		e.mu.Unlock()

		c, err := e.dialPeer(ctx, p, alpn, lane)
		e.mu.Lock()
		s.dialling = nil
		s.noteDial(lane, err == nil, errors.Is(ctx.Err(), context.Canceled))
		e.mu.Unlock()
		if err == nil {
			c = stands(c)
		}
		close(done)
		return c, err
	}
}

// laneOf picks the lane of the next dial. Caller holds mu.
func (e *Endpoint) laneOf(s *route) Lane {
	switch {
	case e.cfg.Lane != LaneAuto:
		return e.cfg.Lane
	case time.Now().Before(s.tcpUntil) || s.failures >= quicFailures:
		return LaneTCP
	default:
		return LaneQUIC
	}
}

// noteDial counts; a dial that its caller gave up says nothing. A peer that answers on neither lane is down, not behind a UDP block: QUIC is tried first again.
func (s *route) noteDial(lane Lane, ok, gaveUp bool) {
	switch {
	case lane == LaneQUIC && ok:
		s.failures, s.tcpUntil = 0, time.Time{}
	case lane == LaneQUIC && !gaveUp:
		s.failures++
	case lane == LaneTCP && ok:
		if s.failures >= quicFailures {
			s.tcpUntil = time.Now().Add(quicRest)
		}
		s.failures = 0
	case lane == LaneTCP:
		s.failures, s.tcpUntil = 0, time.Time{}
	}
}

func (e *Endpoint) dialPeer(ctx context.Context, p Peer, alpn string, lane Lane) (*Conn, error) {
	var addrs []string
	if e.cfg.Resolver != nil {
		addrs = e.cfg.Resolver.Addrs(p)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("cannot dial %s: %w", p, ErrNoAddress)
	}
	want := trust.Want{Kind: trust.Agent, Site: p.Site, ID: p.ID, AnySite: p.Site != e.Self().Site}
	var errs []error
	for _, a := range addrs {
		c, err := e.DialAddr(ctx, a, alpn, want, lane)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("cannot dial %s: %w: %w", p, ErrUnreachable, errors.Join(errs...))
}

// DialAddr opens a session at addr, uncached: the caller closes it. lane must not be LaneAuto.
func (e *Endpoint) DialAddr(ctx context.Context, addr, alpn string, want trust.Want, lane Lane) (*Conn, error) {
	if lane == LaneTCP {
		return e.dialTCP(ctx, addr, alpn, want)
	}
	return e.dialQUIC(ctx, addr, alpn, want)
}

// adopt makes c the peer's session and returns the one that stands. When both sides dialled at the same moment two sessions
// meet: the one dialled by the lower id stays. One that is older than a handshake can take was lost by the peer (it would
// not dial otherwise), so the newer stays.
func (e *Endpoint) adopt(c *Conn) *Conn {
	e.mu.Lock()
	s := e.peer(PeerOf(c.id))
	old := s.conn
	if old == nil || old.Context().Err() != nil || old == c {
		s.conn = c
		e.mu.Unlock()
		e.watch(c)
		return c
	}
	keep, drop := c, old
	if time.Since(old.born) < simultaneous && old.dialled != c.dialled {
		lowerDialled := func(x *Conn) bool { return x.dialled == (PeerOf(e.cfg.TLS.Self).String() < PeerOf(x.id).String()) }
		if lowerDialled(old) {
			keep, drop = old, c
		}
	}
	s.conn = keep
	e.mu.Unlock()
	if keep == c {
		e.watch(c)
	}
	drop.drain(drainDuplicate)
	return keep
}

// watch forgets c when it ends.
func (e *Endpoint) watch(c *Conn) {
	p := PeerOf(c.id)
	e.spawn(func() {
		<-c.Context().Done()
		e.mu.Lock()
		defer e.mu.Unlock()
		if s := e.peers[p]; s != nil && s.conn == c {
			s.conn = nil
		}
	})
}

// identify returns who the peer of an established TLS state is.
func (e *Endpoint) identify(cs tls.ConnectionState, server bool, want trust.Want) (trust.Identity, error) {
	return e.cfg.TLS.Identify(cs, server, want)
}
