package dhcp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite goldens")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
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
		t.Errorf("%s differs (-want +got):\n%s", name, d)
	}
}

var (
	m1   = MAC{0x52, 0x54, 0, 0, 0, 1}
	m2   = MAC{0x52, 0x54, 0, 0, 0, 2}
	new1 = MAC{0x52, 0x54, 0, 0, 9, 1}
	t0   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func facts() Facts {
	return Facts{
		Self: "a1",
		Agents: []Agent{
			{ID: "a1", Boot: []netip.Addr{ip("10.88.0.11")}},
			{ID: "a2", Boot: []netip.Addr{ip("10.88.0.12")}},
		},
		Subnets: []Subnet{
			{
				Name: "rack", Prefix: netip.MustParsePrefix("10.88.0.0/24"), Router: ip("10.88.0.1"), DNS: []netip.Addr{ip("10.88.0.1"), ip("10.88.0.2")},
				Domain: "lon1.example", DynFirst: ip("10.88.0.100"), DynLast: ip("10.88.0.199"), Mode: ModeAuthoritative, Discovery: true,
			},
			{Name: "far", Prefix: netip.MustParsePrefix("10.90.0.0/24"), Mode: ModeAuthoritative, Relays: []netip.Addr{ip("10.90.0.1")}},
			{Name: "quiet", Prefix: netip.MustParsePrefix("10.91.0.0/24")},
		},
		Hosts: []Host{
			{MAC: m1, Name: "m1", Addr: ip("10.88.0.21"), Boot: true, UUID: "00112233-4455-6677-8899-aabbccddeeff"},
			{MAC: m1, Name: "m1", Addr: ip("10.90.0.21"), Boot: true},
			{MAC: m2, Name: "m2", Addr: ip("10.88.0.22")},
		},
	}
}

func view(t testing.TB, f Facts) *View {
	t.Helper()
	v, err := NewView(f)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// msg builds a client packet; opts are pairs of code and hex.
func msg(mac MAC, typ byte, set func(*dhcpv4.DHCPv4), opts ...any) []byte {
	m := &dhcpv4.DHCPv4{OpCode: 1, HWType: 1, TransactionID: dhcpv4.TransactionID{1, 2, 3, 4}, ClientHWAddr: mac[:], Options: dhcpv4.Options{53: {typ}}}
	for i := 0; i+1 < len(opts); i += 2 {
		b, err := hex.DecodeString(strings.ReplaceAll(opts[i+1].(string), " ", ""))
		if err != nil {
			panic(err)
		}
		m.Options[uint8(opts[i].(int))] = b
	}
	if set != nil {
		set(m)
	}
	return m.ToBytes()
}

func packet(b []byte) Packet {
	return Packet{Bytes: b, Local: ip("10.88.0.11"), Src: netip.MustParseAddrPort("0.0.0.0:68"), Port: 67, At: t0}
}

func asHex(s string) string { return hex.EncodeToString([]byte(s)) }

// dump shows every octet that is not a fixed zero.
func dump(r Reply, e Effects) string {
	var b strings.Builder
	fmt.Fprintf(&b, "event %s %s %s subnet=%s addr=%s uuid=%s arch=%s stage=%s\n", e.Event.Type, e.Event.Reason, e.Event.MAC, e.Event.Subnet, e.Event.Addr, e.Event.UUID, e.Event.Arch, e.Event.Stage)
	if e.Commit != nil {
		fmt.Fprintf(&b, "commit %s %s until %s by %s\n", e.Commit.MAC, e.Commit.Addr, e.Commit.Until.Format(time.RFC3339), e.Commit.Agent)
	}
	if e.Offer != nil {
		fmt.Fprintf(&b, "offer %s\n", e.Offer.Addr)
	}
	if r.Bytes == nil {
		return b.String() + "silence\n"
	}
	fmt.Fprintf(&b, "to %s frame=%v, %d octets\n", r.To, r.Frame, len(r.Bytes))
	p := r.Bytes
	fmt.Fprintf(&b, "op %d htype %d hlen %d hops %d xid %x secs %d flags %04x\n", p[0], p[1], p[2], p[3], p[4:8], binary.BigEndian.Uint16(p[8:]), p[10:12])
	for i, n := range []string{"ciaddr", "yiaddr", "siaddr", "giaddr"} {
		a, _ := netip.AddrFromSlice(p[12+4*i : 16+4*i])
		fmt.Fprintf(&b, "%s %s\n", n, a)
	}
	fmt.Fprintf(&b, "chaddr %x\nsname %q\nfile %q\n", p[28:44], bytes.TrimRight(p[44:108], "\x00"), bytes.TrimRight(p[108:236], "\x00"))
	for o := p[240:]; len(o) > 0; {
		if o[0] == 255 || o[0] == 0 {
			fmt.Fprintf(&b, "%d\n", o[0])
			if o[0] == 255 {
				if strings.Trim(string(o[1:]), "\x00") != "" {
					b.WriteString("octets after the end\n")
				}
				break
			}
			o = o[1:]
			continue
		}
		v := o[2 : 2+o[1]]
		text := ""
		if s := string(v); len(s) > 3 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:/-_") == "" {
			text = " " + s
		}
		fmt.Fprintf(&b, "%d %x%s\n", o[0], v, text)
		o = o[2+o[1]:]
	}
	return b.String()
}

const (
	uuid1    = "00 33221100 5544 7766 8899 aabbccddeeff" // of m1
	uuidBad  = "00 ffeeddcc 5544 7766 8899 aabbccddeeff"
	pxeClass = "505845436c69656e743a417263683a30303030303a554e44493a303032303031"
)

func pxe(mac MAC, typ byte, arch string, more ...any) []byte {
	return msg(mac, typ, nil, append([]any{60, pxeClass, 93, arch, 97, uuid1}, more...)...)
}

// TestGoldens: one whole packet per kind of client.
func TestGoldens(t *testing.T) {
	httpClass := asHex("HTTPClient:Arch:00016:UNDI:003000")
	req := func(addr, server string) []any {
		return []any{50, hex.EncodeToString(ip(addr).AsSlice()), 54, hex.EncodeToString(ip(server).AsSlice())}
	}
	f := func(name string, p Packet) {
		t.Helper()
		golden(t, name+".txt", dump(Handle(p, view(t, facts()))))
	}
	f("bios_discover", packet(pxe(m1, 1, "0000")))
	f("bios_request", packet(pxe(m1, 3, "0000", req("10.88.0.21", "10.88.0.11")...)))
	f("x64_discover", packet(pxe(m1, 1, "0007")))
	f("x64_list_discover", packet(pxe(m1, 1, "00ff 0009")))
	f("x64_http_discover", packet(msg(m1, 1, nil, 60, httpClass, 93, "0010", 97, uuid1)))
	f("arm64_discover", packet(pxe(m1, 1, "000b")))
	f("ia32_discover", packet(pxe(m1, 1, "0006")))
	f("ipxe_discover", packet(pxe(m1, 1, "0000", 77, asHex("iPXE"), 175, "130101")))
	f("ipxe_prefixed_discover", packet(pxe(m1, 1, "0007", 77, "04"+asHex("iPXE"))))
	f("os_discover", packet(msg(m1, 1, nil, 61, "01525400000001", 55, "0103060f")))
	f("no_boot_discover", packet(pxe(m2, 1, "0000")))
	f("uuid_contradicts", packet(msg(m1, 1, nil, 60, pxeClass, 93, "0000", 97, uuidBad)))
	f("broadcast_flag", packet(msg(m1, 1, func(m *dhcpv4.DHCPv4) { m.SetBroadcast() })))
	f("renew", Packet{Bytes: msg(m1, 3, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip("10.88.0.21").AsSlice() }), Local: ip("10.88.0.11"), Port: 67, At: t0})
	f("init_reboot_wrong", packet(msg(m1, 3, nil, 50, "0a580063")))
	f("inform", packet(msg(m1, 8, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip("10.88.0.21").AsSlice() })))
	f("relayed_discover", Packet{Bytes: msg(m1, 1, func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip("10.90.0.1").AsSlice() }, 82, "0104 70 6f 72 74"), Local: ip("10.88.0.11"), Port: 67, At: t0})
	f("relayed_nak", Packet{Bytes: msg(m1, 3, func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip("10.90.0.1").AsSlice() }, 50, "0a580063"), Local: ip("10.88.0.11"), Port: 67, At: t0})
	f("port4011", Packet{Bytes: pxe(m1, 3, "0007", 50, "0a580015"), Local: ip("10.88.0.11"), Src: netip.MustParseAddrPort("10.88.0.21:4011"), Port: 4011, At: t0})
}

