package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	latency = 200 * time.Microsecond // of a packet
	queue   = 4096                   // packets that wait at a socket; more are lost
	window  = 256 << 10              // octets that wait in a stream; more make the writer wait
	backlog = 128
)

// Net is one network. The zero value is not usable; New makes it.
type Net struct {
	mu    sync.Mutex // guards all that is here, and the state of every host, socket and stream
	wires signal     // cuts, and hosts that come and go
	hosts map[netip.Addr]*Host
	cuts  map[[2]netip.Addr]bool
	mute  map[[2]netip.Addr]bool // from, to: nothing gets through
	sky   *sky
	sent  map[[2]netip.Addr]int // packets and writes to streams, from and to
}

// signal wakes those who wait for a change of one thing.
type signal struct{ changed chan struct{} }

func (s *signal) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

func (s *signal) wait() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// New returns a network without hosts.
func New() *Net {
	return &Net{hosts: map[netip.Addr]*Host{}, cuts: map[[2]netip.Addr]bool{}, mute: map[[2]netip.Addr]bool{}, sent: map[[2]netip.Addr]int{}}
}

// Sent returns how many packets and writes to streams one host has sent to another one, those that were lost too.
func (n *Net) Sent(from, to string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sent[[2]netip.Addr{netip.MustParseAddr(from), netip.MustParseAddr(to)}]
}

// Host is one box with one address.
type Host struct {
	net     *Net
	ip      netip.Addr
	next    uint16 // port of the next dial
	listen  map[uint16]*listener
	packets map[uint16]*packetConn
	streams map[*stream]bool // its ends
	send    func()
}

// OnSend lets fn be called before each packet and each write to a stream that this host sends: a moment at which it may be unplugged.
func (h *Host) OnSend(fn func()) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.send = fn
}

func (h *Host) sends() {
	h.net.mu.Lock()
	fn := h.send
	h.net.mu.Unlock()
	if fn != nil {
		fn()
	}
}

// Host returns the host of an address, like 10.0.1.1, and makes it the first time.
func (n *Net) Host(ip string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := netip.MustParseAddr(ip)
	h := n.hosts[at]
	if h == nil {
		h = &Host{net: n, ip: at, next: 40000, listen: map[uint16]*listener{}, packets: map[uint16]*packetConn{}, streams: map[*stream]bool{}}
		n.hosts[at] = h
	}
	return h
}

func pair(a, b netip.Addr) [2]netip.Addr {
	if b.Less(a) {
		a, b = b, a
	}
	return [2]netip.Addr{a, b}
}

// Cut parts two hosts, or joins them again.
func (n *Net) Cut(a, b string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[pair(netip.MustParseAddr(a), netip.MustParseAddr(b))] = cut
	n.wires.wake()
	for _, h := range n.hosts {
		for s := range h.streams {
			s.wake()
		}
	}
}

func (n *Net) cut(from, to netip.Addr) bool {
	return n.cuts[pair(from, to)] || n.mute[[2]netip.Addr{from, to}]
}

// Unplug takes a host off the network without a word: its sockets end, who speaks with it hears nothing. When it listens again, what
// stood before is reset.
func (h *Host) Unplug() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for _, l := range h.listen {
		l.closed = true
		l.wake()
	}
	for _, p := range h.packets {
		p.closed = true
		p.wake()
	}
	for s := range h.streams {
		s.err = net.ErrClosed
		s.peer.lost = true
		s.wake()
	}
	clear(h.listen)
	clear(h.packets)
	clear(h.streams)
}

