package memnet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// stream is one end of a connection.
type stream struct {
	signal
	h             *Host
	peer          *stream
	local, remote netip.AddrPort
	in            []byte // what the other end sent, and this one has not read
	eof           bool   // the other end closed
	lost          bool   // the other end's host was unplugged
	err           error  // of this end
	flying        int    // octets that this end sent and that have not arrived
	last          time.Time
	read, write   time.Time
}

// Read returns what arrived. Over a cut nothing does.
func (s *stream) Read(b []byte) (int, error) {
	n := s.h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	ready := func() bool {
		return s.err != nil || (len(s.in) > 0 || s.eof) && !n.cut(s.remote.Addr(), s.local.Addr())
	}
	if err := n.wait(context.Background(), &s.signal, func() time.Time { return s.read }, ready); err != nil {
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: err}
	}
	switch {
	case s.err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: s.err}
	case len(s.in) == 0:
		return 0, io.EOF
	}
	k := copy(b, s.in)
	s.in = s.in[k:]
	s.peer.wake()
	return k, nil
}

// Write queues b; what is beyond the window waits.
func (s *stream) Write(b []byte) (done int, err error) {
	s.h.sends()
	n := s.h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(b) > 0 {
		ready := func() bool {
			return s.err != nil || s.peer.err != nil && !s.lost || len(s.peer.in)+s.flying < window
		}
		if err := n.wait(context.Background(), &s.signal, func() time.Time { return s.write }, ready); err != nil {
			return done, &net.OpError{Op: "write", Net: "tcp", Err: err}
		}
		switch {
		case s.err != nil:
			return done, &net.OpError{Op: "write", Net: "tcp", Err: s.err}
		case s.peer.err != nil && !s.lost:
			return done, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
		}
		k := min(len(b), window-len(s.peer.in)-s.flying)
		s.carry(b[:k])
		b, done = b[k:], done+k
	}
	return done, nil
}

// carry brings octets to the other end, in order, when the weather lets them arrive. The caller holds mu.
func (s *stream) carry(b []byte) {
	s.h.net.sent[[2]netip.Addr{s.local.Addr(), s.remote.Addr()}]++
	y := s.h.net.over(s.local.Addr(), s.remote.Addr())
	if y == nil && s.flying == 0 {
		s.peer.in = append(s.peer.in, b...)
		s.peer.wake()
		return
	}
	at := time.Now()
	if y != nil {
		at = at.Add(y.late())
		for y.hits(y.Loss) {
			at = at.Add(resend)
		}
	}
	if at.Before(s.last) {
		at = s.last
	}
	s.last, s.flying = at, s.flying+len(b)
	b = append([]byte(nil), b...)
	s.arrive(at, func() {
		s.flying -= len(b)
		s.peer.in = append(s.peer.in, b...)
		s.wake()
	})
}

// arrive does something at the other end at a time. Timers of one moment fire in no order: each is a moment after the one before.
func (s *stream) arrive(at time.Time, do func()) {
	s.last = at.Add(1)
	time.AfterFunc(time.Until(at), func() {
		s.h.net.mu.Lock()
		defer s.h.net.mu.Unlock()
		do()
		s.peer.wake()
	})
}

// Close ends both directions; the other end reads what is queued, then the end.
func (s *stream) Close() error {
	n := s.h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.err == nil {
		s.err = net.ErrClosed
	}
	delete(s.h.streams, s)
	s.wake()
	if s.flying > 0 {
		s.arrive(s.last, func() { s.peer.eof = true })
		return nil
	}
	s.peer.eof = true
	s.peer.wake()
	return nil
}

// LocalAddr is the own end.
func (s *stream) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(s.local) }

// RemoteAddr is the other end.
func (s *stream) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

func (s *stream) set(do func()) error {
	s.h.net.mu.Lock()
	defer s.h.net.mu.Unlock()
	do()
	s.wake()
	return nil
}

// SetDeadline bounds reads and writes.
func (s *stream) SetDeadline(t time.Time) error { return s.set(func() { s.read, s.write = t, t }) }

// SetReadDeadline bounds reads.
func (s *stream) SetReadDeadline(t time.Time) error { return s.set(func() { s.read = t }) }

// SetWriteDeadline bounds writes.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.set(func() { s.write = t }) }