// reason runs one packet through agent self.
func reason(t *testing.T, f Facts, p Packet, want string) (Reply, Effects) {
	t.Helper()
	r, e := Handle(p, view(t, f))
	if e.Event.Reason != want {
		t.Fatalf("reason %q, want %q", e.Event.Reason, want)
	}
	answered := slices.Contains([]string{ReasonOffer, ReasonAck, ReasonNak, ReasonInform, ReasonProxy}, want)
	if answered != (r.Bytes != nil) {
		t.Fatalf("%s: %d octets of reply", want, len(r.Bytes))
	}
	return r, e
}

// TestSilence: who gets no answer, and why.
func TestSilence(t *testing.T) {
	f := func(want string, p Packet) {
		t.Helper()
		reason(t, facts(), p, want)
	}
	f(ReasonMalform, packet(nil))
	f(ReasonMalform, packet([]byte("hello")))
	f(ReasonForeign, packet(msg(m1, 1, func(m *dhcpv4.DHCPv4) { m.OpCode = 2 })))
	f(ReasonForeign, packet(msg(m1, 1, func(m *dhcpv4.DHCPv4) { delete(m.Options, 53) })))
	f(ReasonHardware, packet(msg(m1, 1, func(m *dhcpv4.DHCPv4) { m.HWType = 32 })))
	f(ReasonHardware, packet(msg(MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1, nil)))
	f(ReasonStranger, packet(msg(new1, 1, nil)))
	f(ReasonStranger, packet(msg(new1, 8, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip("10.88.0.150").AsSlice() })))
	f(ReasonOther, packet(msg(m1, 3, nil, 50, "0a580015", 54, "0a58000c")))  // a2 was chosen (packetfence#3726)
	f(ReasonElse, packet(msg(new1, 3, nil, 50, "0a580064", 54, "0a5800fe"))) // a server that is none of ours
	f(ReasonUnsure, packet(msg(new1, 3, nil, 50, "0a580064")))               // INIT-REBOOT of somebody unknown
	f(ReasonRelay, packet(msg(m1, 1, func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip("10.90.0.9").AsSlice() })))
	f(ReasonSubnet, Packet{Bytes: msg(m1, 1, nil), Local: ip("192.0.2.1"), Port: 67, At: t0})
	f(ReasonOff, Packet{Bytes: msg(m1, 1, nil), Local: ip("10.91.0.5"), Port: 67, At: t0})
	f(ReasonConflict, packet(msg(m1, 4, nil, 50, "0a580015")))
	f(ReasonIgnored, packet(msg(new1, 4, nil, 50, "0a580070"))) // not its own
	f(ReasonIgnored, packet(msg(m1, 4, nil, 50, "0a580016")))
	f(ReasonRelease, packet(msg(m1, 7, nil)))
	f(ReasonIgnored, packet(msg(m1, 3, nil)))
	f(ReasonIgnored, packet(msg(m1, 13, nil)))
}

