package dhcp

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// MAC is an Ethernet address.
type MAC [6]byte

// String returns six lower-case hex pairs with colons.
func (m MAC) String() string { return m.join(":") }

// Hyphens returns six lower-case hex pairs with hyphens, as URL paths carry them.
func (m MAC) Hyphens() string { return m.join("-") }

func (m MAC) join(sep string) string {
	var b strings.Builder
	for i, v := range m {
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(hex.EncodeToString([]byte{v}))
	}
	return b.String()
}

// ErrMAC says that a text is not an Ethernet address.
var ErrMAC = errors.New("not a MAC address (want six hex pairs)")

// ParseMAC reads six hex pairs with colons or hyphens, any case. Errors: ErrMAC.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	b, err := hex.DecodeString(strings.NewReplacer(":", "", "-", "").Replace(s))
	if err != nil || len(b) != 6 || len(s) != 17 {
		return MAC{}, fmt.Errorf("cannot parse %.40q: %w", s, ErrMAC)
	}
	copy(m[:], b)
	return m, nil
}

// Mode says what we do on a subnet.
type Mode int

// The modes. A View has the mode in force; ModeAuto is only ever wanted, see Watch.
const (
	ModeOff           Mode = iota // silence
	ModeAuthoritative             // we are the DHCP server here
	ModeProxy                     // somebody else gives the addresses: we tell PXE and HTTP boot clients what to load
	ModeAuto                      // authoritative until another server is noticed, then proxy
)

// String returns the mode as intent has it.
func (m Mode) String() string {
	return [...]string{"off", "authoritative", "proxy", "auto"}[m&3]
}

// Agent is one rostered agent.
type Agent struct {
	ID   string
	Boot []netip.Addr // its addresses on boot networks
	// Heard is a time up to which all that it leased is in Facts.Leases; zero: never. Of Self it is not looked at.
	Heard time.Time
}

// Subnet is one network that we serve.
type Subnet struct {
	Name      string
	Prefix    netip.Prefix
	Router    netip.Addr // may be zero
	DNS, NTP  []netip.Addr
	Domain    string
	MTU       uint16     // 0: not sent
	DynFirst  netip.Addr // dynamic range, inclusive; zero: none
	DynLast   netip.Addr
	Mode      Mode
	Discovery bool         // strangers that PXE get an address and the inventory ramdisk
	AnyClient bool         // every stranger gets an address
	Relays    []netip.Addr // giaddr values that we believe
}

// Host is a reservation.
type Host struct {
	MAC  MAC
	Name string // one DNS label, sent as option 12
	Addr netip.Addr
	Boot bool   // a loader or script is offered; false: address only
	UUID string // SMBIOS UUID, lower case, if known: another one in option 97 gets an address and no boot
}

// Lease is a dynamic address given to a client.
type Lease struct {
	MAC   MAC
	Addr  netip.Addr
	Until time.Time
	Agent string // who gave it last
	Name  string // what the client calls itself; a label at most 63 octets, not verified
}

// Facts are what NewView indexes. Nothing of it may change afterwards.
type Facts struct {
	Self    string  // id of this agent; must be in Agents
	Aside   bool    // this agent does not count now: it serves and renews, and leases nothing anew
	Agents  []Agent // the effective roster, in roster order
	Subnets []Subnet
	Hosts   []Host
	Leases  []Lease
	Resting map[netip.Addr]time.Time // addresses that clients found in use, until when they are given to nobody
	// Kin are further addresses of the site's own agents: of those that do not count now, and answer still.
	Kin      []netip.Addr
	HTTPPort uint16 // of boot HTTP; 0 takes 7480
}

// View is an immutable index of Facts.
type View struct {
	f      Facts
	self   Agent
	hosts  map[MAC][]Host
	static map[netip.Addr]MAC
	ours   map[netip.Addr]bool
	leases map[MAC]Lease
	taken  map[netip.Addr]Lease
}

const defHTTPPort = 7480

