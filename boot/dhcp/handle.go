package dhcp

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Packet is one datagram as it came in, with what the socket knows about it.
type Packet struct {
	Bytes  []byte         // UDP payload
	Local  netip.Addr     // our address on the interface it came in by
	Src    netip.AddrPort // sender
	Port   uint16         // 67 or 4011
	At     time.Time      // when it came
	Repeat int            // how many DISCOVERs of this client, none answered by us, came before it within a minute
	// Offers are the addresses that this agent has offered and nobody took yet; may be nil.
	Offers map[netip.Addr]Offer
}

// Offer is an address on the table.
type Offer struct {
	MAC   MAC
	Until time.Time
}

// Reply is what to send; Bytes nil = silence.
type Reply struct {
	Bytes []byte
	To    netip.AddrPort // 255.255.255.255:68 = broadcast on the interface
	// Frame: the client has no address yet and cannot answer ARP, so send a raw frame to MAC and To.
	Frame bool
	MAC   MAC
}

// Effects are what the listener does, in this order, before it sends the Reply.
type Effects struct {
	Commit *Lease // make durable first; on an error nothing is sent
	Offer  *Offered
	Event  Event
}

// Offered is an address to remember for 30 s.
type Offered struct {
	Addr netip.Addr
	Offer
}

// Event says what a packet was and what became of it. Reason is a constant: it labels counters.
type Event struct {
	Reason string // see the constants
	MAC    MAC
	Type   string // DISCOVER, REQUEST, ...
	Subnet string
	Addr   netip.Addr // the client's, if decided
	UUID   string     // SMBIOS UUID of option 97, lower case; "" if absent
	Arch   string     // bios, x64, x64-http, arm64, ...; "" if it does not PXE
	Stage  string     // firmware, ipxe, os: who asks
	File   string     // boot file or URL that was offered
	Server netip.Addr // the DHCP server that the client chose, if it is none of the site's agents
	// Where the client is, as a listed relay says: its giaddr, and circuit and remote id of option 82 as they came, at most 255
	// octets each; see PortID. From a client itself they are no evidence, and are not here.
	Relay           netip.Addr
	Circuit, Remote []byte
}

// The reasons. The first group was answered.
const (
	ReasonOffer    = "offer"
	ReasonAck      = "ack"
	ReasonNak      = "nak"
	ReasonInform   = "inform"
	ReasonProxy    = "proxy" // what to load, and no address
	ReasonMalform  = "malformed"
	ReasonForeign  = "not-dhcp-request"
	ReasonHardware = "hardware-type"
	ReasonRelay    = "relay-not-listed"
	ReasonSubnet   = "no-subnet"
	ReasonOff      = "mode-off"
	ReasonOther    = "other-server"   // another agent of the site was chosen
	ReasonElse     = "foreign-server" // somebody who is none of ours was chosen
	ReasonYields   = "mode-proxy"
	ReasonNoLoader = "no-loader"
	ReasonStranger = "stranger"
	ReasonWait     = "another-agent-first"
	ReasonPool     = "pool-empty"
	ReasonUnsure   = "not-certain"
	ReasonDecline  = "declined"        // a lease: its address is to rest for RestTime
	ReasonConflict = "static-conflict" // a reserved address that somebody else uses
	ReasonRelease  = "released"
	ReasonIgnored  = "ignored"
)

// Times of leases (boot.md section 2). T1 is a quarter and T2 a half: a dead server costs a rebind, no outage.
const (
	LeaseDynamic = 4 * time.Hour
	LeaseStatic  = 24 * time.Hour
	offerTime    = 30 * time.Second
	RestTime     = 24 * time.Hour // of an address that a client found in use
)

// request is a parsed packet with what was decided about it so far.
type request struct {
	p      Packet
	v      *View
	m      *dhcpv4.DHCPv4
	mac    MAC
	subnet Subnet
	self   netip.Addr // option 54
	giaddr netip.Addr
	client client
	ev     Event
}

