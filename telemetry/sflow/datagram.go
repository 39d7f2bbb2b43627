package sflow

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// What makes a datagram refused as a whole; nothing of it is counted.
var (
	ErrShort   = errors.New("sflow: the datagram ends inside a header, a sample or a record")
	ErrVersion = errors.New("sflow: not version 5")
	ErrAddress = errors.New("sflow: the agent's address is neither IPv4 nor IPv6")
	ErrLength  = errors.New("sflow: a length does not fit what it belongs to")
)

// Kind is what a sample is.
type Kind uint8

// The kinds of samples that are read.
const (
	Flow     Kind = iota + 1 // one sampled packet
	Counters                 // counters of one interface
	Discard                  // one discarded packet; it has no rate
)

// SelfPort is the value of an input or output that means the switch itself. Source: sFlow version 5, struct interface.
const SelfPort = 0x3fffffff

// Port is an input or an output of a packet.
type Port struct {
	Format uint8  // 0: Value is an ifIndex; 1: a reason of discarding; 2: Value outputs, unknown which
	Value  uint32 // 0: unknown
}

// Sample is one sample; Next fills it and keeps nothing of it. What its Kind does not have is of an earlier sample or zero.
type Sample struct {
	Kind          Kind
	Seq           uint32
	SourceType    uint32 // 0: Source is an ifIndex
	Source        uint32
	Rate          uint32 // N of 1 in N; 0: invalid
	Pool          uint32 // packets that could have been sampled, of this source, modulo 2^32
	Drops         uint32 // samples that the exporter lost, modulo 2^32
	Input, Output Port
	Reason        uint32 // of a Discard
	Packet        Packet
	Counters      CounterSet
}

// Datagram is one datagram whose every length was checked. It refers to the octets that it was parsed from.
type Datagram struct {
	Agent    netip.Addr // zero: the exporter did not say
	SubAgent uint32
	Seq      uint32 // of the datagram, by agent and sub-agent
	Uptime   uint32 // ms since the exporter started, modulo 2^32
	Samples  int    // samples that Next yields
	Unknown  int    // samples and records of kinds that are not read here

	rest []byte // samples not yet read
}

const (
	addrNone = 0
	addrIPv4 = 1
	addrIPv6 = 2
)

// tags of samples and records of enterprise 0.
const (
	tagFlow         = 1
	tagCounters     = 2
	tagFlowExpanded = 3
	tagCountersExp  = 4
	tagDiscard      = 5

	recHeader   = 1
	recEthernet = 2
	recIPv4     = 3
	recIPv6     = 4
	recSwitch   = 1001
	recRouter   = 1002
	recVNIOut   = 1029
	recVNIIn    = 1030

	ctrInterface = 1
	ctrEthernet  = 2
	ctrVLAN      = 5
	ctrProcessor = 1001
	ctrPortName  = 1005
)

func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
func be64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// take splits the opaque value of n octets, padded to 4, off b. ok is false when b does not hold it.
func take(b []byte, n uint32) (body, rest []byte, ok bool) {
	padded := (uint64(n) + 3) &^ 3
	if padded > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[padded:], true
}

// next splits the first tagged value off b. Errors: ErrShort, ErrLength.
func next(b []byte) (tag uint32, body, rest []byte, err error) {
	if len(b) < 8 {
		return 0, nil, nil, ErrShort
	}
	body, rest, ok := take(b[8:], be32(b[4:]))
	if !ok {
		return 0, nil, nil, ErrLength
	}
	return be32(b), body, rest, nil
}

// Parse checks one datagram whole and returns it, ready for Next. b is the UDP payload, up to 65,507 octets; the Datagram refers to
// it. Octets behind the last sample are left alone. Nothing is allocated.
// Errors: ErrShort, ErrVersion, ErrAddress, ErrLength.
func Parse(b []byte) (Datagram, error) {
	var d Datagram
	if len(b) < 8 {
		return d, ErrShort
	}
	if be32(b) != 5 {
		return d, ErrVersion
	}
	kind := be32(b[4:])
	size := addrSize(kind)
	if size < 0 {
		return d, ErrAddress
	}
	b = b[8:]
	if len(b) < size+16 {
		return d, ErrShort
	}
	switch kind {
	case addrIPv4:
		d.Agent = netip.AddrFrom4([4]byte(b[:4]))
	case addrIPv6:
		d.Agent = netip.AddrFrom16([16]byte(b[:16])).Unmap()
	}
	b = b[size:]
	d.SubAgent, d.Seq, d.Uptime = be32(b), be32(b[4:]), be32(b[8:])
	count := be32(b[12:])
	d.rest = b[16:]
	left := d.rest
	for range count { // ends by itself: each turn takes at least 8 octets
		tag, body, rest, err := next(left)
		if err != nil {
			return d, err
		}
		if err := d.check(tag, body); err != nil {
			return d, err
		}
		left = rest
	}
	d.rest = d.rest[:len(d.rest)-len(left)]
	return d, nil
}

