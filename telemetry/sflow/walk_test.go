package sflow

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// text writes everything that one datagram says.
func text(b []byte) string {
	var w strings.Builder
	d, err := Parse(b)
	if err != nil {
		return fmt.Sprintf("refused: %v\n", err)
	}
	fmt.Fprintf(&w, "agent %s/%d seq %d uptime %d ms, %d samples, %d unknown\n", d.Agent, d.SubAgent, d.Seq, d.Uptime, d.Samples, d.Unknown)
	var s Sample
	for d.Next(&s) {
		switch s.Kind {
		case Flow, Discard:
			p := s.Packet
			fmt.Fprintf(&w, "  %s seq %d source %d:%d rate %d pool %d drops %d in %d:%d out %d:%d", map[Kind]string{Flow: "flow", Discard: "discard"}[s.Kind],
				s.Seq, s.SourceType, s.Source, s.Rate, s.Pool, s.Drops, s.Input.Format, s.Input.Value, s.Output.Format, s.Output.Value)
			if s.Kind == Discard {
				fmt.Fprintf(&w, " reason %d", s.Reason)
			}
			fmt.Fprintf(&w, "\n    len %d l3 %d %s -> %s vlan %d switch %d,%d vni %d\n", p.Len, p.L3, p.Src, p.Dst, p.VLAN, p.SrcVLAN, p.DstVLAN, p.VNI)
		case Counters:
			c := s.Counters
			fmt.Fprintf(&w, "  counters seq %d source %d:%d", s.Seq, s.SourceType, s.Source)
			if c.HasInterface {
				fmt.Fprintf(&w, " interface %+v", c.Interface)
			}
			if c.HasEthernet {
				fmt.Fprintf(&w, " ethernet %+v", c.Ethernet)
			}
			if c.HasVLAN {
				fmt.Fprintf(&w, " vlan %+v", c.VLAN)
			}
			if c.HasProcessor {
				fmt.Fprintf(&w, " processor %+v", c.Processor)
			}
			if c.PortName != nil {
				fmt.Fprintf(&w, " name %q", c.PortName)
			}
			w.WriteByte('\n')
		}
	}
	return w.String()
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s: -want +got\n%s", path, d)
	}
}

// TestCaptures reads what real switches sent.
func TestCaptures(t *testing.T) {
	files, err := filepath.Glob("testdata/captures/*")
	if err != nil || len(files) < 15 {
		t.Fatal(err, len(files))
	}
	for _, f := range files {
		ps, err := sflowtest.Payloads(f)
		if err != nil {
			t.Fatal(err)
		}
		var w strings.Builder
		for _, p := range ps {
			w.WriteString(text(p))
		}
		golden(t, filepath.Join("testdata/golden", filepath.Base(f)+".txt"), w.String())
	}
}

// TestCorpus reads recorded files that may not be copied: nothing of them is refused.
func TestCorpus(t *testing.T) {
	dir := os.Getenv("SKERRY_CORPUS")
	if dir == "" {
		t.Skip("set by make test-corpus")
	}
	for _, f := range []string{"ndpi_sflow.pcap", "akvorado_ipv4-data.pcap"} {
		ps, err := sflowtest.Payloads(filepath.Join(dir, "sflow", f))
		if err != nil || len(ps) == 0 {
			t.Errorf("%s: %v", f, err)
		}
		for _, p := range ps {
			if s := text(p); strings.HasPrefix(s, "refused") || !strings.Contains(s, "seq") {
				t.Errorf("%s: %s", f, s)
			}
		}
	}
}

var (
	hostA = netip.MustParseAddr("10.4.0.1")
	hostB = netip.MustParseAddr("10.4.0.2")
	host6 = netip.MustParseAddr("fd00::1")
	peer6 = netip.MustParseAddr("fd00::2")
)

