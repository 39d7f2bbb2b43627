package sflow

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	batch       = 64       // datagrams that one system call reads
	maxDatagram = 64 << 10 // of UDP
	// socketBuffer holds a quarter of a second of a full gigabit: what waits while a disk is slow.
	socketBuffer = 16 << 20
	// sourceEvery is how often one unknown source is logged; logSources bounds how many are.
	sourceEvery = time.Hour
	logSources  = 64
)

// Sink takes what a Receiver heard. It is called by one goroutine, and keeps neither datagram nor octets.
type Sink interface {
	// Datagram takes a datagram of a known exporter, which was not heard before; r reads its samples, and ends with the call.
	Datagram(a *Arrival, r *Reader)
}

// Reader reads the samples of one datagram.
type Reader struct {
	Sample Sample // as Next read it
	Step   Step   // what it adds to its source; zero unless it is of kind Flow

	d       Datagram
	streams *Streams
	stream  int
	refused *atomic.Uint64
}

// Next reads the next sample, in wire order; false when there is none left. Nothing is allocated but for a new source.
func (r *Reader) Next() bool {
	for r.d.Next(&r.Sample) {
		r.Step = Step{}
		if r.Sample.Kind != Flow {
			return true
		}
		var ok bool
		if r.Step, ok = r.streams.Source(r.stream, r.d.Uptime, &r.Sample); ok {
			return true
		}
		r.refused.Add(1)
	}
	return false
}

// Config is what a Receiver works with.
type Config struct {
	Listen string // host:port, UDP
	// Known tells whether a switch sends with this agent address from this address. Both must be the same switch's: sFlow has no
	// authentication.
	Known func(agent, from netip.Addr) bool
	Sink  Sink
	Log   *slog.Logger
	Now   func() time.Time // with the monotonic clock; nil: time.Now
}

// Reason is why a datagram was dropped.
type Reason uint8

// The reasons.
const (
	ReasonMalformed Reason = iota
	ReasonSource           // UDP source and agent address are no switch's
	ReasonDuplicate        // heard already, or too late to tell
	ReasonStreams          // MaxStreams are known already
	ReasonSources          // one sample: MaxSources of its stream, or AllSources, are known already
	ReasonPanic            // a fault of ours
	reasons
)

// String names the reason as metrics do.
func (r Reason) String() string {
	return [...]string{"malformed", "source", "duplicate", "streams", "sources", "panic"}[r]
}

// Reasons returns all of them.
func Reasons() []Reason {
	out := make([]Reason, reasons)
	for i := range out {
		out[i] = Reason(i)
	}
	return out
}

// Receiver is the socket of an agent.
type Receiver struct {
	cfg     Config
	streams *Streams

	dropped [reasons]atomic.Uint64
	socket  atomic.Uint64 // datagrams that the kernel dropped: nobody read them in time
	unknown atomic.Uint64
	conn    *net.UDPConn
	logged  map[netip.Addr]time.Time
	arrival Arrival // of the datagram that is being read; here, so that nothing is allocated
	reader  Reader
}

// New returns a receiver that has not begun.
func New(cfg Config) *Receiver {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Receiver{cfg: cfg, streams: NewStreams(), logged: map[netip.Addr]time.Time{}}
	r.reader = Reader{streams: r.streams, refused: &r.dropped[ReasonSources]}
	return r
}

// Dropped counts the datagrams that were dropped for a reason, since the start.
func (r *Receiver) Dropped(why Reason) uint64 { return r.dropped[why].Load() }

// SocketDrops counts the datagrams that the kernel dropped because they were not read in time.
func (r *Receiver) SocketDrops() uint64 { return r.socket.Load() }

// Unknown counts samples and records of kinds that are not read.
func (r *Receiver) Unknown() uint64 { return r.unknown.Load() }

// Listen binds the socket and returns its address; what comes waits there until Run reads it.
func (r *Receiver) Listen() (*net.UDPAddr, error) {
	addr, err := net.ResolveUDPAddr("udp", r.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for sFlow on %s: %w", r.cfg.Listen, err)
	}
	conn, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for sFlow on %s: %w", r.cfg.Listen, err)
	}
	setup(conn)
	r.conn = conn
	return conn.LocalAddr().(*net.UDPAddr), nil
}

// Run reads what comes until ctx ends, and closes the socket that Listen bound.
func (r *Receiver) Run(ctx context.Context) error {
	conn := r.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	if err := r.read(conn); ctx.Err() == nil {
		return fmt.Errorf("cannot read sFlow: %w", err)
	}
	return nil
}

// setup asks for a large buffer, past the system's limit where that is allowed, and for the count of what overflowed.
func setup(conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer) // what the system allows
		}
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1) // an old kernel does not count
	})
}

func (r *Receiver) read(conn *net.UDPConn) error {
	p := ipv4.NewPacketConn(conn) // reads IPv6 as well: a batch has no family
	msgs := make([]ipv4.Message, batch)
	for i := range msgs {
		msgs[i] = ipv4.Message{Buffers: [][]byte{make([]byte, maxDatagram)}, OOB: make([]byte, 64)}
	}
	for {
		n, err := p.ReadBatch(msgs, 0)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			return err
		}
		now := r.cfg.Now()
		for i := range msgs[:n] {
			m := &msgs[i]
			r.overflow(m.OOB[:m.NN])
			if from, ok := m.Addr.(*net.UDPAddr); ok {
				r.Take(m.Buffers[0][:m.N], from.AddrPort().Addr().Unmap(), now)
			}
		}
	}
}

// overflow reads the kernel's running count of drops.
func (r *Receiver) overflow(oob []byte) {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4 {
			r.socket.Store(uint64(binary.NativeEndian.Uint32(data)))
		}
		oob = rest
	}
}

// Take takes one datagram that came from an address at now; b is not kept. Only one goroutine may call it.
func (r *Receiver) Take(b []byte, from netip.Addr, now time.Time) {
	defer func() {
		if p := recover(); p != nil {
			if r.dropped[ReasonPanic].Add(1) == 1 {
				r.cfg.Log.Error("an sFlow datagram made us panic; it is dropped, and so is each one like it", "from", from, "panic", fmt.Sprint(p))
			}
		}
	}()
	d, err := Parse(b)
	if err != nil {
		r.dropped[ReasonMalformed].Add(1)
		return
	}
	if !d.Agent.IsValid() {
		d.Agent = from
	}
	if !r.cfg.Known(d.Agent, from) {
		r.dropped[ReasonSource].Add(1)
		r.logSource(d.Agent, from, now)
		return
	}
	a, ok, full := r.streams.Datagram(&d, now)
	if full {
		r.dropped[ReasonStreams].Add(1)
		return
	}
	if !ok {
		r.dropped[ReasonDuplicate].Add(1)
		return
	}
	r.unknown.Add(uint64(d.Unknown))
	r.arrival, r.reader.d, r.reader.stream = a, d, a.Stream
	r.cfg.Sink.Datagram(&r.arrival, &r.reader)
}

func (r *Receiver) logSource(agent, from netip.Addr, now time.Time) {
	last, seen := r.logged[from]
	if !seen && len(r.logged) >= logSources {
		for k, at := range r.logged { // what was not heard for an hour makes room
			if now.Sub(at) > sourceEvery {
				delete(r.logged, k)
			}
		}
		if len(r.logged) >= logSources {
			return
		}
	}
	if seen && now.Sub(last) < sourceEvery {
		return
	}
	r.logged[from] = now
	r.cfg.Log.Warn("sFlow from nobody's switch is dropped; give the switch this agent address in its spec.sflow", "from", from, "agent", agent)
}