// addrSize returns how many octets an address of this kind has, -1 for an unknown kind.
func addrSize(kind uint32) int {
	switch kind {
	case addrNone:
		return 0
	case addrIPv4:
		return 4
	case addrIPv6:
		return 16
	}
	return -1
}

// fixed returns the length of a sample's fixed part with its count of records, 0 for a sample that is not read.
func fixed(tag uint32) int {
	switch tag {
	case tagFlow, tagDiscard:
		return 32
	case tagCounters:
		return 12
	case tagFlowExpanded:
		return 44
	case tagCountersExp:
		return 16
	}
	return 0
}

// check validates one sample and counts it.
func (d *Datagram) check(tag uint32, body []byte) error {
	n := fixed(tag)
	if n == 0 {
		d.Unknown++
		return nil
	}
	if len(body) < n {
		return ErrLength
	}
	flow := tag != tagCounters && tag != tagCountersExp
	left := body[n:]
	for range be32(body[n-4:]) {
		rec, data, rest, err := next(left)
		if err != nil {
			return err
		}
		want := counterSize(rec)
		if flow {
			want = recordSize(rec)
		}
		switch {
		case want < 0:
			d.Unknown++
		case len(data) < want:
			return ErrLength
		case flow && rec == recHeader && uint64(be32(data[12:])) > uint64(len(data)-16):
			return ErrLength
		case !flow && rec == ctrPortName && uint64(be32(data)) > uint64(len(data)-4):
			return ErrLength
		}
		left = rest
	}
	d.Samples++
	return nil
}

// recordSize returns the least length of a flow record, -1 for one that is not read.
func recordSize(tag uint32) int {
	switch tag {
	case recHeader, recSwitch:
		return 16
	case recEthernet:
		return 20
	case recIPv4:
		return 32
	case recIPv6:
		return 56
	case recRouter:
		return 12
	case recVNIOut, recVNIIn:
		return 4
	}
	return -1
}

// Next reads the next sample into s, in wire order; false when there is none left. Nothing is allocated.
func (d *Datagram) Next(s *Sample) bool {
	for len(d.rest) > 0 {
		tag, body, rest, err := next(d.rest)
		if err != nil {
			d.rest = nil // cannot be: Parse went the same way
			return false
		}
		d.rest = rest
		switch tag {
		case tagFlow:
			s.flow(body)
		case tagFlowExpanded:
			s.flowExpanded(body)
		case tagCounters, tagCountersExp:
			s.counters(tag, body)
		case tagDiscard:
			s.discard(body)
		default:
			continue
		}
		return true
	}
	return false
}

// source splits a compact source_id: 8 bits of type, 24 of index.
func (s *Sample) source(v uint32) { s.SourceType, s.Source = v>>24, v&0xffffff }

// compact splits a compact input or output: two bits of format, 30 of value.
func compact(v uint32) Port { return Port{Format: uint8(v >> 30), Value: v & SelfPort} }

// expanded reads an input or output of the expanded form. A format beyond 2 bits names nothing known.
func expanded(b []byte) Port { return Port{Format: uint8(min(be32(b), 3)), Value: be32(b[4:])} }

func (s *Sample) flow(b []byte) {
	s.Kind, s.Seq = Flow, be32(b)
	s.source(be32(b[4:]))
	s.Rate, s.Pool, s.Drops = be32(b[8:]), be32(b[12:]), be32(b[16:])
	s.Input, s.Output = compact(be32(b[20:])), compact(be32(b[24:]))
	s.Packet.read(be32(b[28:]), b[32:])
}

func (s *Sample) flowExpanded(b []byte) {
	s.Kind, s.Seq = Flow, be32(b)
	s.SourceType, s.Source = be32(b[4:]), be32(b[8:])
	s.Rate, s.Pool, s.Drops = be32(b[12:]), be32(b[16:]), be32(b[20:])
	s.Input, s.Output = expanded(b[24:]), expanded(b[32:])
	s.Packet.read(be32(b[40:]), b[44:])
}

func (s *Sample) discard(b []byte) {
	s.Kind, s.Seq = Discard, be32(b)
	s.SourceType, s.Source = be32(b[4:]), be32(b[8:])
	s.Rate, s.Pool, s.Drops = 0, 0, be32(b[12:])
	s.Input, s.Output = Port{Value: be32(b[16:])}, Port{Value: be32(b[20:])}
	s.Reason = be32(b[24:])
	s.Packet.read(be32(b[28:]), b[32:])
}
