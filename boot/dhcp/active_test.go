package dhcp

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// three are the facts of a site with three agents and n machines of which every fourth has a lease instead of a reservation.
func three(n int) (Facts, []MAC) {
	fa := facts()
	fa.Agents = append(fa.Agents, Agent{ID: "a3", Boot: []netip.Addr{ip("10.88.0.13")}})
	fa.Subnets[0].Prefix, fa.Subnets[0].DynFirst, fa.Subnets[0].DynLast = netip.MustParsePrefix("10.88.0.0/16"), ip("10.88.128.0"), ip("10.88.255.254")
	fa.Hosts = nil
	var macs []MAC
	for i := range n {
		m := MAC{0x52, 0x54, 1, 0, byte(i >> 8), byte(i)}
		macs = append(macs, m)
		if i%4 == 3 {
			fa.Leases = append(fa.Leases, Lease{MAC: m, Addr: addr4(0x0a588000 + uint32(i)), Until: t0.Add(time.Hour), Agent: "a2"})
		} else {
			fa.Hosts = append(fa.Hosts, Host{MAC: m, Name: fmt.Sprintf("n%d", i), Addr: addr4(0x0a580100 + uint32(i)), Boot: i%5 != 0})
		}
	}
	return fa, macs
}

// ask makes one request of a known client.
func ask(r *rand.Rand, mac MAC, v *View) (b []byte, server netip.Addr) {
	opts := []any{55, "0103060c0f77"}
	if r.IntN(2) == 0 {
		opts = append(opts, 61, "01"+hex.EncodeToString(mac[:]))
	}
	switch archs := []string{"0000", "0006", "0007", "0009", "000b", "0063"}; r.IntN(5) {
	case 0, 1:
		opts = append(opts, 60, pxeClass, 93, archs[r.IntN(len(archs))], 97, uuid1)
	case 2:
		opts = append(opts, 60, asHex("HTTPClient:Arch:00016:UNDI:003000"), 93, "0010", 97, uuid1)
	case 3:
		opts = append(opts, 60, pxeClass, 93, "0007", 77, asHex("iPXE"))
	}
	addr := v.leases[mac].Addr
	if h := v.hosts[mac]; len(h) > 0 {
		addr = h[0].Addr
	}
	if r.IntN(8) == 0 {
		addr = addr4(0x0a580000 + uint32(r.IntN(1<<16))) // somebody else's
	}
	at := func(m *dhcpv4.DHCPv4) {
		m.ClientIPAddr = addr.AsSlice()
		r := m.TransactionID[:]
		copy(r, mac[2:])
	}
	switch r.IntN(5) {
	case 0:
		return msg(mac, 1, nil, opts...), server
	case 1:
		server = v.f.Agents[r.IntN(3)].Boot[0]
		return msg(mac, 3, nil, append(opts, 50, hex.EncodeToString(addr.AsSlice()), 54, hex.EncodeToString(server.AsSlice()))...), server
	case 2:
		return msg(mac, 3, nil, append(opts, 50, hex.EncodeToString(addr.AsSlice()))...), server // INIT-REBOOT
	case 3:
		return msg(mac, 8, at, opts...), server
	}
	return msg(mac, 3, at, opts...), server // renewing, rebinding
}

// TestThreeAgentsAgree: of 10,000 requests, one that names a server is answered by that one alone, and every other by all three,
// with the same octets but for what names the agent. A refusal too, or the silence.
func TestThreeAgentsAgree(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	fa, macs := three(1000)
	var views []*View
	for _, a := range fa.Agents {
		fa.Self = a.ID
		views = append(views, view(t, fa))
	}
	counts := map[string]int{}
	for range 10_000 {
		mac := macs[r.IntN(len(macs))]
		b, server := ask(r, mac, views[0])
		first, who := "", 0
		for i, v := range views {
			p := packet(b)
			p.Local = fa.Agents[i].Boot[0]
			rep, e := Handle(p, v)
			text := "silence"
			if rep.Bytes != nil {
				text = fmt.Sprint(rep.To, rep.Frame, canonical(rep.Bytes, p.Local.String()))
				who++
			}
			if server.IsValid() && p.Local != server {
				if rep.Bytes != nil {
					t.Fatalf("%s answers what was asked of %s: %s", v.self.ID, server, dump(rep, e))
				}
				continue
			}
			counts[e.Event.Type+" "+e.Event.Reason]++
			if first != "" && text != first && !(e.Event.Reason == ReasonUnsure || e.Event.Reason == ReasonNak && len(v.hosts[mac]) == 0) {
				t.Fatalf("agents differ on %x:\n%s\n%s", b, first, text)
			}
			first = text
		}
	}
	t.Log(counts)
	for _, want := range []string{"DISCOVER offer", "REQUEST ack", "REQUEST nak", "REQUEST not-certain", "INFORM inform"} {
		if counts[want] == 0 {
			t.Errorf("never: %s", want)
		}
	}
}

