package dhcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// udpPayloads returns UDP payloads to port 67, 68 or 4011 in a classic pcap file of Ethernet frames.
func udpPayloads(t testing.TB, path string) [][]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var bo binary.ByteOrder = binary.LittleEndian
	if b[0] == 0xa1 {
		bo = binary.BigEndian
	}
	link := bo.Uint32(b[20:])
	var out [][]byte
	for b = b[24:]; len(b) >= 16; {
		n := int(bo.Uint32(b[8:]))
		if 16+n > len(b) {
			break
		}
		p := b[16 : 16+n]
		b = b[16+n:]
		switch link {
		case 1:
			if len(p) < 14 || binary.BigEndian.Uint16(p[12:]) != etherIPv4 {
				continue
			}
			p = p[14:]
		case 12, 101:
		default:
			continue
		}
		if len(p) < 28 || p[0]>>4 != 4 || p[9] != protoUDP {
			continue
		}
		u := p[int(p[0]&15)*4:]
		if len(u) < 8 {
			continue
		}
		switch binary.BigEndian.Uint16(u[2:]) {
		case 67, 68, 4011:
			out = append(out, u[8:])
		}
	}
	return out
}

// TestCaptures: recorded traffic of others gets the kind of answer that a golden holds, and never a panic.
func TestCaptures(t *testing.T) {
	files, err := filepath.Glob("testdata/captures/*.pcap")
	if err != nil || len(files) == 0 {
		t.Fatalf("no captures: %v", err)
	}
	fa := facts()
	for i := range fa.Subnets {
		fa.Subnets[i].AnyClient = true
	}
	v := view(t, fa)
	var b, replies strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "%s\n", filepath.Base(f))
		for i, p := range udpPayloads(t, f) {
			pk := packet(p)
			pk.Repeat = 1
			r, e := Handle(pk, v)
			fmt.Fprintf(&b, "  %d %s %s %s arch=%s stage=%s uuid=%s reply=%d\n", i, e.Event.MAC, e.Event.Type, e.Event.Reason, e.Event.Arch, e.Event.Stage, e.Event.UUID, len(r.Bytes))
			if r.Bytes != nil {
				fmt.Fprintf(&replies, "%s %d to %s %x\n", filepath.Base(f), i, r.To, r.Bytes)
			}
			replayed(t, fa, pk)
		}
	}
	golden(t, "captures.txt", b.String())
	golden(t, "captures_replies.txt", replies.String()) // octet for octet
}

// replayed answers one recorded packet twice at each agent, whose own repeats, as for a lone agent, do not count: the same octets
// each time, and where the client is known, canonically the same from all.
func replayed(t *testing.T, fa Facts, p Packet) {
	t.Helper()
	var first string
	for _, a := range fa.Agents {
		fa.Self, p.Local = a.ID, a.Boot[0]
		one, _ := Handle(p, view(t, fa))
		two, e := Handle(p, view(t, fa))
		if string(one.Bytes) != string(two.Bytes) || one.To != two.To {
			t.Fatalf("%s answers one packet in two ways:\n%x\n%x", a.ID, one.Bytes, two.Bytes)
		}
		if one.Bytes == nil || e.Offer != nil { // of a dynamic address each agent has its own slice
			continue
		}
		c := canonical(one.Bytes, a.Boot[0].String())
		if first != "" && c != first {
			t.Fatalf("agents differ:\n%s\n%s", first, c)
		}
		first = c
	}
}

// FuzzCaptures mutates recorded packets.
func FuzzCaptures(f *testing.F) {
	files, _ := filepath.Glob("testdata/captures/*.pcap")
	for _, name := range files {
		for _, p := range udpPayloads(f, name) {
			f.Add(p)
		}
	}
	v := view(f, facts())
	f.Fuzz(func(_ *testing.T, b []byte) {
		Handle(Packet{Bytes: b, Local: netip.MustParseAddr("10.88.0.11"), Port: 67, At: t0, Repeat: 1}, v)
	})
}
