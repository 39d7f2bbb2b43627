package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// Site is what a Listener needs of its agent.
type Site interface {
	// View returns the newest view; it is called for each packet and must not block.
	View() *View
	// Commit makes a dynamic lease durable. On an error (another client has the address meanwhile, disk full) nothing is sent.
	Commit(ctx context.Context, l Lease) error
	// Seen reports what became of a packet. It must not block.
	Seen(e Event)
}

// ListenerConfig says where to listen.
type ListenerConfig struct {
	Iface  string // interface name; the sockets are bound to it
	Site   Site
	Logger *slog.Logger
	// Ready, if set, is closed once the sockets are bound.
	Ready chan<- struct{}
}

const (
	maxPacket     = 1500             // a DHCP message in one Ethernet frame
	commitTimeout = 2 * time.Second  // clients repeat after 4 s: a later ACK answers a dead transaction
	addrMaxAge    = 10 * time.Second // how long the interface's address is believed
	maxOffers     = 4096             // open OFFERs; when full the oldest are let go
	maxRepeats    = 16384            // clients whose DISCOVERs are counted; when full counting begins anew
	repeatWindow  = time.Minute
	// Strangers per second and at once. Known clients are not limited: a flood from 50,000 MACs must not starve them.
	strangerRate, strangerBurst = 200, 64
	maxLeased, maxStrangers     = 1024, 64
	// receiveBuffer holds what comes while a packet is answered, in the kernel: 10,000 packets, a second of a flood.
	receiveBuffer = 8 << 20
)

// Listener answers DHCP on one interface.
type Listener struct {
	cfg ListenerConfig

	mu     sync.Mutex // guards what follows
	counts map[string]uint64
	socks  []*socket

	strangers *rate.Limiter
}

// NewListener binds nothing yet.
func NewListener(cfg ListenerConfig) *Listener {
	return &Listener{cfg: cfg, counts: map[string]uint64{}, strangers: rate.NewLimiter(strangerRate, strangerBurst)}
}

// Counts returns how often each reason occurred, and dropped, panics and send-errors besides.
func (l *Listener) Counts() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.counts)
}

// Waiting returns how many packets of strangers wait, at most 64 for each port.
func (l *Listener) Waiting() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.socks {
		n += len(s.strangers)
	}
	return n
}

func (l *Listener) count(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[reason]++
}

// socket is one bound port with the state that only its reader touches, and the queues.
type socket struct {
	l       *Listener
	port    uint16
	conn    *net.UDPConn
	raw     int // AF_PACKET socket for frames
	ifi     *net.Interface
	local   netip.Addr
	localAt time.Time
	// Who waits for the disk, and who waits for them. When full the newest is dropped: it repeats itself.
	leased, strangers chan arrived
}

// memory is what is remembered of clients without a reservation, by the one goroutine that answers them.
type memory struct {
	offers  map[netip.Addr]Offer
	repeats map[MAC]repeat
}

type repeat struct {
	n    int
	last time.Time
}

// Run serves ports 67 and 4011 until ctx ends. It needs CAP_NET_RAW and CAP_NET_BIND_SERVICE.
func (l *Listener) Run(ctx context.Context) error {
	ifi, err := net.InterfaceByName(l.cfg.Iface)
	if err != nil {
		return fmt.Errorf("cannot serve DHCP on %s: %w", l.cfg.Iface, err)
	}
	raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: sends only
	if err != nil {
		return fmt.Errorf("cannot serve DHCP on %s: cannot open packet socket: %w", l.cfg.Iface, err)
	}
	defer unix.Close(raw)
	var socks []*socket
	for _, port := range []uint16{portServer, port4011} {
		conn, err := listen(ctx, l.cfg.Iface, port)
		if err != nil {
			for _, s := range socks {
				err = errors.Join(err, s.conn.Close())
			}
			return fmt.Errorf("cannot serve DHCP on %s: %w", l.cfg.Iface, err)
		}
		socks = append(socks, &socket{l: l, port: port, conn: conn, raw: raw, ifi: ifi, leased: make(chan arrived, maxLeased), strangers: make(chan arrived, maxStrangers)})
	}
	l.mu.Lock()
	l.socks = socks
	l.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range socks {
		stop := context.AfterFunc(ctx, func() { s.conn.Close() })
		g.Go(func() error {
			defer stop()
			return s.read(ctx)
		})
		g.Go(func() error { return s.wait(ctx) })
	}
	if l.cfg.Ready != nil {
		close(l.cfg.Ready)
	}
	return g.Wait()
}