// station is an agent of the simulation: its own store of leases, and up to when it heard each peer.
type station struct {
	id     string
	up     bool
	leases map[MAC]Lease
	made   map[MAC]time.Time // when each was given or renewed: the newest counts, as in the journal
	heard  map[string]time.Time
	offers map[netip.Addr]Offer
}

// holder is a client of it.
type holder struct {
	mac   MAC
	addr  netip.Addr
	until time.Time
}

// island is three agents that lose each other, and clients that hear any of them.
type island struct {
	t    *testing.T
	r    *rand.Rand
	now  time.Time
	base Facts
	st   []*station
	cut  [3][3]bool
	cl   []*holder
	acks int
	new  int
}

func (w *island) view(s *station) *View {
	fa := w.base
	fa.Self = s.id
	fa.Agents = slices.Clone(fa.Agents)
	for i := range fa.Agents {
		fa.Agents[i].Heard = s.heard[fa.Agents[i].ID]
	}
	fa.Leases = slices.Collect(maps.Values(s.leases)) // in no order
	return view(w.t, fa)
}

// tell copies what each agent has to those that it reaches.
func (w *island) tell() {
	for range w.st {
		for i, a := range w.st {
			for j, b := range w.st {
				if i == j || !a.up || !b.up || w.cut[i][j] || w.cut[j][i] {
					continue
				}
				for m, l := range b.leases {
					if b.made[m].After(a.made[m]) {
						a.leases[m], a.made[m] = l, b.made[m]
					}
				}
				a.heard[b.id] = w.now
			}
		}
	}
}

