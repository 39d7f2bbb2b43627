package ipmi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/govern"
)

// Serial over LAN. Source: IPMI 2.0 rev 1.1, sections 15.9 to 15.11 (packets), 24.1 and 24.2 (activation), 26.

const (
	solHeader   = 4
	solSequence = 15  // sequence numbers are 1 to 15; 0 is no packet but an acknowledgement
	solChunk    = 255 // octets that we send at once, at most
	solTries    = 8   // of one packet: 6 s with firstTry between them

	// keepEvery is how long nothing may come before the controller is asked who has the line; silent of it, and the controller is believed
	// gone. Controllers end a session after 60 s of silence (section 6.12.15).
	keepEvery = 20 * time.Second
	silent    = 2
)

// The operations that we send, and the status that a controller sends. Source: table 15-2.
const (
	solBreak        = 0x10
	solDeactivating = 0x10
	solOverrun      = 0x08
)

// sol is one packet of serial data.
type sol struct {
	seq   byte // 0: it bears no data
	acked byte // 0: it acknowledges none
	count byte // octets of the acknowledged packet that were taken
	flags byte
	data  []byte
}

func (p sol) pack() []byte { return append([]byte{p.seq, p.acked, p.count, p.flags}, p.data...) }

// parseSOL reads what a controller sends. Errors: errWire.
func parseSOL(b []byte) (sol, error) {
	if len(b) < solHeader || len(b) > solHeader+255 {
		return sol{}, errWire
	}
	return sol{b[0] & 0x0f, b[1] & 0x0f, b[2], b[3], b[solHeader:]}, nil
}

// receiver puts a controller's packets in order.
type receiver struct {
	seq byte // of the last packet, 0: none came yet
	n   int  // octets of it
}

// take returns the octets of p that are new, and whether some before them are missing. A packet that comes again may bear more than before.
func (r *receiver) take(p sol) (fresh []byte, skipped bool) {
	if p.seq == r.seq {
		fresh = p.data[min(r.n, len(p.data)):]
		r.n = max(r.n, len(p.data))
		return fresh, false
	}
	skipped = r.seq != 0 && p.seq != r.seq%solSequence+1
	r.seq, r.n = p.seq, len(p.data)
	return p.data, skipped
}

// line is a bmc.Line. Read is what keeps it alive: it acknowledges, asks when all is silent, and hands acknowledgements to Write.
type line struct {
	s       *session
	max     int           // octets that the controller takes at once
	keep    time.Duration // keepEvery
	holder  uint32        // who has the line, by the controller's own number, as it was when it was opened; 0: it does not say
	reading chan struct{} // who has it uses what follows
	in      receiver
	rest    []byte // received and not read yet
	skipped bool
	heard   time.Time
	asked   time.Time

	writing chan struct{} // who has it sends a packet
	seq     byte          // of the last one
	acks    chan sol

	sealing sync.Mutex    // guards s.keys.sent and s.seq
	end     sync.Once     // guards the closing of ended
	ended   chan struct{} // by Close
}

var _ bmc.Line = (*line)(nil)

