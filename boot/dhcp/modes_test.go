package dhcp

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// yielding are the facts of a site on whose rack somebody else gives the addresses.
func yielding() Facts {
	fa := facts()
	fa.Subnets[0].Mode = ModeProxy
	fa.Leases = []Lease{{MAC: new1, Addr: ip("10.88.0.140"), Until: t0.Add(time.Hour), Agent: "a2"}}
	return fa
}

// TestProxyGoldens: beside another DHCP server, firmware and iPXE learn what to load, and no address.
func TestProxyGoldens(t *testing.T) {
	f := func(name string, p Packet) {
		t.Helper()
		golden(t, "proxy_"+name+".txt", dump(Handle(p, view(t, yielding()))))
	}
	f("bios_discover", packet(pxe(m1, 1, "0000")))
	f("x64_discover", packet(pxe(m1, 1, "0007")))
	f("x64_http_discover", packet(msg(m1, 1, nil, 60, asHex("HTTPClient:Arch:00016:UNDI:003000"), 93, "0010", 97, uuid1)))
	f("ipxe_discover", packet(pxe(m1, 1, "0000", 77, asHex("iPXE"), 175, "130101")))
	p := packet(pxe(new1, 1, "0007"))
	p.Repeat = 1
	f("leased_discover", p)
	f("port4011", Packet{
		Bytes: msg(m1, 3, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip("10.88.0.177").AsSlice() }, 60, pxeClass, 93, "0007", 97, uuid1),
		Local: ip("10.88.0.11"), Src: netip.MustParseAddrPort("10.88.0.177:68"), Port: 4011, At: t0,
	})
	f("renew", packet(msg(new1, 3, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip("10.88.0.140").AsSlice() })))
}

// TestYields: smee#10. Beside another DHCP server nobody gets a new address and nobody is refused one.
func TestYields(t *testing.T) {
	f := func(want string, b []byte) {
		t.Helper()
		reason(t, yielding(), packet(b), want)
	}
	at := func(a string) func(*dhcpv4.DHCPv4) {
		return func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip(a).AsSlice() }
	}
	f(ReasonYields, msg(m1, 1, nil))                                 // no PXE
	f(ReasonYields, msg(m1, 3, nil, 50, "0a580063"))                 // INIT-REBOOT with another's address: no NAK
	f(ReasonYields, msg(m1, 3, nil, 50, "0a580015"))                 // and with the reserved one: the other server's to say
	f(ReasonYields, msg(m1, 3, nil, 50, "0a580015", 54, "0a58000b")) // our offer from before: taken back
	f(ReasonYields, msg(new1, 3, at("10.88.0.141")))                 // leased elsewhere
	f(ReasonAck, msg(m1, 3, at("10.88.0.21")))                       // renewed
	f(ReasonAck, msg(new1, 3, at("10.88.0.140")))
	f(ReasonOther, pxe(m1, 3, "0007", 50, "0a580015", 54, "0a58000c"))
	f(ReasonNoLoader, pxe(m1, 1, "0006"))
}