// canonical blanks what names the agent itself: option 54, siaddr, sname, 66, and the host in 67 and file.
func canonical(b []byte, self string) string {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return err.Error()
	}
	m.ServerIPAddr = nil
	m.ServerHostName = ""
	m.BootFileName = strings.ReplaceAll(m.BootFileName, self, "SELF")
	delete(m.Options, 54)
	delete(m.Options, 66)
	if o, ok := m.Options[67]; ok {
		m.Options[67] = []byte(strings.ReplaceAll(string(o), self, "SELF"))
	}
	return hex.EncodeToString(m.ToBytes())
}

// TestSameReply: promise 9, coredhcp#142. Known clients get byte-equal canonical replies from both agents.
func TestSameReply(t *testing.T) {
	leased := facts()
	leased.Leases = []Lease{{MAC: new1, Addr: ip("10.88.0.140"), Until: t0.Add(time.Hour), Agent: "a2"}}
	f := func(b []byte) {
		t.Helper()
		one, two := leased, leased
		two.Self = "a2"
		r1, _ := Handle(packet(b), view(t, one))
		p2 := packet(b)
		p2.Local = ip("10.88.0.12")
		r2, _ := Handle(p2, view(t, two))
		if r1.Bytes == nil || r2.Bytes == nil {
			t.Fatal("silence")
		}
		c1, c2 := canonical(r1.Bytes, "10.88.0.11"), canonical(r2.Bytes, "10.88.0.12")
		if c1 != c2 || r1.To != r2.To || r1.Frame != r2.Frame {
			t.Fatalf("answers differ:\n%s\n%s", c1, c2)
		}
	}
	for _, arch := range []string{"0000", "0007", "0009", "000b", "0010", "0013"} {
		f(pxe(m1, 1, arch))
	}
	f(pxe(m1, 1, "0000", 77, asHex("iPXE")))
	f(msg(m1, 1, nil))
	f(msg(m1, 3, nil, 50, "0a580015"))
	f(msg(new1, 1, nil))                                                                                        // by its lease
	f(msg(new1, 3, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip("10.88.0.140").AsSlice() }))                    // rebinding: all ACK alike
	f(msg(new1, 1, func(m *dhcpv4.DHCPv4) { m.SetBroadcast() }, 61, "ff00112233", 97, uuid1, 55, "0102030405")) // echoes
}