// Handle decides the answer to one packet. It is pure: same packet and view, same reply. It never panics on input that the
// codec accepts; the listener has a recover boundary for the codec itself.
func Handle(p Packet, v *View) (Reply, Effects) {
	r, ok := parse(p, v)
	if !ok {
		return Reply{}, Effects{Event: r.ev}
	}
	switch r.m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if r.subnet.Mode == ModeProxy {
			return r.proxy(dhcpv4.MessageTypeOffer)
		}
		return r.discover()
	case dhcpv4.MessageTypeRequest:
		return r.request()
	case dhcpv4.MessageTypeInform:
		return r.inform()
	case dhcpv4.MessageTypeDecline:
		return r.decline()
	case dhcpv4.MessageTypeRelease:
		r.ev.Addr = addrOf(r.m.ClientIPAddr)
		return r.silent(ReasonRelease)
	default:
		return r.silent(ReasonIgnored)
	}
}

func (r *request) silent(reason string) (Reply, Effects) {
	r.ev.Reason = reason
	return Reply{}, Effects{Event: r.ev}
}

// parse fills a request, or says in its event why there is no answer.
func parse(p Packet, v *View) (*request, bool) {
	r := &request{p: p, v: v}
	bad := func(reason string) (*request, bool) {
		r.ev.Reason = reason
		return r, false
	}
	m, err := dhcpv4.FromBytes(p.Bytes)
	if err != nil {
		return bad(ReasonMalform)
	}
	r.m = m
	if m.OpCode != dhcpv4.OpcodeBootRequest || !m.Options.Has(dhcpv4.OptionDHCPMessageType) {
		return bad(ReasonForeign)
	}
	r.ev.Type = m.MessageType().String()
	if m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != 6 || m.ClientHWAddr[0]&1 != 0 {
		return bad(ReasonHardware)
	}
	copy(r.mac[:], m.ClientHWAddr)
	r.client = identify(m)
	r.ev.MAC, r.ev.UUID, r.ev.Arch, r.ev.Stage = r.mac, r.client.uuid, r.client.arch.name, r.client.stage
	if reason := r.locate(); reason != "" {
		return bad(reason)
	}
	r.ev.Subnet = r.subnet.Name
	if r.subnet.Mode != ModeAuthoritative && r.subnet.Mode != ModeProxy {
		return bad(ReasonOff)
	}
	return r, true
}

// locate finds the subnet: by option 82.5, giaddr, ciaddr, then the interface. Option 82 is believed from listed relays only.
func (r *request) locate() string {
	r.giaddr = addrOf(r.m.GatewayIPAddr)
	where := r.p.Local
	if r.giaddr.IsValid() {
		s, ok := r.relaySubnet()
		if !ok {
			return ReasonRelay
		}
		where = s
		r.ev.Relay, r.ev.Circuit, r.ev.Remote = r.giaddr, r.relayOption(1), r.relayOption(2)
	} else if c := addrOf(r.m.ClientIPAddr); c.IsValid() {
		if _, ok := r.v.subnet(c); ok {
			where = c // a renewal may be routed to us
		}
	}
	s, ok := r.v.subnet(where)
	if !ok {
		return ReasonSubnet
	}
	r.subnet = s
	if r.self, ok = r.v.own(s); !ok {
		return ReasonSubnet
	}
	return ""
}

// relaySubnet finds the subnet that a relay speaks for: of those that list its giaddr the one with the link that it selects, or with
// giaddr, or the first. A relay speaks for no subnet that does not list it.
func (r *request) relaySubnet() (netip.Addr, bool) {
	link := addrOf(r.relayOption(5)) // RFC 3527 link selection
	first := netip.Addr{}
	for _, s := range r.v.f.Subnets {
		switch {
		case !slices.Contains(s.Relays, r.giaddr):
		case s.Prefix.Contains(link), !link.IsValid() && s.Prefix.Contains(r.giaddr):
			return s.Prefix.Addr(), true
		case !link.IsValid() && !first.IsValid():
			first = s.Prefix.Addr()
		}
	}
	return first, first.IsValid()
}

