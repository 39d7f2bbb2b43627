package dhcp

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestQuirks: a golden per row of what firmware, controllers and boot loaders are known to do, each the whole reply.
func TestQuirks(t *testing.T) {
	full := facts()
	full.Subnets[0].NTP, full.Subnets[0].MTU = []netip.Addr{ip("10.88.0.1")}, 9000
	at := func(name string, fa Facts, p Packet) {
		t.Helper()
		golden(t, filepath.Join("quirks", name+".txt"), dump(Handle(p, view(t, fa))))
	}
	f := func(name string, b []byte) {
		t.Helper()
		at(name, full, packet(b))
	}
	relayed := func(b []byte) Packet { return Packet{Bytes: b, Local: ip("10.88.0.11"), Port: 67, At: t0} }
	far := func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip("10.90.0.1").AsSlice() }
	long := strings.Repeat("ab", 250)

	// Option 93. HTTP architectures say HTTPClient. A list: the first known one counts; a Pi says 0 and is known by its OUI.
	for _, code := range []int{0, 6, 7, 9, 10, 11, 20, 41, 99} {
		f(fmt.Sprintf("arch_%d", code), pxe(m1, 1, fmt.Sprintf("%04x", code)))
	}
	for _, code := range []int{15, 16, 18, 19, 20} {
		f(fmt.Sprintf("arch_%d_http", code), msg(m1, 1, nil, 60, asHex(fmt.Sprintf("HTTPClient:Arch:%05d:UNDI:003000", code)), 93, fmt.Sprintf("%04x", code), 97, uuid1))
	}
	f("arch_list", pxe(m1, 1, "0063 0010 0007"))
	f("arch_odd", pxe(m1, 1, "00"))
	pi := facts()
	pi.Hosts = append(pi.Hosts, Host{MAC: MAC{0x2c, 0xcf, 0x67, 0, 0, 1}, Name: "pi", Addr: ip("10.88.0.31"), Boot: true})
	at("arch_0_of_a_pi", pi, packet(msg(MAC{0x2c, 0xcf, 0x67, 0, 0, 1}, 1, nil, 60, pxeClass, 93, "0000", 97, "00"+asHex("4IPR")+strings.Repeat("00", 12))))
	// U-Boot reads the file field alone, and has classes of its own.
	f("uboot_arm64", msg(m1, 1, nil, 60, asHex("U-Boot.armv8"), 93, "0016"))
	f("uboot_arm32", msg(m1, 1, nil, 60, asHex("U-Boot.armv7"), 93, "0015"))
	// A reservation obeys the same rules: HTTP boot with its class (xcat-core#7743); option 60 only with 43 (fog-docs#188): above.

	// iPXE: by user class, raw or length-prefixed, or by its option 175 with HTTP; without HTTP it loads ours first.
	f("ipxe_77_raw", pxe(m1, 1, "0007", 77, asHex("iPXE")))
	f("ipxe_77_prefixed", pxe(m1, 1, "0007", 77, "04"+asHex("iPXE")))
	f("ipxe_77_another", pxe(m1, 1, "0007", 77, "08"+asHex("iPXE-old")))
	f("ipxe_175_http", pxe(m1, 1, "0007", 175, "b10500 15 06 14 130101 110101", 77, asHex("iPXE")))
	f("ipxe_175_features", pxe(m1, 1, "0007", 175, "150101 130101 110101"))
	f("ipxe_175_no_http", pxe(m1, 1, "0000", 175, "150101 110101", 77, asHex("iPXE")))
	f("ipxe_175_cut", pxe(m1, 1, "0000", 175, "1305"))

	// Option 97: 17 octets of type 0, or it is ignored, and not echoed.
	f("uuid_absent", msg(m1, 1, nil, 60, pxeClass, 93, "0007"))
	f("uuid_16_octets", msg(m1, 1, nil, 60, pxeClass, 93, "0007", 97, strings.Repeat("11", 16)))
	f("uuid_zero", msg(m1, 1, nil, 60, pxeClass, 93, "0007", 97, strings.Repeat("00", 17)))
	f("uuid_default_of_a_board", msg(m1, 1, nil, 60, pxeClass, 93, "0007", 97, "0000020003000400050006000700080009"))

	// Network options. T1 and T2 always: controllers lose their lease without. No router where there is none. 119 for who asks.
	f("bmc", msg(m1, 1, nil, 60, asHex("iDRAC"), 61, "01525400000001", 55, "0103060c0f1c2a"))
	f("search_list", msg(m1, 1, nil, 55, "01030677"))
	f("client_id_duid", msg(m1, 1, nil, 61, "ff00000001000100012a3b4c5d525400000001"))
	at("no_router", full, relayed(msg(m1, 1, far)))

	// Option 82 comes back as it was, behind all others, whatever is in it; from a client itself it is not believed.
	at("relay_82", full, relayed(pxeFar(far, "0104 70 6f 72 74 0206 001122334455 97020001")))
	at("relay_82_malformed", full, relayed(pxeFar(far, "01ff 70")))
	f("client_82", msg(m1, 1, nil, 82, "010470 6f 72 74"))

	// 576 octets at most, or what option 57 says: what can be left out is.
	f("size_576", pxe(m1, 1, "0007", 77, asHex("iPXE"), 61, long, 55, "77"))
	f("size_57", pxe(m1, 1, "0007", 77, asHex("iPXE"), 61, long, 55, "77", 57, "05dc"))
	f("size_57_tiny", pxe(m1, 1, "0007", 77, asHex("iPXE"), 61, long, 55, "77", 57, "0010"))

	// Port 4011: the second phase of a proxy, or of firmware that took us for a boot server.
	at("port_4011", full, Packet{Bytes: pxe(m1, 3, "0007", 50, "0a580015"), Local: ip("10.88.0.11"), Src: netip.MustParseAddrPort("10.88.0.21:4011"), Port: 4011, At: t0})
}

func pxeFar(far func(*dhcpv4.DHCPv4), o82 string) []byte {
	return msg(m1, 1, far, 60, pxeClass, 93, "0007", 97, uuid1, 61, "01525400000001", 82, o82)
}

// TestSizes: whatever a client or relay sends to be echoed, a reply is never longer than it may be, and 82 is in it.
func TestSizes(t *testing.T) {
	fa := facts()
	fa.Subnets[0].Domain = strings.Repeat("d", 60) + "." + strings.Repeat("e", 60)
	fa.Subnets[1].Domain, fa.Subnets[1].NTP = fa.Subnets[0].Domain, []netip.Addr{ip("10.88.0.1"), ip("10.88.0.2")}
	for n82 := 0; n82 <= 255; n82 += 51 {
		for n61 := 2; n61 <= 255; n61 += 11 {
			b := msg(m1, 1, func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip("10.90.0.1").AsSlice() }, 60, pxeClass, 93, "0000", 97, uuid1,
				77, asHex("iPXE"), 61, strings.Repeat("ab", n61), 82, strings.Repeat("cd", n82), 55, "77")
			r, _ := Handle(Packet{Bytes: b, Local: ip("10.88.0.11"), Port: 67, At: t0}, view(t, fa))
			if n := len(r.Bytes); n == 0 || n > 576-28 {
				t.Fatalf("option 61 of %d, 82 of %d octets: a reply of %d", n61, n82, n)
			}
			if n82 > 0 && !strings.HasSuffix(strings.TrimRight(hex.EncodeToString(r.Bytes), "0"), strings.Repeat("cd", n82)+"ff") {
				t.Fatalf("option 82 of %d octets is not the last: %x", n82, r.Bytes)
			}
		}
	}
}