// wait blocks until ok, which a signal makes worth another look, the deadline or ctx. The caller holds mu; it is held again on return.
func (n *Net) wait(ctx context.Context, on *signal, deadline func() time.Time, ok func() bool) error {
	for !ok() {
		until, ch := deadline(), on.wait()
		var expired <-chan time.Time
		var t *time.Timer
		if !until.IsZero() {
			d := time.Until(until)
			if d <= 0 {
				return os.ErrDeadlineExceeded
			}
			t = time.NewTimer(d)
			expired = t.C
		}
		n.mu.Unlock()
		var err error
		select {
		case <-ch:
		case <-expired:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if t != nil {
			t.Stop()
		}
		n.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

func never() time.Time { return time.Time{} }

func (h *Host) port(addr string, taken func(uint16) bool) (uint16, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil || at.Addr() != h.ip {
		return 0, fmt.Errorf("cannot listen on %s: host is %s", addr, h.ip)
	}
	p := at.Port()
	for p == 0 || (at.Port() == 0 && taken(p)) {
		h.next++
		p = h.next
	}
	if taken(p) {
		return 0, fmt.Errorf("cannot listen on %s: %w", addr, syscall.EADDRINUSE)
	}
	return p, nil
}

// Listen implements transport.Network.
func (h *Host) Listen(_, addr string) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	p, err := h.port(addr, func(p uint16) bool { return h.listen[p] != nil })
	if err != nil {
		return nil, err
	}
	l := &listener{h: h, port: p}
	h.listen[p] = l
	for _, o := range h.net.hosts { // who spoke with an earlier life of this host is told now
		for s := range o.streams {
			if s.lost && s.remote.Addr() == h.ip {
				s.err = syscall.ECONNRESET
				s.wake()
			}
		}
	}
	h.net.wires.wake()
	return l, nil
}

// DialContext implements transport.Network. Over a cut it waits as long as ctx does.
func (h *Host) DialContext(ctx context.Context, _, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	up := func() bool {
		o := n.hosts[to.Addr()]
		return o != nil && !n.cut(h.ip, to.Addr()) && (len(o.listen) > 0 || len(o.packets) > 0 || o.ip == h.ip)
	}
	if err := n.wait(ctx, &n.wires, never, up); err != nil { // a host that is off answers nothing, too
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	l := n.hosts[to.Addr()].listen[to.Port()]
	if l == nil || len(l.queue) == backlog {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: syscall.ECONNREFUSED}
	}
	h.next++
	from := netip.AddrPortFrom(h.ip, h.next)
	a, b := &stream{h: h, local: from, remote: to}, &stream{h: l.h, local: to, remote: from}
	a.peer, b.peer = b, a
	h.streams[a], l.h.streams[b] = true, true
	l.queue = append(l.queue, b)
	l.wake()
	return a, nil
}

type listener struct {
	signal
	h      *Host
	port   uint16
	queue  []*stream
	closed bool
}

// Accept waits for a stream.
func (l *listener) Accept() (net.Conn, error) {
	n := l.h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	_ = n.wait(context.Background(), &l.signal, never, func() bool { return l.closed || len(l.queue) > 0 })
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
	s := l.queue[0]
	l.queue = l.queue[1:]
	return s, nil
}

// Close ends it; streams go on.
func (l *listener) Close() error {
	n := l.h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if !l.closed && l.h.listen[l.port] == l {
		delete(l.h.listen, l.port)
	}
	l.closed = true
	l.wake()
	return nil
}

// Addr is where it listens.
func (l *listener) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.h.ip, l.port))
}

type packet struct {
	from netip.AddrPort
	b    []byte
}

type packetConn struct {
	signal
	h      *Host
	port   uint16
	queue  []packet
	read   time.Time
	closed bool
}

// ListenPacket implements transport.Network.
func (h *Host) ListenPacket(_, addr string) (net.PacketConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	p, err := h.port(addr, func(p uint16) bool { return h.packets[p] != nil })
	if err != nil {
		return nil, err
	}
	c := &packetConn{h: h, port: p}
	h.packets[p] = c
	return c, nil
}

// ReadFrom waits for a packet.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n := c.h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.wait(context.Background(), &c.signal, func() time.Time { return c.read }, func() bool { return c.closed || len(c.queue) > 0 }); err != nil {
		return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: err}
	}
	if c.closed {
		return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: net.ErrClosed}
	}
	p := c.queue[0]
	c.queue = c.queue[1:]
	return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
}

// WriteTo sends a packet, which a cut, an absent socket or a full queue loses.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.h.sends()
	n := c.h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return 0, &net.OpError{Op: "write", Net: "udp", Err: net.ErrClosed}
	}
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: "udp", Err: errors.New("no UDP address")}
	}
	at := u.AddrPort()
	n.sent[[2]netip.Addr{c.h.ip, at.Addr().Unmap()}]++
	p := packet{netip.AddrPortFrom(c.h.ip, c.port), append([]byte(nil), b...)}
	late, copies := latency, 1
	if y := n.over(c.h.ip, at.Addr().Unmap()); y != nil {
		if y.MTU > 0 && len(b) > y.MTU-28 || y.hits(y.Loss) { // IPv4 and UDP
			return len(b), nil
		}
		late += y.late()
		if y.hits(y.Reorder) {
			late += y.late()
		}
		if y.hits(y.Duplicate) {
			copies = 2
		}
	}
	for range copies {
		time.AfterFunc(late, func() { n.deliver(p, netip.AddrPortFrom(at.Addr().Unmap(), at.Port())) })
	}
	return len(b), nil
}

func (n *Net) deliver(p packet, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[to.Addr()]
	if h == nil || n.cut(p.from.Addr(), to.Addr()) {
		return
	}
	if c := h.packets[to.Port()]; c != nil && len(c.queue) < queue {
		c.queue = append(c.queue, p)
		c.wake()
	}
}

// Close ends the socket.
func (c *packetConn) Close() error {
	n := c.h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if !c.closed && c.h.packets[c.port] == c {
		delete(c.h.packets, c.port)
	}
	c.closed = true
	c.wake()
	return nil
}

// LocalAddr is where it listens.
func (c *packetConn) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.h.ip, c.port))
}

// SetDeadline bounds reads; writes never wait.
func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline bounds reads.
func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.h.net.mu.Lock()
	defer c.h.net.mu.Unlock()
	c.read = t
	c.wake()
	return nil
}

// SetWriteDeadline does nothing: writes never wait.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }
