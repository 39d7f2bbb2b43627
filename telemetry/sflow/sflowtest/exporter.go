package sflowtest

import (
	"encoding/binary"
	"net/netip"
)

// Exporter writes the datagrams of one agent and sub-agent.
type Exporter struct {
	Agent    netip.Addr
	SubAgent uint32
	Seq      uint32 // of the last datagram
	Uptime   uint32 // ms; the caller moves it
}

// Sample is one sample, encoded.
type Sample struct {
	tag  uint32
	body []byte
}

// Datagram returns the next datagram with these samples.
func (e *Exporter) Datagram(samples ...Sample) []byte {
	e.Seq++
	b := u32(nil, 5)
	if e.Agent.Is4() {
		b = append(u32(b, 1), e.Agent.AsSlice()...)
	} else {
		b = append(u32(b, 2), e.Agent.AsSlice()...)
	}
	b = u32(b, e.SubAgent, e.Seq, e.Uptime, uint32(len(samples)))
	for _, s := range samples {
		b = append(u32(b, s.tag, uint32(len(s.body))), s.body...)
	}
	return b
}

// Flow is one sampled packet.
type Flow struct {
	Seq, Source, Rate, Pool, Drops uint32
	Input, Output                  uint32
	Len                            uint32 // of the frame with FCS
	Header                         []byte // its beginning
}

// Sample encodes f in the compact form.
func (f Flow) Sample() Sample {
	b := u32(nil, f.Seq, f.Source, f.Rate, f.Pool, f.Drops, f.Input, f.Output, 1)
	rec := u32(nil, 1, f.Len, 4, uint32(len(f.Header)))
	rec = append(rec, f.Header...)
	for len(rec)%4 != 0 {
		rec = append(rec, 0)
	}
	b = append(u32(b, 1, uint32(len(rec))), rec...)
	return Sample{1, b}
}

// Interface is the counters of one port.
type Interface struct {
	Seq, Index uint32
	Speed      uint64
	In, Out    uint64 // octets
	InPackets  uint32
	OutPackets uint32
	Name       string // a record 1005 beside the counters; empty: none
}

// Sample encodes i.
func (i Interface) Sample() Sample {
	records := uint32(1)
	if i.Name != "" {
		records = 2
	}
	b := u32(nil, i.Seq, i.Index, records, 1, 88, i.Index, 6)
	b = binary.BigEndian.AppendUint64(b, i.Speed)
	b = u32(b, 1, 3)
	b = binary.BigEndian.AppendUint64(b, i.In)
	b = u32(b, i.InPackets, 0, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, i.Out)
	b = u32(b, i.OutPackets, 0, 0, 0, 0, 0)
	if i.Name != "" {
		name := append(u32(nil, uint32(len(i.Name))), i.Name...)
		for len(name)%4 != 0 {
			name = append(name, 0)
		}
		b = append(u32(b, 1005, uint32(len(name))), name...)
	}
	return Sample{2, b}
}

// Raw is a sample of any tag.
func Raw(tag uint32, body []byte) Sample { return Sample{tag, body} }

// Frame returns the first 128 octets of an Ethernet frame that carries a UDP packet of size octets (IP length); vlan 0 is untagged.
func Frame(src, dst netip.Addr, vlan uint16, size int) []byte {
	b := make([]byte, 12)
	if vlan != 0 {
		b = binary.BigEndian.AppendUint16(b, 0x8100)
		b = binary.BigEndian.AppendUint16(b, vlan)
	}
	if src.Is4() {
		b = binary.BigEndian.AppendUint16(b, 0x0800)
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, 17
		binary.BigEndian.PutUint16(ip[2:], uint16(size))
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		b = append(b, ip...)
	} else {
		b = binary.BigEndian.AppendUint16(b, 0x86dd)
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, 17, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(size-40))
		copy(ip[8:], src.AsSlice())
		copy(ip[24:], dst.AsSlice())
		b = append(b, ip...)
	}
	b = append(b, 0x30, 0x39, 0x00, 0x50, 0, 0, 0, 0)
	return append(b, make([]byte, max(0, 128-len(b)))...)[:128]
}

func u32(b []byte, vs ...uint32) []byte {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}