// NewView checks and indexes f. Errors name the first thing that does not fit; the caller keeps its last good View.
func NewView(f Facts) (*View, error) {
	v := &View{f: f, hosts: map[MAC][]Host{}, static: map[netip.Addr]MAC{}, ours: map[netip.Addr]bool{}, leases: map[MAC]Lease{}, taken: map[netip.Addr]Lease{}}
	if v.f.HTTPPort == 0 {
		v.f.HTTPPort = defHTTPPort
	}
	i := slices.IndexFunc(f.Agents, func(a Agent) bool { return a.ID == f.Self })
	if i < 0 {
		return nil, fmt.Errorf("cannot make DHCP view: agent %q is not in the roster", f.Self)
	}
	v.self = f.Agents[i]
	for _, s := range f.Subnets {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("cannot make DHCP view: subnet %s: %w", s.Name, err)
		}
	}
	for _, h := range f.Hosts {
		if other, ok := v.static[h.Addr]; ok && other != h.MAC {
			return nil, fmt.Errorf("cannot make DHCP view: %s is reserved for %s and %s", h.Addr, other, h.MAC)
		}
		v.static[h.Addr] = h.MAC
		v.hosts[h.MAC] = append(v.hosts[h.MAC], h)
	}
	for _, a := range f.Agents {
		for _, b := range a.Boot {
			v.static[b] = MAC{}
			v.ours[b] = true
		}
	}
	for _, b := range f.Kin {
		v.static[b] = MAC{}
		v.ours[b] = true
	}
	for _, s := range f.Subnets {
		for _, b := range s.Relays { // one may put itself in our place (RFC 5107)
			v.static[b] = MAC{}
			v.ours[b] = true
		}
	}
	for _, l := range f.Leases {
		if have, ok := v.leases[l.MAC]; !ok || have.Until.Before(l.Until) || have.Until.Equal(l.Until) && have.Addr.Less(l.Addr) {
			v.leases[l.MAC] = l // the newest; it may have had other addresses before
		}
		// Leases have no order. Of an address that had several holders the last one counts, or it would seem free.
		if have, ok := v.taken[l.Addr]; !ok || have.Until.Before(l.Until) || have.Until.Equal(l.Until) && have.MAC.String() < l.MAC.String() {
			v.taken[l.Addr] = l
		}
	}
	v.f.Resting = f.rested()
	return v, nil
}

// restShare is the part of a dynamic range that may rest at once: who makes up Ethernet addresses could decline all of it for a day. Of
// more, those that were found in use last rest; the others are found in use again.
const restShare = 4

// rested is Resting without what is more than the share of its range.
func (f Facts) rested() map[netip.Addr]time.Time {
	out := maps.Clone(f.Resting)
	for _, s := range f.Subnets {
		if !s.DynFirst.IsValid() {
			continue
		}
		var in []netip.Addr
		for a := range f.Resting {
			if s.dynamic(a) {
				in = append(in, a)
			}
		}
		slices.SortFunc(in, func(a, b netip.Addr) int { return cmp.Or(f.Resting[b].Compare(f.Resting[a]), a.Compare(b)) })
		size := int(ip4(s.DynLast)-ip4(s.DynFirst)) + 1
		for _, a := range in[min(len(in), max(1, size/restShare)):] {
			delete(out, a)
		}
	}
	return out
}

func (s Subnet) check() error {
	if !s.Prefix.IsValid() || !s.Prefix.Addr().Is4() || s.Prefix != s.Prefix.Masked() {
		return fmt.Errorf("%s is no IPv4 prefix", s.Prefix)
	}
	if s.Router.IsValid() && !s.Prefix.Contains(s.Router) {
		return fmt.Errorf("router %s is outside %s", s.Router, s.Prefix)
	}
	if s.DynFirst.IsValid() != s.DynLast.IsValid() {
		return errors.New("dynamic range has one end")
	}
	if s.DynFirst.IsValid() && (!s.Prefix.Contains(s.DynFirst) || !s.Prefix.Contains(s.DynLast) || s.DynLast.Less(s.DynFirst)) {
		return fmt.Errorf("dynamic range %s-%s does not fit %s", s.DynFirst, s.DynLast, s.Prefix)
	}
	return nil
}

// subnet finds the subnet that serves addr.
func (v *View) subnet(addr netip.Addr) (Subnet, bool) {
	for _, s := range v.f.Subnets {
		if addr.IsValid() && s.Prefix.Contains(addr) {
			return s, true
		}
	}
	return Subnet{}, false
}

// host returns the reservation of mac on s.
func (v *View) host(mac MAC, s Subnet) (Host, bool) {
	for _, h := range v.hosts[mac] {
		if s.Prefix.Contains(h.Addr) {
			return h, true
		}
	}
	return Host{}, false
}

// own is this agent's address towards s: the one on it, else its first.
func (v *View) own(s Subnet) (netip.Addr, bool) {
	for _, a := range v.self.Boot {
		if s.Prefix.Contains(a) {
			return a, true
		}
	}
	if len(v.self.Boot) == 0 {
		return netip.Addr{}, false
	}
	return v.self.Boot[0], true
}