// handle has one agent answer one packet; an ACK is checked against what all clients hold.
func (w *island) handle(s *station, c *holder, b []byte, repeat int) *dhcpv4.DHCPv4 {
	p := packet(b)
	p.At, p.Repeat, p.Offers = w.now, repeat, s.offers
	p.Local = w.base.Agents[slices.Index([]string{"a1", "a2", "a3"}, s.id)].Boot[0]
	rep, e := Handle(p, w.view(s))
	if e.Offer != nil {
		s.offers[e.Offer.Addr] = e.Offer.Offer
	}
	if rep.Bytes == nil {
		return nil
	}
	if e.Commit != nil {
		for m, l := range s.leases {
			if l.Addr == e.Commit.Addr && m != c.mac && l.Until.After(w.now) {
				return nil // as siteagent refuses it
			}
		}
		s.leases[c.mac], s.made[c.mac] = *e.Commit, w.now
		delete(s.offers, e.Commit.Addr)
	}
	m, err := dhcpv4.FromBytes(rep.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	if m.MessageType() == dhcpv4.MessageTypeAck {
		w.acks++
		a := addrOf(m.YourIPAddr)
		for _, o := range w.cl {
			if o != c && o.addr == a && o.until.After(w.now) {
				w.t.Fatalf("%s gives %s to %s at %v: %s holds it until %v", s.id, a, c.mac, w.now, o.mac, o.until)
			}
		}
		c.addr, c.until = a, w.now.Add(m.IPAddressLeaseTime(0))
	}
	return m
}

// reach are the agents that a client's packet gets to now.
func (w *island) reach() (out []*station) {
	for _, s := range w.st {
		if s.up && w.r.IntN(4) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// act lets one client do something.
func (w *island) act(c *holder) {
	holds := c.until.After(w.now)
	switch k := w.r.IntN(4); {
	case holds && k < 2: // renew, at whoever hears it
		for _, s := range w.reach() {
			w.handle(s, c, msg(c.mac, 3, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = c.addr.AsSlice() }), 0)
		}
	case c.addr.IsValid() && k == 2: // wakes up with an old address
		for _, s := range w.reach() {
			if m := w.handle(s, c, msg(c.mac, 3, nil, 50, hex.EncodeToString(c.addr.AsSlice())), 0); m != nil && m.MessageType() == dhcpv4.MessageTypeNak {
				c.until = time.Time{}
				return
			}
		}
	default: // begins anew
		c.until = time.Time{}
		var offers []*dhcpv4.DHCPv4
		var from []*station
		for _, s := range w.reach() {
			if m := w.handle(s, c, pxe(c.mac, 1, "0007"), w.r.IntN(4)); m != nil {
				offers, from = append(offers, m), append(from, s)
			}
		}
		if len(offers) == 0 {
			return
		}
		i := w.r.IntN(len(offers))
		o := offers[i]
		b := pxe(c.mac, 3, "0007", 50, hex.EncodeToString(o.YourIPAddr.To4()), 54, hex.EncodeToString(o.Options.Get(dhcpv4.OptionServerIdentifier)))
		for _, s := range w.st {
			if s.up && (s == from[i] || w.r.IntN(2) == 0) {
				if m := w.handle(s, c, b, 0); m != nil && m.MessageType() == dhcpv4.MessageTypeAck {
					w.new++
				}
			}
		}
	}
}

// TestCutsAndKills: three agents that die and lose each other at random for hours, a pool that is too small, clients that come, renew
// anywhere, sleep and come back: no address is ever held by two.
func TestCutsAndKills(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := &island{t: t, r: rand.New(rand.NewPCG(seed, 1)), now: t0}
	w.base, _ = three(0)
	w.base.Subnets[0].DynFirst, w.base.Subnets[0].DynLast = ip("10.88.128.0"), ip("10.88.128.29")
	for _, a := range w.base.Agents {
		w.st = append(w.st, &station{id: a.ID, up: true, leases: map[MAC]Lease{}, made: map[MAC]time.Time{}, heard: map[string]time.Time{}, offers: map[netip.Addr]Offer{}})
	}
	for i := range 60 {
		w.cl = append(w.cl, &holder{mac: MAC{2, 0, 0, 0, 0, byte(i)}})
	}
	for range 6_000 {
		w.now = w.now.Add(time.Duration(w.r.IntN(300)) * time.Second)
		switch w.r.IntN(40) {
		case 0:
			s := w.st[w.r.IntN(3)]
			s.up = !s.up
			clear(s.offers) // in memory only
			clear(s.heard)
		case 1, 2:
			i, j := w.r.IntN(3), w.r.IntN(3)
			w.cut[i][j] = !w.cut[i][j]
		case 3:
			w.cut = [3][3]bool{}
			for _, s := range w.st {
				s.up = true
			}
		}
		if w.r.IntN(3) == 0 {
			w.tell()
		}
		w.act(w.cl[w.r.IntN(len(w.cl))])
	}
	t.Logf("%d ACKs, %d of them of new leases, over %v", w.acks, w.new, w.now.Sub(t0))
	if w.new < 300 || w.acks < 1500 {
		t.Errorf("too little happened")
	}
}

// TestOldHolder: of an address that had two holders the last counts, in whatever order the leases come.
func TestOldHolder(t *testing.T) {
	old := Lease{MAC: m2, Addr: ip("10.88.0.150"), Until: t0.Add(-9 * time.Hour), Agent: "a1"}
	held := Lease{MAC: new1, Addr: ip("10.88.0.150"), Until: t0.Add(time.Hour), Agent: "a1"}
	for _, ls := range [][]Lease{{old, held}, {held, old}} {
		fa := facts()
		fa.Leases, fa.Agents[1].Heard = ls, t0
		if v := view(t, fa); v.free(fa.Subnets[0], old.Addr, MAC{2, 2, 2, 2, 2, 2}, nil, t0) {
			t.Errorf("%v: free", ls)
		}
	}
}

// TestAside: an agent in quarantine serves whom it knows and renews; it leases nothing anew.
func TestAside(t *testing.T) {
	fa := facts()
	fa.Aside = true
	fa.Leases = []Lease{{MAC: new1, Addr: ip("10.88.0.140"), Until: t0.Add(time.Hour), Agent: "a2"}}
	reason(t, fa, packet(msg(m1, 1, nil)), ReasonOffer)
	reason(t, fa, packet(msg(new1, 3, func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = ip("10.88.0.140").AsSlice() })), ReasonAck)
	p := packet(pxe(MAC{2, 2, 2, 2, 2, 2}, 1, "0000"))
	p.Repeat = 9
	reason(t, fa, p, ReasonWait)
	reason(t, fa, packet(pxe(MAC{2, 2, 2, 2, 2, 2}, 3, "0000", 50, "0a580070", 54, "0a58000b")), ReasonNak)
}

// TestRefusesWhenCertain: a client with a known lease that wants another address is refused only where nobody can have given it.
func TestRefusesWhenCertain(t *testing.T) {
	fa := facts()
	fa.Leases = []Lease{{MAC: new1, Addr: ip("10.88.0.140"), Until: t0.Add(time.Hour), Agent: "a2"}}
	v := view(t, fa)
	f := func(addr, want string) {
		t.Helper()
		reason(t, fa, packet(msg(new1, 3, nil, 50, hex.EncodeToString(ip(addr).AsSlice()))), want)
	}
	f("10.88.0.140", ReasonAck)
	f("10.88.0.21", ReasonNak) // reserved for m1
	f("10.77.0.1", ReasonNak)  // of another network
	for i := 141; i < 160; i++ {
		a := fmt.Sprintf("10.88.0.%d", i)
		f(a, map[bool]string{true: ReasonNak, false: ReasonUnsure}[v.owns(ip(a))]) // the other agent may have moved it
	}
}