func listen(ctx context.Context, iface string, port uint16) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) {
			serr = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), // one socket per interface on one port
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), iface))
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
				// Without CAP_NET_ADMIN as much as the host allows; a smaller one loses more of a flood, and nothing else.
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			}
		})
		return errors.Join(err, serr)
	}}
	c, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return c.(*net.UDPConn), nil
}

// arrived is a packet that waits for its turn.
type arrived struct {
	b     []byte
	mac   MAC
	first bool // DISCOVER
	src   netip.AddrPort
	local netip.Addr
}

// read takes packets off the socket. Machines with a reservation are answered here and now; who has a lease, which is written to
// disk first, and strangers wait apart, and strangers are dropped first.
func (s *socket) read(ctx context.Context) error {
	defer s.conn.Close()
	buf := make([]byte, maxPacket)
	for {
		n, src, err := s.conn.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ECONNREFUSED) {
				s.l.count("read-error")
				continue
			}
			return fmt.Errorf("cannot read DHCP on %s: %w", s.l.cfg.Iface, err)
		}
		v := s.l.cfg.Site.View()
		if v == nil {
			s.l.count("no-view")
			continue
		}
		now := time.Now()
		mac, first := peek(buf[:n])
		lane := s.leased
		switch {
		case v.Reserved(mac):
			s.one(ctx, arrived{slices.Clone(buf[:n]), mac, first, src, s.address(now)}, nil)
			continue
		case !v.Known(mac):
			lane = s.strangers
			if !s.l.strangers.AllowN(now, 1) {
				s.l.count("dropped")
				continue
			}
		}
		s.queue(lane, arrived{slices.Clone(buf[:n]), mac, first, src, s.address(now)})
	}
}

func (s *socket) queue(lane chan<- arrived, a arrived) {
	select {
	case lane <- a:
	default:
		s.l.count("dropped")
	}
}

// wait answers those who wait, strangers last.
func (s *socket) wait(ctx context.Context) error {
	m := &memory{offers: map[netip.Addr]Offer{}, repeats: map[MAC]repeat{}}
	for {
		select {
		case a := <-s.leased:
			s.one(ctx, a, m)
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return nil
		case a := <-s.leased:
			s.one(ctx, a, m)
		case a := <-s.strangers:
			s.one(ctx, a, m)
		}
	}
}

// one answers one packet. A panic of the codec costs this packet only. m is nil for a machine with a reservation: it is offered the
// same address at once, whatever was before.
func (s *socket) one(ctx context.Context, a arrived, m *memory) {
	defer func() {
		if r := recover(); r != nil {
			s.l.count("panic")
			s.l.cfg.Logger.Error("a DHCP packet made us panic; it was dropped", "from", a.src.String(), "panic", r)
		}
	}()
	now, mac := time.Now(), a.mac
	p := Packet{Bytes: a.b, Local: a.local, Src: netip.AddrPortFrom(a.src.Addr().Unmap(), a.src.Port()), Port: s.port, At: now}
	if m != nil {
		p.Offers = m.offers
		if a.first {
			p.Repeat = m.repeated(mac, now)
		}
	}
	rep, eff := Handle(p, s.l.cfg.Site.View())
	if m != nil {
		m.note(mac, eff, now)
	} else if eff.Commit != nil || eff.Offer != nil || eff.Event.Reason == ReasonWait {
		s.queue(s.leased, a) // its reservation is of another subnet: here it is one of those who wait
		return
	}
	if eff.Commit != nil {
		cctx, cancel := context.WithTimeout(ctx, commitTimeout)
		err := s.l.cfg.Site.Commit(cctx, *eff.Commit)
		cancel()
		if err != nil {
			s.l.count("commit-error")
			s.l.cfg.Logger.Warn("cannot commit lease; no answer was sent", "mac", mac.String(), "addr", eff.Commit.Addr.String(), "err", err)
			return
		}
		if m != nil {
			delete(m.offers, eff.Commit.Addr)
		}
	}
	if rep.Bytes != nil {
		if err := s.send(rep, p.Local); err != nil {
			s.l.count("send-error")
			s.l.cfg.Logger.Warn("cannot send DHCP reply", "mac", mac.String(), "to", rep.To.String(), "err", err)
			return
		}
	}
	s.l.count(eff.Event.Reason)
	s.l.cfg.Site.Seen(eff.Event)
}

