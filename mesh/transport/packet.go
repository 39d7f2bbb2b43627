package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// ErrPacketSize says that a packet is larger than any lane carries.
var ErrPacketSize = errors.New("packet too large")

// outbox holds packets for one peer until its sender took them. The oldest goes when it is full.
type outbox struct {
	mu      sync.Mutex // guards what follows
	q       [][]byte
	running bool
	stopped bool
	wake    chan struct{} // capacity 1
	done    chan struct{}
}

func (o *outbox) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.stopped {
		o.stopped = true
		close(o.done)
	}
}

// SendPacket sends b (at most 64 KiB) to p, best effort: it never blocks, and packets are lost while p cannot be reached.
// Errors: ErrPacketSize, ErrClosed.
func (e *Endpoint) SendPacket(p Peer, b []byte) error {
	if len(b) == 0 || len(b) > maxPacket {
		return fmt.Errorf("cannot send packet of %d octets to %s: %w", len(b), p, ErrPacketSize)
	}
	e.mu.Lock()
	s := e.peer(p)
	if s.box == nil {
		s.box = &outbox{wake: make(chan struct{}, 1), done: make(chan struct{})}
	}
	box, connected, closed := s.box, s.conn != nil, e.closed
	e.mu.Unlock()
	if closed {
		return fmt.Errorf("cannot send packet to %s: %w", p, ErrClosed)
	}
	limit := packetQueue
	if !connected {
		limit = dialQueue
	}
	box.mu.Lock()
	box.q = append(box.q, append([]byte(nil), b...))
	if over := len(box.q) - limit; over > 0 {
		box.q = append([][]byte(nil), box.q[over:]...)
	}
	start := !box.running && !box.stopped
	if start {
		box.running = true
	}
	box.mu.Unlock()
	select {
	case box.wake <- struct{}{}:
	default:
	}
	if start && !e.spawn(func() { e.sendLoop(p, box) }) {
		return fmt.Errorf("cannot send packet to %s: %w", p, ErrClosed)
	}
	return nil
}

// take returns what waits. done tells that nothing came for senderIdle and the sender may go; SendPacket starts another.
func (o *outbox) take() (q [][]byte, done bool) {
	t := time.NewTimer(senderIdle)
	defer t.Stop()
	for {
		o.mu.Lock()
		if o.stopped {
			o.mu.Unlock()
			return nil, true
		}
		if len(o.q) > 0 {
			q, o.q = o.q, nil
			o.mu.Unlock()
			return q, false
		}
		o.mu.Unlock()
		select {
		case <-o.wake:
		case <-o.done:
		case <-t.C:
			o.mu.Lock()
			defer o.mu.Unlock()
			if len(o.q) > 0 {
				q, o.q = o.q, nil
				return q, false
			}
			o.running = false
			return nil, true
		}
	}
}

// sendLoop is the one sender for p.
func (e *Endpoint) sendLoop(p Peer, box *outbox) {
	const pause = time.Second // between dials to a peer that does not answer
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	e.spawn(func() {
		select {
		case <-box.done:
			cancel()
		case <-stop:
		}
	})
	var lane packetLane
	defer lane.close()
	for {
		q, done := box.take()
		if done {
			return
		}
		dctx, dcancel := context.WithTimeout(ctx, 2*handshakeTimeout)
		c, err := e.Dial(dctx, p)
		dcancel()
		if err != nil {
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-box.done:
			}
			t.Stop()
			continue
		}
		// A packet that cannot be sent is lost, as on any network; a dead session is dialled anew for the next batch.
		for _, b := range q {
			if err := lane.send(ctx, c, b); err != nil {
				break
			}
		}
	}
}

// packetLane sends packets on one session after the other.
type packetLane struct {
	conn   *Conn
	framed *Stream // TCP lane: one stream of u32 length and bytes
}

func (l *packetLane) close() {
	if l.framed != nil {
		_ = l.framed.Close()
		l.framed = nil
	}
}

func (l *packetLane) send(ctx context.Context, c *Conn, b []byte) error {
	if l.conn != c {
		l.close()
		l.conn = c
	}
	if c.q != nil {
		err := c.q.SendDatagram(b)
		var large *quic.DatagramTooLargeError
		if errors.As(err, &large) {
			return sendUni(ctx, c.q, b)
		}
		return err
	}
	if l.framed == nil {
		s, err := c.OpenStream(ctx, KindPacket)
		if err != nil {
			return err
		}
		l.framed = s
	}
	if err := l.framed.SetWriteDeadline(time.Now().Add(preambleTimeout)); err != nil {
		return err
	}
	_, err := l.framed.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	if err != nil {
		l.close()
	}
	return err
}

func sendUni(ctx context.Context, q *quic.Conn, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, preambleTimeout)
	defer cancel()
	s, err := q.OpenUniStreamSync(ctx)
	if err != nil {
		return err
	}
	if err := s.SetWriteDeadline(time.Now().Add(preambleTimeout)); err != nil {
		return err
	}
	if _, err := s.Write(append([]byte{KindPacket}, b...)); err != nil {
		s.CancelWrite(CodeProtocol)
		return err
	}
	return s.Close()
}

// receiveFramed reads packets of the TCP lane until the stream ends.
func (e *Endpoint) receiveFramed(_ context.Context, s *Stream) {
	defer s.Close()
	_ = readFrames(s, func(b []byte) { e.packet(s.peer, b) }) // its end is the peer's business
}

func readFrames(r io.Reader, each func([]byte)) error {
	for {
		var n [4]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(n[:])
		if size == 0 || size > maxPacket {
			return fmt.Errorf("cannot read packet of %d octets: %w", size, ErrPacketSize)
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		each(b)
	}
}

// MaxDatagram returns how many octets a packet to p may have to ride one datagram on the session that stands; 0 without one.
func (e *Endpoint) MaxDatagram(p Peer) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.peers[p]; s != nil && s.conn != nil && s.conn.q != nil {
		var large *quic.DatagramTooLargeError
		if err := s.conn.q.SendDatagram(make([]byte, maxPacket)); errors.As(err, &large) {
			return int(large.MaxDatagramPayloadSize)
		}
	}
	return 0
}
