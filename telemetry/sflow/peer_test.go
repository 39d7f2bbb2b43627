package sflow

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

// ours and theirs write the same facts of one datagram: what both readers know.
func ours(b []byte) (string, error) {
	d, err := Parse(b)
	if err != nil {
		return "", err
	}
	w := fmt.Sprintf("%s/%d %d %d\n", d.Agent, d.SubAgent, d.Seq, d.Uptime)
	var flows, counters string
	var s Sample
	for d.Next(&s) {
		switch s.Kind {
		case Flow:
			flows += fmt.Sprintf("flow %d %d %d %d %d %d:%d %d:%d %d %s %s\n", s.Seq, s.Source, s.Rate, s.Pool, s.Drops,
				s.Input.Format, s.Input.Value, s.Output.Format, s.Output.Value, s.Packet.Len, s.Packet.Src, s.Packet.Dst)
		case Counters:
			i := s.Counters.Interface
			counters += fmt.Sprintf("counters %d %d %d %d %d %d %d\n", s.Seq, s.Source, i.Index, i.Speed, i.InOctets, i.OutOctets, i.OutErrors)
		}
	}
	return w + flows + counters, nil
}

func theirs(b []byte) (string, bool) {
	p := gopacket.NewPacket(b, layers.LayerTypeSFlow, gopacket.NoCopy)
	l, ok := p.Layer(layers.LayerTypeSFlow).(*layers.SFlowDatagram)
	if !ok || p.ErrorLayer() != nil {
		return "", false
	}
	agent, _ := netip.AddrFromSlice(l.AgentAddress)
	w := fmt.Sprintf("%s/%d %d %d\n", agent, l.SubAgentID, l.SequenceNumber, l.AgentUptime)
	for _, s := range l.FlowSamples {
		var frame uint32
		var src, dst netip.Addr
		for _, r := range s.Records {
			if e, ok := r.(layers.SFlowEthernetFrameFlowRecord); ok && frame == 0 {
				frame = e.FrameLength
			}
			raw, ok := r.(layers.SFlowRawPacketFlowRecord)
			if !ok {
				continue
			}
			frame = raw.FrameLength
			if raw.HeaderProtocol == layers.SFlowProtoIPv4 { // it takes every header for Ethernet
				raw.Header = gopacket.NewPacket(raw.Header.Data(), layers.LayerTypeIPv4, gopacket.NoCopy)
			}
			switch n := raw.Header.NetworkLayer().(type) {
			case *layers.IPv4:
				src, _ = netip.AddrFromSlice(n.SrcIP.To4())
				dst, _ = netip.AddrFromSlice(n.DstIP.To4())
			case *layers.IPv6:
				src, _ = netip.AddrFromSlice(n.SrcIP)
				dst, _ = netip.AddrFromSlice(n.DstIP)
			}
		}
		if s.Format == layers.SFlowTypeFlowSample { // it leaves the compact form as it is
			s.InputInterfaceFormat, s.InputInterface = s.InputInterface>>30, s.InputInterface&SelfPort
			s.OutputInterfaceFormat, s.OutputInterface = s.OutputInterface>>30, s.OutputInterface&SelfPort
		}
		w += fmt.Sprintf("flow %d %d %d %d %d %d:%d %d:%d %d %s %s\n", s.SequenceNumber, s.SourceIDIndex, s.SamplingRate, s.SamplePool, s.Dropped,
			s.InputInterfaceFormat, s.InputInterface, s.OutputInterfaceFormat, s.OutputInterface, frame, src, dst)
	}
	for _, s := range l.CounterSamples {
		var i layers.SFlowGenericInterfaceCounters
		for _, r := range s.Records {
			if g, ok := r.(layers.SFlowGenericInterfaceCounters); ok {
				i = g
			}
		}
		w += fmt.Sprintf("counters %d %d %d %d %d %d %d\n", s.SequenceNumber, s.SourceIDIndex, i.IfIndex, i.IfSpeed, i.IfInOctets, i.IfOutOctets, i.IfOutErrors)
	}
	return w, true
}

// TestSecondOpinion: whatever the gopacket fork reads whole, we read alike: recorded datagrams and our own of random shape.
func TestSecondOpinion(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	var all [][]byte
	files, _ := filepath.Glob("testdata/captures/*")
	for _, f := range files {
		ps, err := sflowtest.Payloads(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ps...)
	}
	for range 500 {
		e := sflowtest.Exporter{Agent: hostA, SubAgent: r.Uint32(), Seq: r.Uint32(), Uptime: r.Uint32()}
		var samples []sflowtest.Sample
		for range r.IntN(8) {
			src, dst := hostA, hostB
			if r.IntN(2) == 0 {
				src, dst = host6, peer6
			}
			vlan := uint16(r.IntN(2) * r.IntN(4096))
			size := 48 + r.IntN(1400)
			samples = append(samples, sflowtest.Flow{
				Seq: r.Uint32(), Source: r.Uint32N(1 << 24), Rate: r.Uint32(), Pool: r.Uint32(), Drops: r.Uint32(),
				Input: r.Uint32(), Output: r.Uint32(), Len: uint32(size + 22), Header: sflowtest.Frame(src, dst, vlan, size),
			}.Sample(), sflowtest.Interface{Seq: r.Uint32(), Index: r.Uint32N(1 << 24), Speed: r.Uint64(), In: r.Uint64(), Out: r.Uint64()}.Sample())
		}
		all = append(all, e.Datagram(samples...))
	}
	agreed, stricter := 0, 0
	for i, b := range all {
		want, ok := theirs(b)
		if !ok {
			continue
		}
		got, err := ours(b)
		if errors.Is(err, ErrLength) {
			stricter++ // three of the fork's own tests, whose samples end before their records
			continue
		}
		if err != nil || got != want {
			t.Fatalf("seed %d, datagram %d: %v\n%s\nwant\n%s", seed, i, err, got, want)
		}
		agreed++
	}
	t.Logf("seed %d: %d of %d datagrams read alike", seed, agreed, len(all))
	if agreed < 500 || stricter > 3 {
		t.Errorf("seed %d: the fork read only %d of %d, and %d that we refuse", seed, agreed, len(all), stricter)
	}
}

// FuzzParse: nothing panics, what was counted is what is read, and no packet is longer than its frame.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/captures/*")
	for _, path := range files {
		ps, err := sflowtest.Payloads(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, p := range ps[:min(len(ps), 4)] {
			f.Add(p)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		if err != nil {
			return
		}
		var s Sample
		n := 0
		for d.Next(&s) {
			n++
			if s.Kind != Counters && (s.Packet.L3 > s.Packet.Len || s.Packet.VLAN > 4095) {
				t.Fatalf("%+v", s.Packet)
			}
		}
		if n != d.Samples {
			t.Fatalf("%d samples are read, %d were counted", n, d.Samples)
		}
	})
}
