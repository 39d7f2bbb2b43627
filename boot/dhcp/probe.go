package dhcp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// Prober asks on one interface, as a client would, which DHCP servers answer there, and hears their replies to others. It
// never takes an address. It sees frames below UDP: port 68 may belong to the host's own DHCP client.
type Prober struct {
	Iface  string
	Wanted func() bool // whether to probe now; replies are heard only then
	Ours   func(netip.Addr) bool
	// Heard is called for each reply of a server that is not ours, and Silent after each probe without one. They must not block.
	Heard  func(Server)
	Silent func()
	Logger *slog.Logger

	xid dhcpv4.TransactionID // of this life's probes; Run alone uses it

	mu      sync.Mutex // guards what follows
	counts  map[string]uint64
	heard   bool
	retried bool // the warning about sending was given
}

const (
	probeEvery  = 30 * time.Second // between probes, give or take
	probeJitter = 10 * time.Second
	probeRetry  = 2 * time.Second // after one that could not be sent: the link is down, or comes up just now
)

// Counts returns how many probes were answered, silent and unsent.
func (p *Prober) Counts() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]uint64{"answered": 0, "silent": 0, "unsent": 0}
	for k, n := range p.counts {
		out[k] = n
	}
	return out
}

// Run probes until ctx ends: at once, then every 30 ± 10 s. It needs CAP_NET_RAW.
func (p *Prober) Run(ctx context.Context) error {
	ifi, err := net.InterfaceByName(p.Iface)
	if err != nil {
		return fmt.Errorf("cannot look for DHCP servers on %s: %w", p.Iface, err)
	}
	fd, err := replySocket(ifi)
	if err != nil {
		return fmt.Errorf("cannot look for DHCP servers on %s: %w", p.Iface, err)
	}
	defer unix.Close(fd)
	rand.Read(p.xid[:]) // never fails: crypto/rand, Go 1.24
	var next, judge time.Time
	buf := make([]byte, maxPacket+ethHeader)
	for ctx.Err() == nil {
		now := time.Now()
		if !judge.IsZero() && now.After(judge) {
			judge = time.Time{}
			p.judge()
		}
		if !now.Before(next) && p.Wanted() {
			if err := p.ask(fd, ifi); err != nil {
				p.unsent(err)
				next = now.Add(probeRetry)
			} else {
				judge = now.Add(ProbeWait)
				next = now.Add(probeEvery - probeJitter + mathrand.N(2*probeJitter))
			}
		}
		n, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue // the receive timeout: look at ctx and clock
		case err != nil:
			return fmt.Errorf("cannot look for DHCP servers on %s: %w", p.Iface, err)
		}
		// Not what we send, and not what is for others: so the kernel marks frames of VLANs that this host has no interface in.
		if sa, ok := from.(*unix.SockaddrLinklayer); ok && (sa.Pkttype == unix.PACKET_HOST || sa.Pkttype == unix.PACKET_BROADCAST) {
			p.take(buf[:n])
		}
	}
	return nil
}

func (p *Prober) count(what string) {
	if p.counts == nil {
		p.counts = map[string]uint64{}
	}
	p.counts[what]++
}

// take looks at one frame. A panic of the codec costs this frame only.
func (p *Prober) take(frame []byte) {
	defer func() {
		if r := recover(); r != nil {
			p.Logger.Error("a DHCP reply made us panic; it was dropped", "iface", p.Iface, "panic", r)
		}
	}()
	s, ok := serverOf(frame, p.xid)
	if !ok || p.Ours(s.ID) || p.Ours(s.Addr) || !p.Wanted() {
		return
	}
	p.mu.Lock()
	p.heard = true
	p.mu.Unlock()
	p.Heard(s)
}

// judge ends the wait for the answers to a probe.
func (p *Prober) judge() {
	p.mu.Lock()
	heard := p.heard
	p.heard, p.retried = false, false
	if heard {
		p.count("answered")
	} else {
		p.count("silent")
	}
	p.mu.Unlock()
	if !heard {
		p.Silent()
	}
}

func (p *Prober) unsent(err error) {
	p.mu.Lock()
	told := p.retried
	p.retried = true
	p.count("unsent")
	p.mu.Unlock()
	if !told {
		p.Logger.Warn("cannot ask for other DHCP servers; asked again every 2 s", "iface", p.Iface, "err", err)
	}
}