// TestNoDouble: gravity#493. Two agents that know nothing of each other's offers never give one address to two clients, and
// each client is answered by one of them at once and by the other at the first repeat.
func TestNoDouble(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		given := map[netip.Addr]MAC{}
		views := []*View{}
		for _, self := range []string{"a1", "a2"} {
			fa := facts()
			fa.Self = self
			v, err := NewView(fa)
			if err != nil {
				rt.Fatal(err)
			}
			views = append(views, v)
		}
		offers := []map[netip.Addr]Offer{{}, {}}
		for i := range rapid.IntRange(1, 30).Draw(rt, "clients") {
			mac := MAC{2, byte(rapid.IntRange(0, 255).Draw(rt, "mac")), 0, 0, 0, byte(i)}
			first, repeat := 0, 0
			for a, v := range views {
				p := packet(pxe(mac, 1, "0000"))
				p.Offers = offers[a]
				if _, e := Handle(p, v); e.Event.Reason == ReasonOffer {
					first++
				}
				p.Repeat = 1
				_, e := Handle(p, v)
				if e.Event.Reason != ReasonOffer {
					continue
				}
				repeat++
				if who, ok := given[e.Offer.Addr]; ok && who != mac {
					rt.Fatalf("%s given to %s and %s", e.Offer.Addr, who, mac)
				}
				given[e.Offer.Addr] = mac
				offers[a][e.Offer.Addr] = e.Offer.Offer
			}
			if first != 1 || repeat != 2 {
				rt.Fatalf("%s: %d answers at first, %d at the repeat; want 1 and 2", mac, first, repeat)
			}
		}
	})
}