// TestPacket reads headers: lengths with and without tags, within VXLAN, cut off, lying.
func TestPacket(t *testing.T) {
	f := func(name string, protocol, frame uint32, header []byte, want Packet) {
		t.Helper()
		var p Packet
		p.header(protocol, frame, header)
		if p != want {
			t.Errorf("%s: %+v, want %+v", name, p, want)
		}
	}
	v4, v6 := sflowtest.Frame(hostA, hostB, 0, 1000), sflowtest.Frame(host6, peer6, 0, 1000)
	tag := sflowtest.Frame(hostA, hostB, 100, 1000)
	f("IPv4", 1, 1018, v4, Packet{Len: 1018, L3: 1000, Src: hostA, Dst: hostB})
	f("IPv6", 1, 1018, v6, Packet{Len: 1018, L3: 1000, Src: host6, Dst: peer6})
	f("tagged", 1, 1022, tag, Packet{Len: 1022, L3: 1000, Src: hostA, Dst: hostB, VLAN: 100})
	qinq := append(append(append([]byte{}, v4[:12]...), 0x88, 0xa8, 0, 7, 0x81, 0, 0, 9), v4[12:]...)
	f("two tags", 1, 1026, qinq, Packet{Len: 1026, L3: 1000, Src: hostA, Dst: hostB, VLAN: 7})
	three := append(append(append([]byte{}, v4[:12]...), 0x81, 0, 0, 3), qinq[12:]...)
	f("three tags", 1, 1030, three, Packet{Len: 1030, VLAN: 3})
	f("padded to 64", 1, 64, sflowtest.Frame(hostA, hostB, 0, 28), Packet{Len: 64, L3: 28, Src: hostA, Dst: hostB})
	f("no packet", 1, 64, make([]byte, 14), Packet{Len: 64})
	f("nothing", 1, 64, nil, Packet{Len: 64})
	f("cut", 1, 1018, v4[:33], Packet{Len: 1018})
	f("an IP length that lies", 1, 100, v4, Packet{Len: 100, L3: 82, Src: hostA, Dst: hostB})
	tso := append([]byte{}, v4...)
	tso[16], tso[17] = 0, 0
	f("length 0, as before segmentation", 1, 9018, tso, Packet{Len: 9018, L3: 9000, Src: hostA, Dst: hostB})
	f("a frame that is shorter than its headers", 1, 10, v4, Packet{Len: 10})
	f("protocol IPv4", 11, 1000, v4[14:], Packet{Len: 1000, L3: 1000, Src: hostA, Dst: hostB})
	f("protocol IPv6", 12, 1000, v6[14:], Packet{Len: 1000, L3: 1000, Src: host6, Dst: peer6})
	f("another protocol", 7, 1000, v4, Packet{Len: 1000})

	vx := func(outer []byte, flags byte, inner []byte) []byte {
		n := 14 + 20
		if outer[12] == 0x86 {
			n = 14 + 40
		}
		b := append([]byte{}, outer[:n]...)
		b = append(b, 0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0) // to port 4789
		b = append(b, flags, 0, 0, 0, 0, 0x27, 0x10, 0)
		return append(b, inner...)[:128]
	}
	in := Packet{Len: 1018, L3: 1000, Src: hostA, Dst: hostB, VNI: 10000}
	f("VXLAN over IPv4", 1, 1018+50, vx(sflowtest.Frame(hostB, hostA, 0, 1050), 8, v4), in)
	f("VXLAN over IPv6", 1, 1018+70, vx(sflowtest.Frame(peer6, host6, 0, 1070), 8, v4), in)
	with := in
	with.VLAN, with.Len = 100, 1022
	f("tagged within VXLAN", 1, 1022+50, vx(sflowtest.Frame(hostB, hostA, 0, 1054), 8, tag), with)
	f("VXLAN without a VNI", 1, 1068, vx(sflowtest.Frame(hostB, hostA, 0, 1050), 0, v4), Packet{Len: 1068, L3: 1050, Src: hostB, Dst: hostA})
}

