package sflow

// CounterSet is what one counter sample holds; the Has fields say what of it.
type CounterSet struct {
	HasInterface, HasEthernet, HasVLAN, HasProcessor bool

	Interface InterfaceCounters
	Ethernet  EthernetCounters
	VLAN      VLANCounters
	Processor ProcessorCounters
	PortName  []byte // of record 1005, a part of the datagram; nil: not told
}

// InterfaceCounters is record 1: totals since the exporter started. Octets are counted without FCS by OVS, with it by most switches;
// packets wrap at 2^32. Source: sFlow version 5, struct if_counters.
type InterfaceCounters struct {
	Index, Type            uint32
	Speed                  uint64 // bit/s; 0: unknown
	Direction, Status      uint32 // status: bit 0 admin up, bit 1 oper up
	InOctets               uint64
	InUcast, InMulticast   uint32
	InBroadcast            uint32
	InDiscards, InErrors   uint32
	InUnknown              uint32
	OutOctets              uint64
	OutUcast, OutMulticast uint32
	OutBroadcast           uint32
	OutDiscards, OutErrors uint32
	Promiscuous            uint32
}

// EthernetCounters is record 2, the errors that tell of a bad cable or a duplex mismatch. Source: RFC 3635.
type EthernetCounters struct {
	AlignmentErrors, FCSErrors, LateCollisions, CarrierSenseErrors, SymbolErrors uint32
}

// VLANCounters is record 5.
type VLANCounters struct {
	ID                                    uint32
	Octets                                uint64
	Ucast, Multicast, Broadcast, Discards uint32
}

// ProcessorCounters is record 1001: load over 5 s, 1 min and 5 min in hundredths of a percent (0xffffffff: unknown), memory in octets.
type ProcessorCounters struct {
	Load5s, Load1m, Load5m  uint32
	TotalMemory, FreeMemory uint64
}

// counterSize returns the least length of a counter record, -1 for one that is not read.
func counterSize(tag uint32) int {
	switch tag {
	case ctrInterface:
		return 88
	case ctrEthernet:
		return 52
	case ctrVLAN, ctrProcessor:
		return 28
	case ctrPortName:
		return 4
	}
	return -1
}

func (s *Sample) counters(tag uint32, b []byte) {
	s.Kind, s.Seq = Counters, be32(b)
	if tag == tagCounters {
		s.source(be32(b[4:]))
	} else {
		s.SourceType, s.Source = be32(b[4:]), be32(b[8:])
	}
	n := fixed(tag)
	s.Counters.read(be32(b[n-4:]), b[n:])
}

// read fills c from the n counter records of b, which Parse has checked.
func (c *CounterSet) read(n uint32, b []byte) {
	*c = CounterSet{}
	for range n {
		tag, d, rest, err := next(b)
		if err != nil {
			return // cannot be: Parse went the same way
		}
		b = rest
		switch tag {
		case ctrInterface:
			c.HasInterface = true
			c.Interface = InterfaceCounters{
				Index: be32(d), Type: be32(d[4:]), Speed: be64(d[8:]), Direction: be32(d[16:]), Status: be32(d[20:]),
				InOctets: be64(d[24:]), InUcast: be32(d[32:]), InMulticast: be32(d[36:]), InBroadcast: be32(d[40:]),
				InDiscards: be32(d[44:]), InErrors: be32(d[48:]), InUnknown: be32(d[52:]),
				OutOctets: be64(d[56:]), OutUcast: be32(d[64:]), OutMulticast: be32(d[68:]), OutBroadcast: be32(d[72:]),
				OutDiscards: be32(d[76:]), OutErrors: be32(d[80:]), Promiscuous: be32(d[84:]),
			}
		case ctrEthernet:
			c.HasEthernet = true
			c.Ethernet = EthernetCounters{
				AlignmentErrors: be32(d), FCSErrors: be32(d[4:]), LateCollisions: be32(d[24:]), CarrierSenseErrors: be32(d[36:]), SymbolErrors: be32(d[48:]),
			}
		case ctrVLAN:
			c.HasVLAN = true
			c.VLAN = VLANCounters{ID: be32(d), Octets: be64(d[4:]), Ucast: be32(d[12:]), Multicast: be32(d[16:]), Broadcast: be32(d[20:]), Discards: be32(d[24:])}
		case ctrProcessor:
			c.HasProcessor = true
			c.Processor = ProcessorCounters{Load5s: be32(d), Load1m: be32(d[4:]), Load5m: be32(d[8:]), TotalMemory: be64(d[12:]), FreeMemory: be64(d[20:])}
		case ctrPortName:
			c.PortName = d[4 : 4+be32(d)]
		}
	}
}