// TestDynamic walks one stranger through its life.
func TestDynamic(t *testing.T) {
	fa := facts()
	p := packet(pxe(new1, 1, "0007"))
	p.Repeat = 1
	_, e := reason(t, fa, p, ReasonOffer)
	addr := hex.EncodeToString(e.Event.Addr.AsSlice())
	again, _ := Handle(p, view(t, fa))
	if again.Bytes == nil {
		t.Fatal("the same client must get the same offer")
	}
	_, e2 := reason(t, fa, packet(pxe(new1, 3, "0007", 50, addr, 54, "0a58000b")), ReasonAck)
	if e2.Commit == nil || e2.Commit.Addr != e.Event.Addr || e2.Commit.MAC != new1 || !e2.Commit.Until.Equal(t0.Add(LeaseDynamic)) {
		t.Fatalf("commit %+v", e2.Commit)
	}
	fa.Leases = []Lease{*e2.Commit}
	// Booted, it is no PXE client any more: its lease speaks for it, at any agent.
	fa.Self = "a2"
	renewal := packet(msg(new1, 3, nil, 50, addr))
	renewal.At = t0.Add(LeaseDynamic / 4) // T1
	_, e3 := reason(t, fa, renewal, ReasonAck)
	if e3.Commit == nil || e3.Commit.Agent != "a2" {
		t.Fatalf("renewal by the other agent: %+v", e3.Commit)
	}
	fa.Self = "a1"
	// Somebody else asks for that address: our slice is certain.
	reason(t, fa, packet(pxe(MAC{2, 2, 2, 2, 2, 2}, 3, "0007", 50, addr, 54, "0a58000b")), ReasonNak)
	// Reserved for a machine meanwhile: no longer the stranger's.
	fa.Hosts = append(fa.Hosts, Host{MAC: MAC{4, 4, 4, 4, 4, 4}, Addr: e.Event.Addr})
	reason(t, fa, packet(pxe(new1, 3, "0007", 50, addr, 54, "0a58000b")), ReasonNak)
}

func TestPoolEmpty(t *testing.T) {
	fa := facts()
	for i := 100; i < 200; i++ {
		fa.Leases = append(fa.Leases, Lease{MAC: MAC{6, 0, 0, 0, 0, byte(i)}, Addr: ip(fmt.Sprintf("10.88.0.%d", i)), Until: t0})
	}
	p := packet(pxe(new1, 1, "0000"))
	p.Repeat = 9
	reason(t, fa, p, ReasonPool) // expired, but within the quarantine
	p.At = t0.Add(2 * time.Hour)
	reason(t, fa, p, ReasonPool) // the other agent may have renewed any of them
	fa.Agents[1].Heard = p.At
	reason(t, fa, p, ReasonOffer)
}

// TestSize: without option 57 a reply fits 576 octets with its headers (RFC 2131 section 2).
func TestSize(t *testing.T) {
	fa := facts()
	fa.Subnets[0].Domain = strings.Repeat("d", 60)
	fa.Subnets[0].NTP = []netip.Addr{ip("10.88.0.1"), ip("10.88.0.2")}
	r, _ := Handle(packet(pxe(m1, 1, "0000", 77, asHex("iPXE"), 61, strings.Repeat("ab", 32))), view(t, fa))
	if n := len(r.Bytes); n == 0 || n > 576-28 {
		t.Fatalf("%d octets", n)
	}
}

func TestViewRefuses(t *testing.T) {
	f := func(change func(*Facts)) {
		t.Helper()
		fa := facts()
		change(&fa)
		if _, err := NewView(fa); err == nil {
			t.Fatal("accepted")
		}
	}
	f(func(f *Facts) { f.Self = "a9" })
	f(func(f *Facts) { f.Subnets[0].Prefix = netip.MustParsePrefix("10.88.0.1/24") })
	f(func(f *Facts) { f.Subnets[0].Prefix = netip.MustParsePrefix("fd00::/64") })
	f(func(f *Facts) { f.Subnets[0].Router = ip("10.1.1.1") })
	f(func(f *Facts) { f.Subnets[0].DynLast = ip("10.89.0.1") })
	f(func(f *Facts) { f.Subnets[0].DynLast = netip.Addr{} })
	f(func(f *Facts) {
		f.Subnets[0].DynFirst, f.Subnets[0].DynLast = f.Subnets[0].DynLast, f.Subnets[0].DynFirst
	})
	f(func(f *Facts) { f.Hosts = append(f.Hosts, Host{MAC: m2, Addr: ip("10.88.0.21")}) })
}

