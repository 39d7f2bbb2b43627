package sflow

import (
	"encoding/binary"
	"net/netip"
)

// Packet is what the records of one sample say of the packet.
type Packet struct {
	Len  uint32 // octets on the wire with FCS; of the inner frame where VNI was read from the header; 0: no record says
	L3   uint32 // octets of the IP packet, at most Len; 0: not IP
	Src  netip.Addr
	Dst  netip.Addr // both zero: not IP, or cut off
	VLAN uint16     // first tag of the header, 0: none
	VNI  uint32     // of VXLAN in the header, or of records 1029 and 1030; 0: none
	// SrcVLAN and DstVLAN are of record 1001, 0: none.
	SrcVLAN, DstVLAN uint32
}

// overhead is what a frame has beside an IP packet, when only the packet's length is known: Ethernet header and FCS.
const overhead = 18

// read fills p from the n flow records of b, which Parse has checked. Of the length the raw header's word counts, then record 2's,
// then records 3 and 4 with overhead.
func (p *Packet) read(n uint32, b []byte) {
	*p = Packet{}
	var mac, ip uint32 // lengths by records 2 and 3 or 4
	var vni uint32
	var header bool
	for range n {
		tag, data, rest, err := next(b)
		if err != nil {
			return // cannot be: Parse went the same way
		}
		b = rest
		switch tag {
		case recHeader:
			header = true
			p.header(be32(data), be32(data[4:]), data[16:16+be32(data[12:])])
		case recEthernet:
			mac = be32(data)
		case recIPv4:
			if !p.Src.IsValid() {
				ip, p.Src, p.Dst = be32(data), netip.AddrFrom4([4]byte(data[8:12])), netip.AddrFrom4([4]byte(data[12:16]))
			}
		case recIPv6:
			if !p.Src.IsValid() {
				ip, p.Src, p.Dst = be32(data), netip.AddrFrom16([16]byte(data[8:24])), netip.AddrFrom16([16]byte(data[24:40]))
			}
		case recSwitch:
			p.SrcVLAN, p.DstVLAN = be32(data), be32(data[8:])
		case recVNIOut, recVNIIn:
			vni = be32(data)
		}
	}
	if p.VNI == 0 {
		p.VNI = vni
	}
	if header {
		return
	}
	p.Len, p.L3 = mac, ip
	if p.Len == 0 && ip != 0 {
		p.Len = ip + overhead
		if p.Len < ip {
			p.Len = ip
		}
	}
	p.L3 = min(p.L3, p.Len)
}

// protocols of record 1.
const (
	protoEthernet = 1
	protoIPv4     = 11
	protoIPv6     = 12
)

// header reads a raw header: frame is what the packet had on the wire with FCS, h what was kept of its beginning.
func (p *Packet) header(protocol, frame uint32, h []byte) {
	p.Len = frame
	switch protocol {
	case protoEthernet:
		p.ethernet(frame, h, true)
	case protoIPv4:
		p.ipv4(frame, h, false)
	case protoIPv6:
		p.ipv6(frame, h, false)
	}
}

const (
	etherIPv4  = 0x0800
	etherIPv6  = 0x86dd
	etherVLAN  = 0x8100
	etherQinQ  = 0x88a8
	portVXLAN  = 4789
	protoUDP   = 17
	vxlanKnown = 0x08 // the I flag: the VNI counts
)

// ethernet reads one frame of frame octets with FCS, of which h is the beginning. outer: VXLAN is looked into.
func (p *Packet) ethernet(frame uint32, h []byte, outer bool) {
	if len(h) < 14 {
		return
	}
	kind, h := binary.BigEndian.Uint16(h[12:]), h[14:]
	off := uint32(14)
	for range 2 {
		if (kind != etherVLAN && kind != etherQinQ) || len(h) < 4 {
			break
		}
		if v := binary.BigEndian.Uint16(h) & 0xfff; p.VLAN == 0 {
			p.VLAN = v
		}
		kind, h, off = binary.BigEndian.Uint16(h[2:]), h[4:], off+4
	}
	if frame < off+4 {
		return // the length lies, or the FCS is missing: no room for a packet
	}
	switch kind {
	case etherIPv4:
		p.ipv4(frame-off-4, h, outer)
	case etherIPv6:
		p.ipv6(frame-off-4, h, outer)
	}
}

// ipv4 reads an IP packet that has at most room octets. A total length of 0 is of a packet that the host's card has yet to cut.
func (p *Packet) ipv4(room uint32, h []byte, outer bool) {
	if len(h) < 20 || h[0]>>4 != 4 {
		return
	}
	hl := int(h[0]&15) * 4
	p.L3 = uint32(binary.BigEndian.Uint16(h[2:]))
	if p.L3 == 0 || p.L3 > room {
		p.L3 = room
	}
	p.Src, p.Dst = netip.AddrFrom4([4]byte(h[12:16])), netip.AddrFrom4([4]byte(h[16:20]))
	if first := binary.BigEndian.Uint16(h[6:])&0x1fff == 0; outer && first && h[9] == protoUDP && hl >= 20 && len(h) >= hl {
		p.vxlan(room, uint32(hl), h[hl:])
	}
}

// ipv6 reads an IP packet that has at most room octets. A payload length of 0 is of a jumbogram, or of one that is yet to be cut.
func (p *Packet) ipv6(room uint32, h []byte, outer bool) {
	if len(h) < 40 || h[0]>>4 != 6 {
		return
	}
	p.L3 = 40 + uint32(binary.BigEndian.Uint16(h[4:]))
	if p.L3 == 40 && room > 40 || p.L3 > room {
		p.L3 = room
	}
	p.Src, p.Dst = netip.AddrFrom16([16]byte(h[8:24])), netip.AddrFrom16([16]byte(h[24:40]))
	if outer && h[6] == protoUDP {
		p.vxlan(room, 40, h[40:])
	}
}

// vxlan looks into a UDP datagram whose IP packet has room octets, hl of them before it: the inner frame takes the place of the outer
// one. The outer FCS stands for the inner one, which is not on the wire. Source: RFC 7348 section 5.
func (p *Packet) vxlan(room, hl uint32, h []byte) {
	if len(h) < 16+14 || binary.BigEndian.Uint16(h[2:]) != portVXLAN || h[8]&vxlanKnown == 0 || room < hl+16+14 {
		return
	}
	vni := be32(h[12:]) >> 8
	frame := room - hl - 16 + 4
	*p = Packet{Len: frame, VNI: vni, SrcVLAN: p.SrcVLAN, DstVLAN: p.DstVLAN}
	p.ethernet(frame, h[16:], false)
}
