package dhcp

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// relayed is a packet that a relay passed on.
func relayed(mac MAC, typ byte, giaddr, o82 string, opts ...any) Packet {
	if o82 != "" {
		opts = append(opts, 82, o82)
	}
	b := msg(mac, typ, func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip(giaddr).AsSlice() }, opts...)
	return Packet{Bytes: b, Local: ip("10.88.0.11"), Src: netip.AddrPortFrom(ip(giaddr), 67), Port: 67, At: t0}
}

// TestRelaySubnet: a relay speaks for the subnets that list it, and for no other; what it says of the port is evidence.
func TestRelaySubnet(t *testing.T) {
	fa := facts()
	fa.Subnets = append(fa.Subnets,
		Subnet{Name: "far2", Prefix: netip.MustParsePrefix("10.92.0.0/24"), Mode: ModeAuthoritative, Relays: []netip.Addr{ip("10.90.0.1"), ip("192.0.2.9")}})
	v := view(t, fa)
	f := func(giaddr, o82, want string) {
		t.Helper()
		_, e := Handle(relayed(new1, 1, giaddr, o82), v)
		got := e.Event.Reason + " " + e.Event.Subnet + " " + PortID(e.Event.Circuit) + " " + PortID(e.Event.Remote)
		if e.Event.Relay.IsValid() {
			got += " by " + e.Event.Relay.String()
		}
		if got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	f("10.90.0.1", "", "stranger far   by 10.90.0.1")
	f("10.90.0.1", "0104 65746830 0206 001122334455", "stranger far eth0 00:11:22:33:44:55 by 10.90.0.1")
	f("10.90.0.1", "0104 65746830 0504 0a5c0000", "stranger far2 eth0  by 10.90.0.1") // link selection
	f("192.0.2.9", "", "stranger far2   by 192.0.2.9")                                // its address is of no subnet of ours
	f("10.90.0.1", "0504 0a580000", "relay-not-listed   ")                            // it may not speak for the rack
	f("10.90.0.1", "0504 c0000201", "relay-not-listed   ")
	f("10.90.0.9", "0104 65746830", "relay-not-listed   ")
	f("10.88.0.11", "", "relay-not-listed   ") // one of ours, which relays nothing
	// A client that sends option 82 itself says nothing.
	_, e := Handle(packet(msg(m1, 1, nil, 82, "0104 65746830")), v)
	if e.Event.Relay.IsValid() || e.Event.Circuit != nil {
		t.Errorf("believed a client: %+v", e.Event)
	}
}

// TestServerOverride: RFC 5107. All agents bear the relay's name: known clients are answered by all alike, a new one by who offered.
func TestServerOverride(t *testing.T) {
	const o82 = "0b04 0a5a0001"
	req := func(addr string) []any {
		return []any{50, hex.EncodeToString(ip(addr).AsSlice()), 54, "0a5a0001"}
	}
	fa := facts()
	fa.Subnets[1].AnyClient, fa.Subnets[1].DynFirst, fa.Subnets[1].DynLast = true, ip("10.90.0.100"), ip("10.90.0.199")
	acks := 0
	for _, a := range fa.Agents {
		fa.Self = a.ID
		v := view(t, fa)
		rep, e := Handle(relayed(m1, 1, "10.90.0.1", o82), v)
		m, err := dhcpv4.FromBytes(rep.Bytes)
		if err != nil || addrOf(m.Options.Get(dhcpv4.OptionServerIdentifier)) != ip("10.90.0.1") {
			t.Fatalf("%s: %v %+v", a.ID, err, e.Event)
		}
		if rep, e = Handle(relayed(m1, 3, "10.90.0.1", o82, req("10.90.0.21")...), v); e.Event.Reason != ReasonAck {
			t.Fatalf("%s: %s", a.ID, dump(rep, e))
		}
		switch _, e = Handle(relayed(new1, 3, "10.90.0.1", o82, req("10.90.0.150")...), v); e.Event.Reason {
		case ReasonAck:
			acks++
		case ReasonOther:
		default:
			t.Fatalf("%s: %s", a.ID, e.Event.Reason)
		}
		// Without a relay the option is a client's own word.
		if _, e = Handle(packet(msg(m1, 3, nil, append(req("10.88.0.21"), 82, o82)...)), v); e.Event.Reason != ReasonOther {
			t.Fatalf("%s: a client's own override: %s", a.ID, e.Event.Reason)
		}
	}
	if acks != 1 {
		t.Errorf("%d agents gave one new address", acks)
	}
}

func TestPortID(t *testing.T) {
	f := func(h, want string) {
		t.Helper()
		b, err := hex.DecodeString(strings.ReplaceAll(h, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := PortID(b); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	f("", "")
	f("65746830", "eth0")
	f("0004 00640103", "00:04:00:64:01:03") // VLAN 100, module 1, port 3
	f("6574 0a 6830", "65:74:0a:68:30")     // no newline reaches a log
	f("6574206830", "65:74:20:68:30")
}

// TestRelaysAreOurs: a relay that puts itself in our place (RFC 5107) is no other DHCP server for the agent that is on the segment
// itself, and its address is given to nobody.
func TestRelaysAreOurs(t *testing.T) {
	fa := facts()
	fa.Agents[0].Boot = append(fa.Agents[0].Boot, ip("10.90.0.11")) // on the relay's segment too
	v := view(t, fa)
	p := packet(msg(m1, 3, nil, 50, "0a5a0015", 54, hex.EncodeToString(ip("10.90.0.1").AsSlice())))
	p.Local = ip("10.90.0.11")
	if _, e := Handle(p, v); e.Event.Server.IsValid() {
		t.Errorf("the listed relay %s is taken for a foreign server (%s)", e.Event.Server, e.Event.Reason)
	}
	if !v.Ours(ip("10.90.0.1")) {
		t.Error("its replies, with its own address in option 54, are heard as those of a foreign server")
	}
	if v.free(fa.Subnets[1], ip("10.90.0.1"), new1, nil, t0) {
		t.Error("its address is given to a client")
	}
}

// TestProxyByRelay: an offer without an address is broadcast by a relay: there is no address that it could be sent to.
func TestProxyByRelay(t *testing.T) {
	fa := facts()
	fa.Subnets[1].Mode = ModeProxy
	p := relayed(m1, 1, "10.90.0.1", "", 60, asHex("PXEClient:Arch:00007:UNDI:003001"), 93, "0007")
	r, _ := reason(t, fa, p, ReasonProxy)
	if m, err := dhcpv4.FromBytes(r.Bytes); err != nil || m.Flags&0x8000 == 0 {
		t.Errorf("flags %x, yiaddr %v, %v", m.Flags, m.YourIPAddr, err)
	}
}