// override is the relay's address that stands for ours (RFC 5107), if a listed relay says so.
func (r *request) override() netip.Addr {
	if !r.giaddr.IsValid() {
		return netip.Addr{}
	}
	return addrOf(r.relayOption(11))
}

func (r *request) relayOption(code uint8) []byte {
	o := r.m.RelayAgentInfo()
	if o == nil {
		return nil
	}
	return o.Get(dhcpv4.GenericOptionCode(code))
}

func addrOf(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}
	}
	a = a.Unmap()
	if !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// binding is what a client may have: a reservation, a lease, or nothing.
type binding struct {
	addr    netip.Addr
	host    Host // zero for a lease
	static  bool
	expires time.Duration
}

func (r *request) bound() (binding, bool) {
	if h, ok := r.v.host(r.mac, r.subnet); ok {
		return binding{h.Addr, h, true, LeaseStatic}, true
	}
	if l, ok := r.v.leases[r.mac]; ok && r.subnet.Prefix.Contains(l.Addr) && r.p.At.Before(l.Until.Add(quarantine)) && !r.v.rests(l.Addr, r.p.At) {
		if _, static := r.v.static[l.Addr]; !static { // reserved for somebody else meanwhile
			return binding{addr: l.Addr, expires: LeaseDynamic}, true
		}
	}
	return binding{}, false
}

// welcome tells whether a stranger gets an address at all.
func (r *request) welcome() bool {
	return r.subnet.AnyClient || r.subnet.Discovery && r.client.pxe()
}

func (r *request) discover() (Reply, Effects) {
	b, ok := r.bound()
	if ok {
		r.ev.Addr = b.addr
		return r.answer(dhcpv4.MessageTypeOffer, b, Effects{})
	}
	if !r.welcome() {
		return r.silent(ReasonStranger)
	}
	if r.v.f.Aside || r.v.rank(r.mac[:]) > r.p.Repeat {
		return r.silent(ReasonWait)
	}
	a, ok := r.v.pick(r.subnet, r.mac, r.p.Offers, r.p.At)
	if !ok {
		return r.silent(ReasonPool)
	}
	r.ev.Addr = a
	o := &Offered{a, Offer{r.mac, r.p.At.Add(offerTime)}}
	return r.answer(dhcpv4.MessageTypeOffer, binding{addr: a, expires: LeaseDynamic}, Effects{Offer: o})
}

func (r *request) request() (Reply, Effects) {
	want := addrOf(r.m.Options.Get(dhcpv4.OptionRequestedIPAddress))
	ciaddr := addrOf(r.m.ClientIPAddr)
	if !want.IsValid() {
		want = ciaddr
	}
	proxy := r.subnet.Mode == ModeProxy
	if proxy && r.p.Port == port4011 {
		return r.proxy(dhcpv4.MessageTypeAck) // it has its address already
	}
	if !want.IsValid() {
		return r.silent(ReasonIgnored)
	}
	chosen := addrOf(r.m.Options.Get(dhcpv4.OptionServerIdentifier))
	if chosen.IsValid() && chosen != r.self && chosen != r.override() && r.p.Port != port4011 {
		// The client chose another server: its answer proves that it lives, ours would not.
		r.ev.Addr = want
		if r.v.ours[chosen] {
			return r.silent(ReasonOther)
		}
		if r.giaddr.IsValid() || r.p.Src.Addr().IsUnspecified() {
			r.ev.Server = chosen // who chooses has no address yet, or comes by a relay; all else may come from anywhere
		}
		return r.silent(ReasonElse)
	}
	b, known := r.bound()
	switch {
	case proxy && (!known || b.addr != want || ciaddr != want || chosen.IsValid()):
		return r.silent(ReasonYields) // what was leased is renewed; nothing is leased anew, nobody is refused
	case known && b.addr == want:
		return r.ack(b)
	case known && b.static:
		return r.nak()
	case chosen.IsValid():
		return r.take(want)
	case known && r.certain(want):
		return r.nak()
	}
	return r.silent(ReasonUnsure) // another agent may have given it: it says so, or the client asks anew
}