// Ours tells whether a is an address of one of the site's agents, or of a listed relay, which speaks for them.
func (v *View) Ours(a netip.Addr) bool { return v.ours[a] }

// Another tells whether a is known to be somebody else's than mac's: reserved, an agent's, a relay's, a router's, or leased.
func (v *View) Another(a netip.Addr, mac MAC, at time.Time) bool {
	if m, ok := v.static[a]; ok && m != mac {
		return true
	}
	l, ok := v.taken[a]
	s, _ := v.subnet(a)
	return a == s.Router || ok && l.MAC != mac && at.Before(l.Until)
}

// Known tells whether mac has a reservation or a lease: the listener serves such packets first.
func (v *View) Known(mac MAC) bool {
	_, l := v.leases[mac]
	return l || len(v.hosts[mac]) > 0
}

// Reserved tells whether mac has a reservation: nothing is written to disk before it is answered.
func (v *View) Reserved(mac MAC) bool { return len(v.hosts[mac]) > 0 }

// score is the rendezvous weight of an agent for a key.
func score(key []byte, agent string) uint64 {
	h := sha256.New()
	h.Write(key)
	h.Write([]byte{'|'})
	h.Write([]byte(agent))
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// rank is the position of this agent for key among the roster: 0 answers first.
func (v *View) rank(key []byte) int {
	agents := slices.Clone(v.f.Agents)
	slices.SortFunc(agents, func(a, b Agent) int {
		return cmp.Or(cmp.Compare(score(key, b.ID), score(key, a.ID)), cmp.Compare(a.ID, b.ID))
	})
	return slices.IndexFunc(agents, func(a Agent) bool { return a.ID == v.self.ID })
}

// owns tells whether addr lies in this agent's slice: the only one who gives it to a new client, whoever else is alive.
func (v *View) owns(addr netip.Addr) bool {
	b := addr.As4()
	best, top := "", uint64(0)
	for _, a := range v.f.Agents {
		if s := score(b[:], a.ID); best == "" || s > top || s == top && a.ID < best {
			best, top = a.ID, s
		}
	}
	return best == v.self.ID
}

const (
	// quarantine is how long an expired lease still keeps its address from others: a client that slept through its expiry
	// and woke up again is the common double.
	quarantine = time.Hour
	maxProbes  = 4096 // addresses looked at per new client: 2 ms; a fuller pool is an event
)

// pick returns a free address of this agent's slice for a new client, in an order that depends on the client, so that the same
// client gets the same address again.
func (v *View) pick(s Subnet, mac MAC, offers map[netip.Addr]Offer, now time.Time) (netip.Addr, bool) {
	if !s.DynFirst.IsValid() {
		return netip.Addr{}, false
	}
	first, last := ip4(s.DynFirst), ip4(s.DynLast)
	n := uint64(last-first) + 1
	start := score(mac[:], s.Name) % n
	for i := range min(n, maxProbes) {
		a := addr4(first + uint32((start+i)%n))
		if v.free(s, a, mac, offers, now) && v.owns(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// rests tells whether a client found the address in use lately.
func (v *View) rests(a netip.Addr, now time.Time) bool { return now.Before(v.f.Resting[a]) }

func (v *View) free(s Subnet, a netip.Addr, mac MAC, offers map[netip.Addr]Offer, now time.Time) bool {
	if _, ok := v.static[a]; ok || v.rests(a, now) || a == s.Router || a == s.Prefix.Addr() || a == lastAddr(s.Prefix) {
		return false
	}
	if l, ok := v.taken[a]; ok && l.MAC != mac && !v.released(l, now) {
		return false
	}
	o, ok := offers[a]
	return !ok || o.MAC == mac || !now.Before(o.Until)
}

// released tells whether an address may go to another client than l's: the lease has ended, and nobody can have renewed it, for
// every agent of the roster was heard since. One that was not, dead or cut off, keeps the address back until it counts no more.
func (v *View) released(l Lease, now time.Time) bool {
	end := l.Until.Add(quarantine)
	if now.Before(end) {
		return false
	}
	return !slices.ContainsFunc(v.f.Agents, func(a Agent) bool { return a.ID != v.self.ID && a.Heard.Before(end) })
}

func ip4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func addr4(u uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], u)
	return netip.AddrFrom4(b)
}

func lastAddr(p netip.Prefix) netip.Addr {
	return addr4(ip4(p.Addr()) | ^uint32(0)>>p.Bits())
}
