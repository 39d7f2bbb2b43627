package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Advertiser answers router solicitations of netbooting machines. Without an answer iPXE waits 13-15 s for one after its
// DHCP ACK (measured: testbench R5). It never speaks unasked, and not where another router advertises.
// Source: RFC 4861 sections 4.1, 4.2, 6.2.6.
type Advertiser struct {
	Iface  string
	ULA    netip.Prefix // /64 to advertise for autoconfiguration; zero: none
	Known  func(MAC) bool
	Logger *slog.Logger
}

const (
	icmpSolicit   = 133
	icmpAdvertise = 134
	optSourceLink = 1
	optPrefix     = 3
	ndHopLimit    = 255              // RFC 4861: anything else was routed and is ignored
	raQuiet       = 30 * time.Minute // the longest RA interval of RFC 4861: a router silent for so long is gone
	raLifetime    = 3600             // seconds of the prefix: a boot is over long before
)

// Run serves until ctx ends. It needs CAP_NET_RAW.
func (a *Advertiser) Run(ctx context.Context) error {
	ifi, err := net.InterfaceByName(a.Iface)
	if err != nil {
		return fmt.Errorf("cannot advertise on %s: %w", a.Iface, err)
	}
	fd, err := raSocket(ifi)
	if err != nil {
		return fmt.Errorf("cannot advertise on %s: %w", a.Iface, err)
	}
	defer unix.Close(fd)
	var other time.Time
	buf := make([]byte, maxPacket)
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue // the receive timeout: look at ctx
		case err != nil:
			return fmt.Errorf("cannot advertise on %s: %w", a.Iface, err)
		}
		sa, ok := from.(*unix.SockaddrInet6)
		if !ok || n < 8 {
			continue
		}
		if buf[0] == icmpAdvertise {
			other = time.Now()
			continue
		}
		src := netip.AddrFrom16(sa.Addr)
		mac, ok := solicitor(buf[:n], src)
		if !ok || !a.Known(mac) || !other.IsZero() && time.Since(other) < raQuiet {
			continue
		}
		var own MAC
		copy(own[:], ifi.HardwareAddr)
		to := &unix.SockaddrInet6{Addr: sa.Addr, ZoneId: uint32(ifi.Index)}
		if src.IsUnspecified() { // RFC 4861 section 6.2.6: no unicast address to answer to
			to.Addr = netip.MustParseAddr("ff02::1").As16()
		}
		err = unix.Sendto(fd, advertisement(own, a.ULA), 0, to)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) { // our own link-local address is still being checked
			a.Logger.Warn("cannot send router advertisement", "iface", a.Iface, "err", err)
		}
	}
	return nil
}

// raTick bounds how long Run outlives its context.
const raTick = 200 * time.Millisecond

func raSocket(ifi *net.Interface) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, fmt.Errorf("cannot open ICMPv6 socket: %w", err)
	}
	filter := unix.ICMPv6Filter{}
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0) // blocked
	}
	for _, t := range []int{icmpSolicit, icmpAdvertise} {
		filter.Data[t/32] &^= 1 << (t % 32)
	}
	tv := unix.NsecToTimeval(raTick.Nanoseconds())
	all := unix.IPv6Mreq{Multiaddr: netip.MustParseAddr("ff02::2").As16(), Interface: uint32(ifi.Index)} // all routers
	err = errors.Join(
		unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &filter),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ndHopLimit),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ndHopLimit),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifi.Index),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0),
		unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &all),
		unix.BindToDevice(fd, ifi.Name))
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot set up ICMPv6 socket: %w", err)
	}
	return fd, nil
}

// solicitor finds who solicits: the source link-layer option, else the MAC inside an EUI-64 address. b is an ICMPv6 message.
func solicitor(b []byte, src netip.Addr) (MAC, bool) {
	if len(b) < 8 || b[0] != icmpSolicit || b[1] != 0 {
		return MAC{}, false
	}
	var mac MAC
	for o := b[8:]; len(o) >= 8; {
		n := int(o[1]) * 8
		if n == 0 || n > len(o) {
			return MAC{}, false
		}
		if o[0] == optSourceLink {
			copy(mac[:], o[2:8])
			return mac, true
		}
		o = o[n:]
	}
	a := src.As16()
	if !src.IsLinkLocalUnicast() || a[11] != 0xff || a[12] != 0xfe {
		return MAC{}, false
	}
	return MAC{a[8] ^ 2, a[9], a[10], a[13], a[14], a[15]}, true
}

// advertisement is an RA of lifetime 0: we are no default router. The kernel fills in the checksum.
func advertisement(own MAC, ula netip.Prefix) []byte {
	b := make([]byte, 16, 56)
	b[0] = icmpAdvertise
	b[4] = 64 // current hop limit
	b = append(b, optSourceLink, 1)
	b = append(b, own[:]...)
	if !ula.IsValid() {
		return b
	}
	b = append(b, optPrefix, 4, byte(ula.Bits()), 0x40) // autonomous, not on-link
	b = binary.BigEndian.AppendUint32(b, raLifetime)
	b = binary.BigEndian.AppendUint32(b, raLifetime)
	b = append(b, 0, 0, 0, 0)
	p := ula.Masked().Addr().As16()
	return append(b, p[:]...)
}