// Console implements bmc.Consoler. The line has a session of its own: that of the commands ends with a changed password, and with
// each answer that was lost.
func (c *Controller) Console(ctx context.Context) (bmc.Line, error) {
	var l *line
	err := retry(ctx, c.pace.busy, func() error {
		done, err := c.turns.Take(govern.Behind(ctx))
		if err != nil {
			return err
		}
		defer done()
		l, err = c.openLine(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open serial line at %s: %w", c.cfg.Address, err)
	}
	return l, nil
}

func (c *Controller) openLine(ctx context.Context) (*line, error) {
	s, _, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot log in: %w", err)
	}
	n, err := s.activate(ctx)
	if err != nil {
		return nil, errors.Join(err, s.farewell(), s.conn.Close())
	}
	// With what it says now it is compared later. Some do not say: then only silence, or their own word, ends the line.
	b, err := s.send(ctx, cmdInstance, instance(0)[:2], here)
	if code(err) != 0 {
		err = nil
	}
	if err = errors.Join(err, s.conn.SetDeadline(time.Time{})); err != nil { // ask's would end every write
		return nil, errors.Join(err, s.farewell(), s.conn.Close())
	}
	l := &line{s: s, max: n, holder: holderOf(b), keep: c.pace.keep, reading: make(chan struct{}, 1), writing: make(chan struct{}, 1), acks: make(chan sol, 1), heard: time.Now(), ended: make(chan struct{})}
	return l, nil
}

// instance is the first serial line, of which nothing is asked but that it is encrypted and authenticated. Source: table 24-2.
func instance(aux byte) []byte { return []byte{byte(payloadSOL), 1, aux, 0, 0, 0} }

// activate opens the line, and ends that of somebody else first if it must: who asks owns the machine. It returns how much the
// controller takes at once.
func (s *session) activate(ctx context.Context) (int, error) {
	if _, err := s.send(ctx, cmdPrivilege, []byte{roleAdmin & 0x0f}, here); err != nil {
		return 0, err
	}
	for try := 0; ; try++ {
		b, err := s.send(ctx, cmdActivate, instance(0xc0), here)
		switch code(err) {
		case 0x80, 0x82:
			if try == 2 {
				return 0, &bmc.QuirkError{Quirk: "sol-busy", Err: fmt.Errorf("%w: somebody else's line does not end: %w", bmc.ErrBusy, err)}
			}
			if _, derr := s.send(ctx, cmdDeactivate, instance(0), here); derr != nil && code(derr) == 0 {
				return 0, errors.Join(err, derr)
			}
			if err := rest(ctx, s.wait); err != nil {
				return 0, err
			}
			continue
		case 0x81:
			return 0, fmt.Errorf("%w: serial over LAN is switched off there; switch it on in its settings: %w", bmc.ErrUnsupported, err)
		case 0x83:
			return 0, fmt.Errorf("%w: it has no encryption for the serial line: %w", bmc.ErrUnsupported, err)
		}
		if err != nil {
			return 0, err
		}
		if len(b) < 8 {
			return 0, fmt.Errorf("cannot activate serial line: %d octets", len(b))
		}
		n := int(binary.LittleEndian.Uint16(b[4:])) - solHeader
		return min(max(n, 1), solChunk), nil
	}
}

// errTaken: the line is not ours any more.
var errTaken = errors.New("controller has ended the line, or somebody has taken it")

// holderOf reads who has the line; 0: nobody, or it cannot be told. Source: table 24-5.
func holderOf(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

// transmit sends a payload of the session.
func (l *line) transmit(kind payload, body []byte) error {
	l.sealing.Lock()
	b := l.s.keys.sealAs(kind, body)
	l.sealing.Unlock()
	_, err := l.s.conn.Write(b)
	return err
}

// lock waits for one of the line's two directions, or its end.
func (l *line) lock(c chan struct{}) error {
	select {
	case <-l.ended: // first: Close takes both
		return net.ErrClosed
	default:
	}
	select {
	case c <- struct{}{}:
		return nil
	case <-l.ended:
		return net.ErrClosed
	}
}

// Read implements bmc.Line. It has to be called all the time.
func (l *line) Read(p []byte) (int, error) {
	if err := l.lock(l.reading); err != nil {
		return 0, err
	}
	defer func() { <-l.reading }()
	buf := make([]byte, maxPacket)
	for {
		if l.skipped {
			l.skipped = false
			return 0, bmc.ErrSkipped
		}
		if len(l.rest) > 0 {
			n := copy(p, l.rest)
			l.rest = l.rest[n:]
			return n, nil
		}
		if err := l.receive(buf); err != nil {
			return 0, err
		}
	}
}

// receive takes one packet, or asks whether the controller is there.
func (l *line) receive(buf []byte) error {
	now := time.Now()
	due := l.heard.Add(l.keep)
	if a := l.asked.Add(l.keep / 4); a.After(due) {
		due = a
	}
	switch {
	case now.Sub(l.heard) > l.keep*silent:
		return fmt.Errorf("cannot hear the controller any more: %w for %v", errLost, l.keep*silent)
	case !now.Before(due): // also while packets come that are none of ours
		l.asked = now
		l.sealing.Lock()
		l.s.seq = (l.s.seq + 1) & 0x3f
		seq := l.s.seq
		l.sealing.Unlock()
		if err := l.transmit(payloadMessage, request(cmdInstance, seq, instance(0)[:2])); err != nil {
			return rest(context.Background(), l.s.wait) // an ICMP of before: it may be up again
		}
		return nil
	}
	if err := l.s.conn.SetReadDeadline(due); err != nil {
		return err
	}
	select {
	case <-l.ended: // after the deadline was set: Close's may have come before
		return net.ErrClosed
	default:
	}
	n, err := l.s.conn.Read(buf)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		select {
		case <-l.ended:
			return net.ErrClosed
		default:
			return nil
		}
	case errors.Is(err, net.ErrClosed):
		return err
	case err != nil:
		return rest(context.Background(), l.s.wait)
	}
	return l.packet(buf[:n])
}

// packet handles one. What is not authentic is passed over.
func (l *line) packet(b []byte) error {
	kind, body, err := l.s.keys.openAny(b)
	if err != nil {
		return nil
	}
	l.heard = time.Now()
	if kind != payloadSOL {
		if c, data, err := response(body, cmdInstance, l.s.seq); err == nil && c == 0 && l.holder != 0 && holderOf(data) != l.holder {
			return errTaken // some say nothing to who had it
		}
		return nil
	}
	p, err := parseSOL(body)
	if err != nil {
		return nil
	}
	if p.acked != 0 {
		select {
		case <-l.acks: // nobody waited for it
		default:
		}
		l.acks <- p // only Read sends
	}
	l.skipped = l.skipped || p.flags&solOverrun != 0
	if p.seq != 0 {
		fresh, skipped := l.in.take(p)
		l.rest, l.skipped = append(l.rest, fresh...), l.skipped || skipped
		if err := l.transmit(payloadSOL, sol{acked: p.seq, count: byte(len(p.data))}.pack()); err != nil {
			return nil // it sends the packet again
		}
	}
	if p.flags&solDeactivating != 0 {
		return errTaken
	}
	return nil
}

// Write implements bmc.Line: it returns when the controller has taken all of p.
func (l *line) Write(p []byte) (done int, err error) {
	if err := l.lock(l.writing); err != nil {
		return 0, err
	}
	defer func() { <-l.writing }()
	for idle := 0; done < len(p); {
		n, err := l.deliver(sol{data: p[done:min(len(p), done+l.max)]})
		if done += n; err != nil {
			return done, err
		}
		if n > 0 {
			idle = 0
		} else if idle++; idle == solTries {
			return done, fmt.Errorf("%w: it takes no characters", bmc.ErrBusy)
		}
	}
	return done, nil
}

// Break implements bmc.Line.
func (l *line) Break() error {
	if err := l.lock(l.writing); err != nil {
		return err
	}
	defer func() { <-l.writing }()
	_, err := l.deliver(sol{flags: solBreak})
	return err
}

// deliver sends a packet until it is acknowledged, and returns how much of its data was taken.
func (l *line) deliver(p sol) (int, error) {
	l.seq = l.seq%solSequence + 1
	p.seq = l.seq
	for range solTries {
		if err := l.transmit(payloadSOL, p.pack()); err != nil && errors.Is(err, net.ErrClosed) {
			return 0, err
		}
		a, err := l.acknowledged(p.seq)
		if err != nil {
			return 0, err
		}
		if a.acked != p.seq {
			continue // no answer
		}
		n := min(int(a.count), len(p.data))
		if n == 0 && len(p.data) > 0 { // it takes none now
			return 0, l.pause()
		}
		return n, nil
	}
	return 0, fmt.Errorf("cannot write to serial line: %w", errLost)
}

// acknowledged waits for the answer to packet seq; the zero sol: none came.
func (l *line) acknowledged(seq byte) (sol, error) {
	t := time.NewTimer(l.s.wait)
	defer t.Stop()
	for {
		select {
		case a := <-l.acks:
			if a.acked == seq {
				return a, nil
			}
		case <-t.C:
			return sol{}, nil
		case <-l.ended:
			return sol{}, net.ErrClosed
		}
	}
}

func (l *line) pause() error {
	t := time.NewTimer(l.s.wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-l.ended:
		return net.ErrClosed
	}
}

// Close implements bmc.Line. The session's end is the line's (section 24.2): to deactivate it would end that of whoever has it by now.
func (l *line) Close() error {
	first := false
	l.end.Do(func() { first = true; close(l.ended) })
	if !first {
		return nil
	}
	if err := l.s.conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return errors.Join(err, l.s.conn.Close())
	}
	l.reading <- struct{}{} // for good
	l.writing <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	_, err := l.s.send(ctx, cmdCloseSession, binary.LittleEndian.AppendUint32(nil, l.s.keys.theirs), here)
	if code(err) != 0 || errors.Is(err, errLost) || errors.Is(err, context.DeadlineExceeded) {
		err = nil // it has ended, or will: no session outlives its silence
	}
	return errors.Join(err, l.s.conn.Close())
}