func (p *Prober) ask(fd int, ifi *net.Interface) error {
	var own MAC
	copy(own[:], ifi.HardwareAddr)
	b := probe(own, p.xid)
	to := unix.SockaddrLinklayer{Protocol: etherIPv4>>8 | etherIPv4<<8&0xff00, Ifindex: ifi.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	return unix.Sendto(fd, b, 0, &to)
}

// probe is the frame of a DISCOVER that wants its answer broadcast. The address is the interface's own, so that a server has
// one client more, and not one with each probe.
func probe(own MAC, xid dhcpv4.TransactionID) []byte {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, TransactionID: xid, Flags: 0x8000, ClientHWAddr: net.HardwareAddr(own[:]), ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero,
		ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{53: {byte(dhcpv4.MessageTypeDiscover)}, 55: {1, 3, 6, 54}, 61: append([]byte{1}, own[:]...)},
	}
	zero, all := netip.IPv4Unspecified(), broadcast68().Addr()
	return frame(own, MAC{255, 255, 255, 255, 255, 255}, netip.AddrPortFrom(zero, 68), netip.AddrPortFrom(all, portServer), m.ToBytes())
}

// serverOf reads an Ethernet frame with an OFFER or ACK that gives an address: who gives addresses here? Broadcast ones count, to
// whomever, for no router forwards them; of those to one address only the answers to our probes, which bear its xid.
func serverOf(b []byte, xid dhcpv4.TransactionID) (Server, bool) {
	if len(b) < ethHeader+ipHeader+udpHeader || binary.BigEndian.Uint16(b[12:]) != etherIPv4 {
		return Server{}, false
	}
	ip := b[ethHeader:]
	head, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 != 4 || head < ipHeader || ip[9] != protoUDP || total > len(ip) || total < head+udpHeader || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
		return Server{}, false // fragments too: no server sends one
	}
	udp := ip[head:total]
	if binary.BigEndian.Uint16(udp) != portServer || binary.BigEndian.Uint16(udp[2:]) != 68 {
		return Server{}, false
	}
	m, err := dhcpv4.FromBytes(udp[udpHeader:])
	if err != nil || m.OpCode != dhcpv4.OpcodeBootReply {
		return Server{}, false
	}
	if t := m.MessageType(); t != dhcpv4.MessageTypeOffer && t != dhcpv4.MessageTypeAck {
		return Server{}, false
	}
	if [4]byte(ip[16:20]) != broadcast68().Addr().As4() && m.TransactionID != xid {
		return Server{}, false
	}
	s := Server{ID: addrOf(m.Options.Get(dhcpv4.OptionServerIdentifier)), Addr: addrOf(ip[12:16]), Has: addrOf(m.YourIPAddr), By: ByReply}
	if !s.Has.IsValid() || !s.Addr.IsValid() {
		return Server{}, false // a proxy, or the answer to an INFORM: nobody gives addresses there
	}
	if !s.ID.IsValid() {
		s.ID = s.Addr
	}
	s.MAC = MAC(b[6:12]).String()
	return s, true
}

// replySocket sees the IPv4 frames to UDP port 68 of one interface. The filter runs in the kernel, from the first frame on.
func replySocket(ifi *net.Interface) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open packet socket: %w", err)
	}
	const ld, ldx, jeq, jset, ret = 0x28, 0xb1, 0x15, 0x45, 0x06 // linux/bpf_common.h: half word absolute, IP header length, jumps
	filter := []unix.SockFilter{
		{Code: ld, K: 12},
		{Code: jeq, Jf: 8, K: etherIPv4},
		{Code: 0x30, K: 23},
		{Code: jeq, Jf: 6, K: protoUDP}, // the protocol, one octet
		{Code: ld, K: 20},
		{Code: jset, Jt: 4, K: 0x1fff}, // a later fragment
		{Code: ldx, K: ethHeader},
		{Code: 0x48, K: ethHeader + 2},
		{Code: jeq, Jf: 1, K: 68}, // the port, behind IP's header
		{Code: ret, K: maxPacket + ethHeader},
		{Code: ret, K: 0},
	}
	tv := unix.NsecToTimeval(raTick.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: etherIPv4>>8 | etherIPv4<<8&0xff00, Ifindex: ifi.Index}))
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot set up packet socket: %w", err)
	}
	return fd, nil
}