// certain tells whether nobody can have given the wanted address to a client of whom another lease is known: it is no address of
// this subnet, somebody else's for good, or of our own slice.
func (r *request) certain(want netip.Addr) bool {
	_, static := r.v.static[want]
	return static || !r.subnet.Prefix.Contains(want) || r.v.owns(want)
}

// proxy tells a machine's firmware, or iPXE, what to load, and gives no address: proxyDHCP of PXE 2.1, and the same for HTTP
// boot (UEFI 2.10 section 24.7.2). Everybody else gets nothing.
func (r *request) proxy(t dhcpv4.MessageType) (Reply, Effects) {
	b, known := r.bound()
	switch {
	case r.client.class != "PXEClient" && r.client.class != "HTTPClient":
		return r.silent(ReasonYields)
	case !known && !r.welcome():
		return r.silent(ReasonStranger)
	case !known && t == dhcpv4.MessageTypeOffer && r.v.rank(r.mac[:]) > r.p.Repeat:
		return r.silent(ReasonWait)
	}
	m := r.base(t)
	m.ClientIPAddr = r.m.ClientIPAddr
	if r.giaddr.IsValid() {
		m.Flags |= 0x8000 // there is no address that the relay could send it to
	}
	r.boot(m, b)
	if r.ev.File == "" {
		return r.silent(ReasonNoLoader)
	}
	r.echo(m)
	r.ev.Reason, r.ev.Addr = ReasonProxy, addrOf(r.m.ClientIPAddr)
	rep := Reply{Bytes: r.fit(m), To: broadcast68(), MAC: r.mac}
	if r.p.Port == port4011 || r.giaddr.IsValid() || r.ev.Addr.IsValid() {
		rep.To, _ = r.destination(r.ev.Addr)
	}
	return rep, Effects{Event: r.ev}
}

// take gives a new client the address that it was offered by us.
func (r *request) take(want netip.Addr) (Reply, Effects) {
	if !r.welcome() {
		return r.silent(ReasonStranger)
	}
	inRange := r.subnet.DynFirst.IsValid() && !want.Less(r.subnet.DynFirst) && !r.subnet.DynLast.Less(want)
	if named := addrOf(r.m.Options.Get(dhcpv4.OptionServerIdentifier)); named != r.self && inRange && !r.v.owns(want) {
		return r.silent(ReasonOther) // all agents bear the relay's name: it was the owner's offer
	}
	if r.v.f.Aside || !inRange || !r.v.owns(want) || !r.v.free(r.subnet, want, r.mac, r.p.Offers, r.p.At) {
		return r.nak()
	}
	return r.ack(binding{addr: want, expires: LeaseDynamic})
}

func (r *request) ack(b binding) (Reply, Effects) {
	r.ev.Addr = b.addr
	var e Effects
	if !b.static {
		l := r.v.leases[r.mac]
		if left := min(l.Until.Sub(r.p.At), b.expires); l.Addr == b.addr && left >= b.expires/16*15 {
			b.expires = left // enough of it: who renews without end writes nothing
			return r.answer(dhcpv4.MessageTypeAck, b, e)
		}
		e.Commit = &Lease{MAC: r.mac, Addr: b.addr, Until: r.p.At.Add(b.expires), Agent: r.v.self.ID, Name: r.client.name}
	}
	return r.answer(dhcpv4.MessageTypeAck, b, e)
}

// nak is sent only where we are certain: authoritative, and the client is ours or asks for what our slice refuses.
func (r *request) nak() (Reply, Effects) {
	m := r.base(dhcpv4.MessageTypeNak)
	if r.giaddr.IsValid() {
		m.Flags |= 0x8000 // RFC 2131 section 4.3.2: the relay must broadcast a NAK
	}
	r.echo(m)
	r.ev.Reason = ReasonNak
	rep := Reply{Bytes: r.fit(m), To: broadcast68(), MAC: r.mac}
	if r.giaddr.IsValid() {
		rep.To = netip.AddrPortFrom(r.giaddr, 67)
	}
	return rep, Effects{Event: r.ev}
}