// TestFrame checks a raw frame against the codec-free arithmetic of a receiver.
func TestFrame(t *testing.T) {
	b := frame(m1, m2, netip.MustParseAddrPort("10.88.0.11:67"), netip.MustParseAddrPort("10.88.0.22:68"), []byte("odd"))
	if c := checksum(0, b[14:34]); c != 0 {
		t.Fatalf("IP checksum rest %04x", c)
	}
	pseudo := append(append(append([]byte{}, b[26:34]...), 0, 17), b[38:40]...)
	if c := checksum(0, append(pseudo, b[34:]...)); c != 0 {
		t.Fatalf("UDP checksum rest %04x", c)
	}
	if hex.EncodeToString(b[:14]) != "5254000000025254000000010800" || string(b[42:]) != "odd" {
		t.Fatalf("%x", b)
	}
}

func TestRouterAdvertisement(t *testing.T) {
	rs := func(s string) []byte { b, _ := hex.DecodeString("85000000" + "00000000" + s); return b }
	f := func(b []byte, src, want string) {
		t.Helper()
		got, ok := solicitor(b, ip(src))
		if s := got.String(); ok != (want != "") || ok && s != want {
			t.Fatalf("%s %v, want %q", s, ok, want)
		}
	}
	f(rs("0101525400000001"), "fe80::1", "52:54:00:00:00:01")
	f(rs(""), "fe80::5054:ff:fe00:1", "52:54:00:00:00:01")
	f(rs("0e01000000000000"+"0101525400000001"), "::", "52:54:00:00:00:01")
	f(rs(""), "fe80::1", "")
	f(rs("0100525400000001"), "fe80::1", "") // length 0
	f(rs("0102525400000001"), "fe80::1", "") // beyond the end
	f([]byte{134, 0, 0, 0, 0, 0, 0, 0}, "fe80::5054:ff:fe00:1", "")
	got := hex.EncodeToString(advertisement(m1, netip.MustParsePrefix("fd00:88::/64")))
	want := "86000000" + "40000000" + "0000000000000000" + "0101525400000001" + "03044040" + "00000e1000000e1000000000" + "fd000088000000000000000000000000"
	if got != want {
		t.Fatalf("\n%s\n%s", got, want)
	}
}

func FuzzHandle(f *testing.F) {
	f.Add(pxe(m1, 1, "0000"))
	f.Add(msg(new1, 3, nil, 50, "0a580064", 54, "0a58000b", 82, "01020304"))
	v := view(f, facts())
	f.Fuzz(func(t *testing.T, b []byte) {
		peek(b)
		p := packet(b)
		p.Repeat = 1
		r, e := Handle(p, v)
		if e.Event.Reason == "" {
			t.Fatal("no reason")
		}
		if r.Bytes != nil {
			if _, err := dhcpv4.FromBytes(r.Bytes); err != nil {
				t.Fatalf("our own reply: %v", err)
			}
		}
	})
}

