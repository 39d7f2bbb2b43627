package dhcp

import (
	"encoding/binary"
	"net/netip"
)

const (
	ethHeader  = 14
	ipHeader   = 20
	udpHeader  = 8
	etherIPv4  = 0x0800
	protoUDP   = 17
	replyTTL   = 64
	portServer = 67
)

// frame wraps a UDP payload for a client that has no address yet: it cannot answer ARP, so the kernel cannot send to it.
// src is our address, dst the address that the client is about to get.
// Source: RFC 894, RFC 791, RFC 768.
func frame(from, to MAC, src, dst netip.AddrPort, payload []byte) []byte {
	n := ipHeader + udpHeader + len(payload)
	b := make([]byte, ethHeader+n)
	be := binary.BigEndian
	copy(b, to[:])
	copy(b[6:], from[:])
	be.PutUint16(b[12:], etherIPv4)

	ip := b[ethHeader : ethHeader+ipHeader]
	ip[0] = 0x45
	be.PutUint16(ip[2:], uint16(n))
	be.PutUint16(ip[6:], 0x4000) // do not fragment: replies stay under 576 octets
	ip[8], ip[9] = replyTTL, protoUDP
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	be.PutUint16(ip[10:], checksum(0, ip))

	udp := b[ethHeader+ipHeader:]
	be.PutUint16(udp, src.Port())
	be.PutUint16(udp[2:], dst.Port())
	be.PutUint16(udp[4:], uint16(udpHeader+len(payload)))
	copy(udp[udpHeader:], payload)
	pseudo := uint32(protoUDP) + uint32(udpHeader+len(payload))
	for i := 0; i < 4; i += 2 {
		pseudo += uint32(be.Uint16(s[i:])) + uint32(be.Uint16(d[i:]))
	}
	c := checksum(pseudo, udp)
	if c == 0 {
		c = 0xffff // RFC 768: zero means none
	}
	be.PutUint16(udp[6:], c)
	return b
}

// checksum is the one's complement sum of RFC 1071 over b, beginning with sum.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