// peek reads MAC and message type without the codec, to sort strangers out before work is done for them.
func peek(b []byte) (mac MAC, discover bool) {
	const hw, magic = 28, 236
	if len(b) < magic+7 || b[1] != 1 || b[2] != 6 {
		return MAC{}, false
	}
	copy(mac[:], b[hw:])
	for o := b[magic+4:]; len(o) >= 3; {
		switch {
		case o[0] == 0:
			o = o[1:]
			continue
		case o[0] == 255:
			return mac, false
		case o[0] == 53 && o[1] == 1:
			return mac, o[2] == 1
		}
		if len(o) < 2+int(o[1]) {
			break
		}
		o = o[2+int(o[1]):]
	}
	return mac, false
}

func (m *memory) repeated(mac MAC, now time.Time) int {
	if len(m.repeats) >= maxRepeats {
		clear(m.repeats)
	}
	r, ok := m.repeats[mac]
	if !ok || now.Sub(r.last) > repeatWindow {
		m.repeats[mac] = repeat{0, now}
		return 0
	}
	m.repeats[mac] = repeat{r.n + 1, now}
	return r.n + 1
}

// note remembers an offer, and forgets how often a client asked that was answered, by us or, as its REQUEST shows, by another.
func (m *memory) note(mac MAC, e Effects, now time.Time) {
	switch e.Event.Reason {
	case ReasonOther, ReasonElse, ReasonProxy:
		delete(m.repeats, mac)
	}
	if e.Offer == nil {
		return
	}
	delete(m.repeats, mac)
	if len(m.offers) >= maxOffers {
		for a, old := range m.offers {
			if !now.Before(old.Until) {
				delete(m.offers, a)
			}
		}
	}
	if len(m.offers) < maxOffers {
		m.offers[e.Offer.Addr] = e.Offer.Offer
	}
}

// address is our IPv4 address on the interface.
func (s *socket) address(now time.Time) netip.Addr {
	if s.local.IsValid() && now.Sub(s.localAt) < addrMaxAge {
		return s.local
	}
	as, err := s.ifi.Addrs()
	if err != nil {
		return s.local
	}
	s.local, s.localAt = netip.Addr{}, now
	for _, a := range as {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			s.local = p.Addr()
			break
		}
	}
	return s.local
}

func (s *socket) send(r Reply, local netip.Addr) error {
	if !r.Frame || !local.IsValid() {
		_, err := s.conn.WriteToUDPAddrPort(r.Bytes, r.To)
		return err
	}
	var from MAC
	copy(from[:], s.ifi.HardwareAddr)
	b := frame(from, r.MAC, netip.AddrPortFrom(local, s.port), r.To, r.Bytes)
	to := unix.SockaddrLinklayer{Protocol: etherIPv4>>8 | etherIPv4<<8&0xff00, Ifindex: s.ifi.Index, Halen: 6}
	copy(to.Addr[:], r.MAC[:])
	return unix.Sendto(s.raw, b, 0, &to)
}