// TestForeignServerNamed: who chooses a server that is none of ours says so, and which address it took.
func TestForeignServerNamed(t *testing.T) {
	f := func(server, want string) {
		t.Helper()
		fa := facts()
		fa.Kin = []netip.Addr{ip("10.88.0.13")} // an agent in quarantine answers still
		_, e := Handle(packet(msg(m1, 3, nil, 50, "0a5800b1", 54, hex.EncodeToString(ip(server).AsSlice()))), view(t, fa))
		got := ""
		if e.Event.Server.IsValid() {
			got = e.Event.Server.String() + " " + e.Event.Addr.String()
		}
		if got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	f("10.88.0.1", "10.88.0.1 10.88.0.177")
	f("10.88.0.11", "")
	f("10.88.0.12", "")
	f("10.88.0.13", "")
}

// TestWatch walks the life of a watch: + is a reply heard, c a client that chose, . a silent probe, each after some minutes.
func TestWatch(t *testing.T) {
	s := Server{ID: ip("10.88.0.1"), Addr: ip("10.88.0.1"), MAC: "52:54:00:00:00:fe", By: ByReply}
	other := Server{ID: ip("10.88.0.2"), By: ByClient}
	type step struct {
		after time.Duration
		what  byte
		news  bool
		mode  Mode // under auto
	}
	f := func(w Watch, steps ...step) {
		t.Helper()
		now := t0
		for i, st := range steps {
			now = now.Add(st.after)
			var news bool
			switch st.what {
			case '+':
				news = w.Heard(s, now)
			case 'c':
				news = w.Heard(Server{ID: s.ID, By: ByClient}, now)
			case 'o':
				news = w.Heard(other, now)
			default:
				news = w.Silent(now)
			}
			if news != st.news || w.Mode(ModeAuto) != st.mode {
				t.Fatalf("step %d: news %v, mode %v; want %v, %v", i, news, w.Mode(ModeAuto), st.news, st.mode)
			}
			for _, m := range []Mode{ModeOff, ModeAuthoritative, ModeProxy} {
				if w.Mode(m) != m {
					t.Fatalf("step %d: wanted %v, in force %v", i, m, w.Mode(m))
				}
			}
		}
		if w.Server.ID == s.ID && w.Server.By == ByReply && w.Server.MAC != s.MAC {
			t.Fatalf("forgot whose it is: %+v", w.Server)
		}
	}
	const auth, proxy = ModeAuthoritative, ModeProxy
	if new(Watch).Mode(ModeAuto) != proxy {
		t.Fatal("an address before anything was found out")
	}
	f(Watch{}, step{2 * time.Second, '.', true, auth}, step{30 * time.Second, '.', false, auth}, step{0, '+', true, proxy}, step{0, '+', false, proxy})
	f(Watch{}, step{0, '+', true, proxy}, step{0, 'c', false, proxy}, step{0, 'o', false, proxy}, step{0, '+', false, proxy})
	f(Watch{}, step{0, '+', true, proxy}, // three silent probes are too few, and ten minutes alone are
		step{time.Minute, '.', false, proxy}, step{time.Minute, '.', false, proxy}, step{time.Minute, '.', false, proxy},
		step{6*time.Minute + 59*time.Second, '.', false, proxy}, step{time.Second, '.', true, auth}, step{time.Minute, '.', false, auth})
	f(Watch{}, step{0, '+', true, proxy}, step{20 * time.Minute, '.', false, proxy}, step{time.Second, '.', false, proxy}, step{time.Second, '.', true, auth})
	f(Watch{}, step{0, '+', true, proxy}, step{20 * time.Minute, '.', false, proxy}, step{time.Second, 'c', false, proxy}, step{20 * time.Minute, '.', false, proxy})
	var w Watch
	w.Learn(true, s, t0) // after a restart
	f(w, step{9 * time.Minute, '.', false, proxy}, step{time.Minute, '.', false, proxy}, step{time.Second, '.', true, auth})
	w.Learn(false, Server{}, t0)
	f(w, step{0, '.', false, auth})
	w.Learn(true, s, t0)
	w.Forgive() // one of ours, as a later roster shows
	f(w, step{0, '.', false, auth})
}

// reply is the frame of a server's message.
func reply(typ byte, set func(*dhcpv4.DHCPv4), opts ...any) []byte {
	b := msg(m1, typ, func(m *dhcpv4.DHCPv4) {
		m.OpCode = 2
		m.YourIPAddr = net.IPv4(10, 88, 0, 177)
		if set != nil {
			set(m)
		}
	}, opts...)
	return frame(m2, m1, netip.MustParseAddrPort("10.88.0.1:67"), netip.MustParseAddrPort("255.255.255.255:68"), b)
}

// TestServerOf: who gives addresses shows itself by its replies; nothing else counts.
func TestServerOf(t *testing.T) {
	f := func(want string, b []byte) {
		t.Helper()
		s, ok := serverOf(b, dhcpv4.TransactionID{})
		got := ""
		if ok {
			got = s.String() + ", gave " + s.Has.String()
		}
		if got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	f("10.88.0.1 at 52:54:00:00:00:02, gave 10.88.0.177", reply(2, nil, 54, "0a580001"))
	f("10.88.0.1 at 52:54:00:00:00:02, gave 10.88.0.177", reply(5, nil)) // BOOTP-like: no identifier
	f("10.99.0.1 at 52:54:00:00:00:02, which sends from 10.88.0.1, gave 10.88.0.177", reply(2, nil, 54, "0a630001"))
	f("", reply(6, nil, 54, "0a580001"))                                                    // NAK
	f("", reply(2, func(m *dhcpv4.DHCPv4) { m.YourIPAddr = net.IPv4zero }, 54, "0a580001")) // a proxy
	f("", reply(1, func(m *dhcpv4.DHCPv4) { m.OpCode = 1 }))                                // a client
	f("", frame(m2, m1, netip.MustParseAddrPort("10.88.0.1:68"), netip.MustParseAddrPort("255.255.255.255:68"), pxe(m1, 1, "0000")))
	whole := reply(2, nil, 54, "0a580001")
	for n := range len(whole) - 1 {
		if _, ok := serverOf(whole[:n], dhcpv4.TransactionID{}); ok {
			t.Fatalf("believed %d of %d octets", n, len(whole))
		}
	}
	fragment := append([]byte(nil), whole...)
	fragment[20] |= 0x20
	f("", fragment)
	m, err := dhcpv4.FromBytes(probe(new1, dhcpv4.TransactionID{7})[ethHeader+ipHeader+udpHeader:])
	if err != nil || m.MessageType() != dhcpv4.MessageTypeDiscover || !m.IsBroadcast() || m.ClientHWAddr.String() != new1.String() {
		t.Fatalf("probe: %v %v", m, err)
	}
	if _, e := Handle(packet(m.ToBytes()), view(t, facts())); e.Event.Reason != ReasonStranger {
		t.Fatalf("a peer's probe: %s", e.Event.Reason)
	}
}

func FuzzServerOf(f *testing.F) {
	f.Add(reply(2, nil, 54, "0a580001"))
	f.Add(reply(5, nil))
	f.Add(probe(m1, dhcpv4.TransactionID{7}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := serverOf(b, dhcpv4.TransactionID{}); ok && (!s.ID.IsValid() || !s.Has.IsValid()) {
			t.Fatalf("%+v", s)
		}
	})
}

// TestSignsFromAfar: what comes from beyond the segment says nothing of DHCP servers on it, or one datagram in ten minutes, sent from
// anywhere that is routed, keeps a subnet without addresses.
func TestSignsFromAfar(t *testing.T) {
	p := packet(msg(new1, 3, nil, 50, "0a5800b1", 54, hex.EncodeToString(ip("10.88.0.250").AsSlice())))
	p.Src = netip.MustParseAddrPort("203.0.113.9:4444") // who chooses a server has no address yet, or comes by a relay
	if _, e := Handle(p, view(t, facts())); e.Event.Server.IsValid() || e.Event.Reason != ReasonElse {
		t.Errorf("a REQUEST from %s: %s is taken for a server of this segment", p.Src, e.Event.Server)
	}
	xid := dhcpv4.TransactionID{1, 2, 3, 4}
	offer := &dhcpv4.DHCPv4{
		OpCode: 2, HWType: 1, TransactionID: xid, ClientHWAddr: m1[:], YourIPAddr: ip("10.88.0.11").AsSlice(), Options: dhcpv4.Options{53: {2}, 54: ip("203.0.113.9").AsSlice()},
	}
	b := frame(m2, m1, netip.MustParseAddrPort("203.0.113.9:67"), netip.MustParseAddrPort("10.88.0.11:68"), offer.ToBytes())
	if s, ok := serverOf(b, dhcpv4.TransactionID{9}); ok {
		t.Errorf("an OFFER that nobody asked for, routed to the agent's own address: %+v", s)
	}
	if _, ok := serverOf(b, xid); !ok {
		t.Error("the answer to our own probe is not heard, as its server does not broadcast")
	}
}