// inform answers a client that has its address from elsewhere: options only.
func (r *request) inform() (Reply, Effects) {
	if !r.v.Known(r.mac) {
		return r.silent(ReasonStranger)
	}
	c := addrOf(r.m.ClientIPAddr)
	if !c.IsValid() {
		return r.silent(ReasonIgnored)
	}
	m := r.base(dhcpv4.MessageTypeAck)
	m.ClientIPAddr = r.m.ClientIPAddr
	b, _ := r.bound()
	r.network(m, b)
	r.echo(m)
	r.ev.Reason, r.ev.Addr = ReasonInform, c
	return Reply{Bytes: r.fit(m), To: netip.AddrPortFrom(c, 68), MAC: r.mac}, Effects{Event: r.ev}
}

// decline: the client saw somebody else use the address. One that was leased rests; a reserved one is served on: the intruder is
// the fault. Nobody has another's address rest.
func (r *request) decline() (Reply, Effects) {
	r.ev.Addr = addrOf(r.m.Options.Get(dhcpv4.OptionRequestedIPAddress))
	chosen := addrOf(r.m.Options.Get(dhcpv4.OptionServerIdentifier))
	b, ok := r.bound()
	switch {
	case !ok || b.addr != r.ev.Addr:
		return r.silent(ReasonIgnored)
	case chosen.IsValid() && chosen != r.self && chosen != r.override():
		return r.silent(ReasonOther)
	case b.static:
		return r.silent(ReasonConflict)
	}
	return r.silent(ReasonDecline)
}

// answer builds an OFFER or ACK.
func (r *request) answer(t dhcpv4.MessageType, b binding, e Effects) (Reply, Effects) {
	m := r.base(t)
	m.YourIPAddr = net.IP(b.addr.AsSlice())
	if t == dhcpv4.MessageTypeAck {
		m.ClientIPAddr = r.m.ClientIPAddr
	}
	put(m, dhcpv4.OptionIPAddressLeaseTime, seconds(b.expires))
	put(m, dhcpv4.OptionRenewTimeValue, seconds(b.expires/4))
	put(m, dhcpv4.OptionRebindingTimeValue, seconds(b.expires/2))
	r.network(m, b)
	r.boot(m, b)
	r.echo(m)
	r.ev.Reason = ReasonOffer
	if t == dhcpv4.MessageTypeAck {
		r.ev.Reason = ReasonAck
	}
	e.Event = r.ev
	rep := Reply{Bytes: r.fit(m), MAC: r.mac}
	rep.To, rep.Frame = r.destination(b.addr)
	return rep, e
}

func broadcast68() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 68)
}

// destination follows RFC 2131 section 4.1.
func (r *request) destination(yiaddr netip.Addr) (to netip.AddrPort, frame bool) {
	switch c := addrOf(r.m.ClientIPAddr); {
	case r.p.Port == port4011:
		return r.p.Src, false
	case r.giaddr.IsValid():
		return netip.AddrPortFrom(r.giaddr, 67), false
	case c.IsValid():
		return netip.AddrPortFrom(c, 68), false
	case r.m.Flags&0x8000 != 0:
		return broadcast68(), false
	}
	return netip.AddrPortFrom(yiaddr, 68), true
}

// uuid formats option 97: type 0 and 16 octets, the first three fields little-endian (SMBIOS 2.6); other sizes are ignored.
func uuid(b []byte) string {
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	b = b[1:]
	s := hex.EncodeToString([]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}) + hex.EncodeToString(b[8:])
	switch s {
	case "00000000000000000000000000000000", "ffffffffffffffffffffffffffffffff",
		"03000200040005000006000700080009": // AMI's default, on thousands of boards (seen in a capture)
		return "" // placeholders count as absent
	}
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
