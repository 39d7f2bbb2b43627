package dhcp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const port4011 = 4011

// Loader file names, as boot/tftp and boot/httpboot serve them from boot.ipxeDir.
const (
	LoaderBIOS  = "undionly.kpxe"
	LoaderX64   = "snponly.efi"
	LoaderARM64 = "snponly-arm64.efi"
)

// arch is one value of option 93 (IANA "Processor Architecture Types", RFC 4578 and RFC 5970).
type arch struct {
	name   string
	loader string // "" none: an event, no file
	http   bool
}

func archOf(code uint16) (arch, bool) {
	switch code {
	case 0:
		return arch{"bios", LoaderBIOS, false}, true
	case 6:
		return arch{"ia32", "", false}, true
	case 7, 9:
		return arch{"x64", LoaderX64, false}, true
	case 10:
		return arch{"arm32", "", false}, true
	case 11:
		return arch{"arm64", LoaderARM64, false}, true
	case 15:
		return arch{"ia32-http", "", true}, true
	case 16:
		return arch{"x64-http", LoaderX64, true}, true
	case 18:
		return arch{"arm32-http", "", true}, true
	case 19:
		return arch{"arm64-http", LoaderARM64, true}, true
	case 20:
		return arch{"bios-http", "", true}, true
	case 21:
		return arch{"arm32-uboot", "", false}, true
	case 22:
		return arch{"arm64-uboot", LoaderARM64, false}, true
	case 41:
		return arch{"rpi", "", false}, true
	}
	return arch{}, false
}

// isPi tells whether a MAC is a Raspberry Pi's. Its boot ROM calls itself a BIOS (option 93 = 0), and takes no loader of ours.
// Source: IEEE registry, Raspberry Pi Foundation and Raspberry Pi (Trading) Ltd.
func isPi(mac []byte) bool {
	for _, oui := range []string{"\xb8\x27\xeb", "\xdc\xa6\x32", "\xe4\x5f\x01", "\x28\xcd\xc1", "\xd8\x3a\xdd", "\x2c\xcf\x67", "\x88\xa2\x9e"} {
		if bytes.HasPrefix(mac, []byte(oui)) {
			return true
		}
	}
	return false
}

// client is what a packet says about its sender.
type client struct {
	arch  arch   // zero if it does not PXE
	stage string // firmware, ipxe, os
	class string // PXEClient, HTTPClient, U-Boot, ""
	uuid  string
	name  string
}

func (c client) pxe() bool { return c.stage != "os" }

func identify(m *dhcpv4.DHCPv4) client {
	c := client{stage: "os", uuid: uuid(m.Options.Get(dhcpv4.OptionClientMachineIdentifier))}
	for _, k := range []string{"PXEClient", "HTTPClient", "U-Boot"} {
		if bytes.HasPrefix(m.Options.Get(dhcpv4.OptionClassIdentifier), []byte(k)) {
			c.class, c.stage = k, "firmware"
		}
	}
	codes := m.Options.Get(dhcpv4.OptionClientSystemArchitectureType)
	for ; len(codes) >= 2; codes = codes[2:] {
		if a, ok := archOf(binary.BigEndian.Uint16(codes)); ok { // a list: the first known one
			c.arch = a
			break
		}
	}
	if c.arch.name == "bios" && isPi(m.ClientHWAddr) {
		c.arch, _ = archOf(41)
	}
	if isIPXE(m) {
		c.stage = "ipxe"
	}
	if n := string(m.Options.Get(dhcpv4.OptionHostName)); validLabel(n) {
		c.name = n
	}
	return c
}

// isIPXE: an iPXE that can fetch its script by HTTP. It says so in its own option 175, feature 19; one that leaves 175 out is known
// by its user class, raw or length-prefixed (RFC 3004). A build without HTTP, as in some NICs, is firmware: it loads ours first.
// Source: ipxe.org/howto/dhcpd, src/include/ipxe/features.h.
func isIPXE(m *dhcpv4.DHCPv4) bool {
	const featureHTTP = 19
	if !m.Options.Has(dhcpv4.GenericOptionCode(175)) {
		u := string(m.Options.Get(dhcpv4.OptionUserClassInformation))
		return u == "iPXE" || u == "\x04iPXE"
	}
	for o := m.Options.Get(dhcpv4.GenericOptionCode(175)); len(o) >= 2; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		n := 2 + int(o[1])
		if n > len(o) {
			return false
		}
		if o[0] == featureHTTP && n == 3 && o[2] != 0 {
			return true
		}
		o = o[n:]
	}
	return false
}

func validLabel(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	return strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// base is a reply without options but type and server.
func (r *request) base(t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: r.m.HWType, TransactionID: r.m.TransactionID, Flags: r.m.Flags,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero,
		GatewayIPAddr: r.m.GatewayIPAddr, ClientHWAddr: r.m.ClientHWAddr, Options: dhcpv4.Options{},
	}
	put(m, dhcpv4.OptionDHCPMessageType, []byte{byte(t)})
	self := r.self
	if o := r.override(); o.IsValid() {
		self = o
	}
	put(m, dhcpv4.OptionServerIdentifier, self.AsSlice())
	return m
}

// PortID shows a circuit or remote id: printable ASCII as it is, else hex with colons, "" if there is none.
func PortID(b []byte) string {
	if len(b) > 0 && len(bytes.TrimFunc(b, func(c rune) bool { return c > ' ' && c < 0x7f })) == 0 {
		return string(b)
	}
	return strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":")
}

func put(m *dhcpv4.DHCPv4, code dhcpv4.OptionCode, b []byte) { m.Options[code.Code()] = b }

func seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))
}

func addrs(l []netip.Addr) []byte {
	var b []byte
	for _, a := range l {
		b = append(b, a.AsSlice()...)
	}
	return b
}

// network adds what every client gets, the same from every agent.
func (r *request) network(m *dhcpv4.DHCPv4, b binding) {
	s := r.subnet
	put(m, dhcpv4.OptionSubnetMask, net.CIDRMask(s.Prefix.Bits(), 32))
	if s.Router.IsValid() {
		put(m, dhcpv4.OptionRouter, s.Router.AsSlice())
	}
	if len(s.DNS) > 0 {
		put(m, dhcpv4.OptionDomainNameServer, addrs(s.DNS))
	}
	if len(s.NTP) > 0 {
		put(m, dhcpv4.OptionNTPServers, addrs(s.NTP))
	}
	if s.Domain != "" {
		put(m, dhcpv4.OptionDomainName, []byte(s.Domain))
		if bytes.IndexByte(r.m.Options.Get(dhcpv4.OptionParameterRequestList), 119) >= 0 {
			put(m, dhcpv4.OptionDNSDomainSearchList, search(s.Domain))
		}
	}
	if s.MTU != 0 {
		put(m, dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, s.MTU))
	}
	if b.host.Name != "" {
		put(m, dhcpv4.OptionHostName, []byte(b.host.Name))
	}
}

// search encodes one domain for option 119: the labels of RFC 1035 (RFC 3397); nil if it is none.
func search(domain string) (b []byte) {
	for _, l := range strings.Split(strings.TrimSuffix(domain, "."), ".") {
		if l == "" || len(l) > 63 {
			return nil
		}
		b = append(append(b, byte(len(l))), l...)
	}
	return append(b, 0)
}

// fit leaves out what a client can do without until the message is as short as it can take: 576 octets with the headers of IP and
// UDP, or what it says in option 57, at most one Ethernet frame (RFC 2131 section 2).
func (r *request) fit(m *dhcpv4.DHCPv4) []byte {
	const headers, least = ipHeader + udpHeader, 576
	limit := least
	if v := r.m.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(v) == 2 {
		limit = min(max(int(binary.BigEndian.Uint16(v)), least), maxPacket)
	}
	b := m.ToBytes()
	for _, code := range []uint8{119, 42, 15, 12, 66, 97, 61, 67} { // 66 repeats sname, 67 file; what the client sent comes late
		if len(b) <= limit-headers {
			break
		}
		if m.Options.Has(dhcpv4.GenericOptionCode(code)) {
			delete(m.Options, code)
			b = m.ToBytes()
		}
	}
	return b
}

// echo copies what RFC 6842 (61), RFC 4578 (97) and RFC 3046 (82, the codec puts it last) want back.
func (r *request) echo(m *dhcpv4.DHCPv4) {
	for _, c := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, dhcpv4.OptionClientMachineIdentifier} {
		if v := r.m.Options.Get(c); len(v) > 0 && (c.Code() != 97 || len(v) == 17) {
			put(m, c, v)
		}
	}
	if v := r.m.Options.Get(dhcpv4.OptionRelayAgentInformation); len(v) > 0 { // a snooping switch, without giaddr, wants it back too
		put(m, dhcpv4.OptionRelayAgentInformation, v)
	}
}

// boot adds the loader or the script. siaddr, sname, file, 66 and 67 are all filled: U-Boot reads only file, EDK2 only 67.
func (r *request) boot(m *dhcpv4.DHCPv4, b binding) {
	file, class := r.bootFile(b)
	if file == "" {
		return
	}
	if r.subnet.Mode == ModeProxy && class == "" {
		class = r.client.class // iPXE takes an offer without an address for a proxy's only by its class
	}
	r.ev.File = file
	m.ServerIPAddr = net.IP(r.self.AsSlice())
	m.ServerHostName = r.self.String()
	m.BootFileName = file
	put(m, dhcpv4.OptionTFTPServerName, []byte(r.self.String()))
	put(m, dhcpv4.OptionBootfileName, []byte(file))
	switch class {
	case "PXEClient":
		// 60 only together with 43: without it EDK2 takes us for a BINL server, asks port 4011 and gives up.
		// 43.6 = 8: use the file name of this packet; no boot server discovery.
		put(m, dhcpv4.OptionClassIdentifier, []byte("PXEClient"))
		put(m, dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255})
	case "HTTPClient":
		put(m, dhcpv4.OptionClassIdentifier, []byte("HTTPClient")) // or the firmware drops the offer
	}
}

// bootFile says what to load and which class the reply must carry.
func (r *request) bootFile(b binding) (file, class string) {
	if !r.client.pxe() || b.static && !b.host.Boot {
		return "", ""
	}
	if b.host.UUID != "" && r.client.uuid != "" && b.host.UUID != r.client.uuid {
		return "", "" // evidence contradicts: an address, but it boots from its own disk
	}
	base := fmt.Sprintf("http://%s:%d", r.self, r.v.f.HTTPPort)
	switch {
	case r.client.stage == "ipxe":
		return base + "/boot/" + r.mac.Hyphens() + "/auto.ipxe", ""
	case r.client.arch.loader == "":
		return "", ""
	case r.client.arch.http:
		return base + "/loaders/" + r.client.arch.loader, "HTTPClient"
	case r.client.class == "PXEClient":
		return r.client.arch.loader, "PXEClient"
	case r.client.class == "U-Boot":
		return r.client.arch.loader, "" // it reads the file field, and wants no class back
	}
	return "", ""
}