// TestRecords reads packets without a header, and what switches add to it.
func TestRecords(t *testing.T) {
	rec := func(tag uint32, words ...uint32) []byte {
		b := make([]byte, 0, 64)
		for _, v := range append([]uint32{tag, uint32(4 * len(words))}, words...) {
			b = append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
		}
		return b
	}
	f := func(name string, want Packet, recs ...[]byte) {
		t.Helper()
		body := make([]byte, 28, 256)
		body = append(body, 0, 0, 0, byte(len(recs)))
		for _, r := range recs {
			body = append(body, r...)
		}
		e := sflowtest.Exporter{Agent: hostA}
		d, err := Parse(e.Datagram(sflowtest.Raw(1, body)))
		var s Sample
		if err != nil || !d.Next(&s) || s.Packet != want {
			t.Errorf("%s: %v %+v, want %+v", name, err, s.Packet, want)
		}
	}
	v4 := rec(3, 1000, 17, 0x0a040001, 0x0a040002, 1, 2, 0, 0)
	f("IPv4 alone", Packet{Len: 1018, L3: 1000, Src: hostA, Dst: hostB}, v4)
	f("an IPv4 length that wraps", Packet{Len: 0xffffffff, L3: 0xffffffff, Src: hostA, Dst: hostB}, rec(3, 0xffffffff, 17, 0x0a040001, 0x0a040002, 1, 2, 0, 0))
	f("Ethernet and IPv4", Packet{Len: 1022, L3: 1000, Src: hostA, Dst: hostB}, rec(2, 1022, 0, 0, 0, 0x800), v4)
	f("switch, router, VNI", Packet{Len: 1018, L3: 1000, Src: hostA, Dst: hostB, SrcVLAN: 100, DstVLAN: 200, VNI: 77}, v4,
		rec(1001, 100, 0, 200, 0), rec(1002, 1, 0x0a040001, 24, 24), rec(1030, 77))
	f("another enterprise's record 1", Packet{}, rec(1<<12|1, 1))
	f("no record", Packet{})
}

// TestRefused: a length that lies makes the whole datagram refused, whatever else it holds.
func TestRefused(t *testing.T) {
	f := func(name string, want error, change func(b []byte) []byte) {
		t.Helper()
		e := sflowtest.Exporter{Agent: hostA}
		good := sflowtest.Flow{Seq: 1, Source: 3, Rate: 100, Len: 100, Header: sflowtest.Frame(hostA, hostB, 0, 82)}.Sample()
		b := change(e.Datagram(good, sflowtest.Interface{Seq: 1, Index: 3}.Sample()))
		if _, err := Parse(b); err != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	set := func(at int, v byte) func(b []byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	f("whole", nil, func(b []byte) []byte { return b })
	f("octets behind", nil, func(b []byte) []byte { return append(b, 1, 2, 3) })
	f("version 4", ErrVersion, set(3, 4))
	f("address", ErrAddress, set(7, 3))
	f("empty", ErrShort, func([]byte) []byte { return nil })
	f("an IPv6 address that is not there", ErrShort, func(b []byte) []byte { b[7] = 2; return b[:20] })
	f("4 billion samples", ErrShort, func(b []byte) []byte { copy(b[24:], "\xff\xff\xff\xff"); return b })
	f("sample length", ErrLength, set(32, 0x7f))
	f("sample shorter than its head", ErrLength, set(35, 8))
	f("4 billion records", ErrShort, func(b []byte) []byte { copy(b[64:], "\xff\xff\xff\xff"); return b })
	f("header length", ErrLength, set(88, 0x7f))
	f("counters", ErrLength, set(28+8+32+8+16+128+8+12+7, 80))
}

// TestCut: whatever of a datagram arrives, it is refused or read, and a shorter one is never read as more.
func TestCut(t *testing.T) {
	ps, err := sflowtest.Payloads("testdata/captures/gopacket_sflowtestpacket2.bin")
	if err != nil {
		t.Fatal(err)
	}
	for n := range ps[0] {
		if d, err := Parse(ps[0][:n]); err == nil {
			t.Fatalf("%d of %d octets are read as %+v", n, len(ps[0]), d)
		}
	}
}

// TestNoAllocations holds the walker to none, whatever it reads.
func TestNoAllocations(t *testing.T) {
	e := sflowtest.Exporter{Agent: hostA}
	b := e.Datagram(
		sflowtest.Flow{Rate: 100, Len: 1018, Header: sflowtest.Frame(hostA, hostB, 5, 1000)}.Sample(),
		sflowtest.Flow{Rate: 100, Len: 1018, Header: sflowtest.Frame(host6, peer6, 0, 1000)}.Sample(),
		sflowtest.Interface{Index: 3}.Sample())
	var s Sample
	if n := testing.AllocsPerRun(100, func() {
		d, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		for d.Next(&s) {
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
