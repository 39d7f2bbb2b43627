package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/skerry-metal/skerry/pki/trust"
)

// Stream is one stream of a session, as a net.Conn. Close ends both directions: what was written is delivered, what was not
// read is refused.
type Stream struct {
	net.Conn
	kind byte
	peer trust.Identity
	sess *Conn // nil for a stream on a TLS/TCP connection whose session is not known

	counted  bool // among the requests of its session; set before the stream is used
	uncounts sync.Once
}

// count makes a stream that carries a request, or a state exchange of gossip, hold up the drain of its session until it is closed.
func (s *Stream) count() {
	if (s.kind == KindHTTP || s.kind == KindGossip) && s.sess != nil && !s.counted {
		s.counted = true
		s.sess.requests.Add(1)
	}
}

// Close ends the stream; see Stream.
func (s *Stream) Close() error {
	err := s.Conn.Close()
	if s.counted {
		s.uncounts.Do(func() { s.sess.requests.Add(-1) })
	}
	return err
}

// Peer returns who is at the other end.
func (s *Stream) Peer() trust.Identity { return s.peer }

// Session returns the session that carries the stream, or nil when a peer on the TCP lane opened it before its session.
func (s *Stream) Session() *Conn { return s.sess }

// CloseWrite ends our direction, where the lane can.
func (s *Stream) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// StreamHandler serves one stream. It owns the stream and closes it. ctx ends with the session.
type StreamHandler func(ctx context.Context, s *Stream)

// quicStream makes a net.Conn of a QUIC stream. quic-go forbids Close beside Write, which net.Conn allows.
type quicStream struct {
	*quic.Stream
	local, remote net.Addr

	wmu     sync.Mutex // held while writing; guards what follows
	cut     bool       // a write failed: the stream is not whole and must not end well
	closed  bool
	closing sync.Once
}

func (q *quicStream) LocalAddr() net.Addr  { return q.local }
func (q *quicStream) RemoteAddr() net.Addr { return q.remote }

func (q *quicStream) Write(b []byte) (int, error) {
	q.wmu.Lock()
	defer q.wmu.Unlock()
	if q.closed {
		return 0, net.ErrClosed
	}
	n, err := q.Stream.Write(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		q.cut = true
	}
	if err != nil && n < len(b) {
		q.cut = true
	}
	return n, err
}

// CloseWrite sends what was written and the end of our direction.
func (q *quicStream) CloseWrite() error {
	q.wmu.Lock()
	defer q.wmu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	if q.cut {
		q.Stream.CancelWrite(CodeProtocol)
		return nil
	}
	return q.Stream.Close()
}

func (q *quicStream) Close() error {
	var err error
	q.closing.Do(func() {
		_ = q.Stream.SetWriteDeadline(time.Unix(1, 0)) // lets a blocked Write go; it can fail only on a dead stream
		err = q.CloseWrite()
		q.Stream.CancelRead(CodeDone)
	})
	return err
}

// readKind reads the first octet of a stream.
func readKind(c interface {
	io.Reader
	SetReadDeadline(time.Time) error
}, wait time.Duration,
) (byte, error) {
	var b [1]byte
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, err
	}
	return b[0], c.SetReadDeadline(time.Time{})
}