// TestDecline: who has a lease and finds its address in use gets another one; what others hold is not theirs to decline.
func TestDecline(t *testing.T) {
	fa := facts()
	fa.Subnets[0].AnyClient = true
	fa.Leases = []Lease{{MAC: new1, Addr: ip("10.88.0.140"), Until: t0.Add(time.Hour), Agent: "a1"}}
	decline := func(mac MAC, addr, server string) Packet {
		return packet(msg(mac, 4, nil, 50, hex.EncodeToString(ip(addr).AsSlice()), 54, hex.EncodeToString(ip(server).AsSlice())))
	}
	reason(t, fa, decline(new1, "10.88.0.140", "10.88.0.12"), ReasonOther) // a2 notes it
	reason(t, fa, decline(new1, "10.88.0.141", "10.88.0.11"), ReasonIgnored)
	reason(t, fa, decline(m2, "10.88.0.140", "10.88.0.11"), ReasonIgnored)
	reason(t, fa, decline(m2, "10.88.0.22", "10.88.0.11"), ReasonConflict)
	_, e := reason(t, fa, decline(new1, "10.88.0.140", "10.88.0.11"), ReasonDecline)
	fa.Resting = map[netip.Addr]time.Time{e.Event.Addr: t0.Add(RestTime)}
	p := packet(msg(new1, 1, nil))
	p.Repeat = 1
	if _, e := reason(t, fa, p, ReasonOffer); e.Event.Addr == ip("10.88.0.140") {
		t.Fatal("the same address again")
	}
	reason(t, fa, packet(msg(new1, 3, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip("10.88.0.140").AsSlice() })), ReasonUnsure)
	if v := view(t, fa); v.free(fa.Subnets[0], ip("10.88.0.140"), MAC{2, 2, 2, 2, 2, 2}, nil, t0.Add(RestTime-time.Second)) {
		t.Fatal("given to another while it rests")
	}
}

// TestDeclineStorm: who declines every address that he can get, under made-up names, leaves three quarters of the range to others: those
// that were declined last rest.
func TestDeclineStorm(t *testing.T) {
	fa := facts()
	fa.Resting = map[netip.Addr]time.Time{ip("10.88.0.21"): t0.Add(time.Minute)} // outside of the range
	for i := range 100 {
		fa.Resting[ip(fmt.Sprintf("10.88.0.%d", 100+i))] = t0.Add(RestTime + time.Duration(i)*time.Second)
	}
	v := view(t, fa)
	var rest []string
	for i := range 256 {
		if a := ip(fmt.Sprintf("10.88.0.%d", i)); v.rests(a, t0) {
			rest = append(rest, a.String())
		}
	}
	if len(rest) != 26 || rest[0] != "10.88.0.21" || rest[1] != "10.88.0.175" || rest[25] != "10.88.0.199" {
		t.Errorf("%d rest: %v", len(rest), rest)
	}
	p := packet(pxe(new1, 1, "0000"))
	p.Repeat = 9
	reason(t, fa, p, ReasonOffer)
}

// TestRenewalStorm: one client that renews without end does not write a record with each packet; it is told what is left.
func TestRenewalStorm(t *testing.T) {
	fa := facts()
	fa.Subnets[0].AnyClient = true
	renew := packet(msg(new1, 3, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip("10.88.0.140").AsSlice() }))
	f := func(left, want time.Duration, commit bool) {
		t.Helper()
		fa.Leases = []Lease{{MAC: new1, Addr: ip("10.88.0.140"), Until: t0.Add(left), Agent: "a1"}}
		r, e := reason(t, fa, renew, ReasonAck)
		m, err := dhcpv4.FromBytes(r.Bytes)
		if err != nil || (e.Commit != nil) != commit {
			t.Fatalf("with %v left: commit %+v, %v", left, e.Commit, err)
		}
		if got, t1, t2 := m.IPAddressLeaseTime(0), m.IPAddressRenewalTime(0), m.IPAddressRebindingTime(0); got != want || t1 != want/4 || t2 != want/2 {
			t.Fatalf("with %v left: %v, T1 %v, T2 %v", left, got, t1, t2)
		}
	}
	f(LeaseDynamic-4*time.Second, LeaseDynamic-4*time.Second, false)
	f(LeaseDynamic/16*15, LeaseDynamic/16*15, false)
	f(LeaseDynamic/16*15-time.Second, LeaseDynamic, true)
	f(LeaseDynamic+time.Hour, LeaseDynamic, false)
}
