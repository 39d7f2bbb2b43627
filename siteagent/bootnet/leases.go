package bootnet

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// kindLease is the journal's kind of dynamic leases. The key is the address: keys are never dropped, and there are as many addresses as the
// pools have, while anybody on a segment can make up Ethernet addresses. Before 0.1.0 it was the client's.
const kindLease = "lease"

// kindRest is that of addresses that clients found in use; the key is the address.
const kindRest = "rest"

// facts are what the DHCP view is made of.
func (s *answers) facts() (dhcp.Facts, error) {
	e := s.w.Now()
	f := dhcp.Facts{Self: s.self, HTTPPort: httpPort, Kin: kin(e.State.Signed)}
	for _, a := range e.State.Roster.Agents {
		f.Agents = append(f.Agents, dhcp.Agent{ID: a.ID, Boot: parseAddrs(a.Boot), Heard: s.w.Journal.Heard(a.ID)})
	}
	if !slices.ContainsFunc(f.Agents, func(a dhcp.Agent) bool { return a.ID == s.self }) {
		f.Aside, f.Agents = true, append(f.Agents, dhcp.Agent{ID: s.self, Boot: s.local}) // in quarantine: it serves as before, after a restart too
	}
	for _, o := range e.Overlay.Catalog.List(intent.KindSubnetPool) {
		sub, err := subnetOf(o)
		if err != nil {
			return f, err
		}
		f.Subnets = append(f.Subnets, sub)
	}
	s.modes.apply(&f, s.local)
	uuids := map[string]string{}
	for name, r := range s.w.Journal.View(reconcile.KindAccepted) {
		var f reconcile.Facts
		if json.Unmarshal(r.Body, &f) == nil {
			uuids[name] = f.UUID
		}
	}
	for mac, n := range effective.Addresses(e.Overlay.Catalog, e.State.Roster, s.w.ID()) {
		m, err := dhcp.ParseMAC(mac)
		if err != nil {
			return f, err
		}
		f.Hosts = append(f.Hosts, dhcp.Host{MAC: m, Name: n.Machine, Addr: n.Addr, Boot: true, UUID: uuids[n.Machine]})
	}
	f.Leases, f.Resting = s.leases(), s.resting()
	return f, nil
}

// leases are those that were ever given, the newest of each address.
func (s *answers) leases() (out []dhcp.Lease) {
	for key, r := range s.w.Journal.View(kindLease) {
		var l lease
		if json.Unmarshal(r.Body, &l) != nil {
			continue
		}
		if l.MAC == "" {
			l.MAC = key
		}
		if m, err := dhcp.ParseMAC(l.MAC); err == nil {
			out = append(out, dhcp.Lease{MAC: m, Addr: l.Addr, Until: s.ends(l), Agent: l.Agent, Name: l.Name})
		}
	}
	return out
}

// resting are the addresses that clients found in use, and until when they rest.
func (s *answers) resting() map[netip.Addr]time.Time {
	out := map[netip.Addr]time.Time{}
	for addr, r := range s.w.Journal.View(kindRest) {
		var n rest
		if a := parseAddr(addr); a.IsValid() && json.Unmarshal(r.Body, &n) == nil {
			out[a] = time.Now().Add(min(n.Until.Sub(s.w.Replica.Passed()), dhcp.RestTime))
		}
	}
	return out
}

// lease is a dynamic lease in the journal. Until is counted in time that certainly has passed, not by the clock on the wall: one that
// leaps would end every lease, and give addresses away that clients have.
type lease struct {
	MAC   string     `json:"mac"`
	Addr  netip.Addr `json:"addr"`
	Until time.Time  `json:"until"`
	Agent string     `json:"agent"`
	Name  string     `json:"name,omitempty"`
}

// ends returns when a lease ends by the clock of this process; no later than if it were given now.
func (s *answers) ends(l lease) time.Time {
	return time.Now().Add(min(l.Until.Sub(s.w.Replica.Passed()), dhcp.LeaseDynamic))
}

func subnetOf(o *intent.Object) (dhcp.Subnet, error) {
	p := o.Spec.(*intent.SubnetPoolSpec)
	prefix, err := netip.ParsePrefix(p.Prefix)
	if err != nil {
		return dhcp.Subnet{}, fmt.Errorf("cannot serve %s: %w", o.Key(), err)
	}
	sub := dhcp.Subnet{Name: o.Metadata.Name, Prefix: prefix, Domain: p.Domain, Mode: wantedMode(p.DHCP), Discovery: p.Dynamic != nil}
	if p.Gateway != "" {
		sub.Router = parseAddr(p.Gateway)
	}
	sub.DNS, sub.NTP, sub.Relays = parseAddrs(p.DNS), parseAddrs(p.NTP), parseAddrs(p.Relays)
	if p.Dynamic != nil {
		sub.DynFirst, sub.DynLast = parseAddr(p.Dynamic.From), parseAddr(p.Dynamic.To)
	}
	return sub, nil
}

func parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{} // validated before; the zero address is "none"
	}
	return a
}

func parseAddrs(ss []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		if a := parseAddr(s); a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// Commit implements dhcp.Site: a lease is on disk before its ACK is sent.
func (s *answers) Commit(ctx context.Context, l dhcp.Lease) error {
	for _, have := range s.leases() {
		if have.Addr == l.Addr && have.MAC != l.MAC && have.Until.After(time.Now()) {
			return fmt.Errorf("cannot lease %s to %s: %s has it", l.Addr, l.MAC, have.MAC)
		}
	}
	body := lease{l.MAC.String(), l.Addr, s.w.Replica.Passed().Add(time.Until(l.Until)), l.Agent, l.Name}
	return s.w.Journal.Append(ctx, claim.Local, claim.Draft{Kind: kindLease, Key: l.Addr.String(), Body: body})
}

// rest is an address that a client found in use, in the journal; the key is the address. Until is counted as that of a lease.
type rest struct {
	Until time.Time `json:"until"`
	MAC   string    `json:"mac"` // who found it
}

// inUse tells of an address that somebody else uses, at most once an hour each. A leased one rests.
func (s *answers) inUse(e dhcp.Event) {
	addr := e.Addr.String()
	s.mu.Lock()
	if last, ok := s.used[addr]; ok && time.Since(last) < time.Hour {
		s.mu.Unlock()
		return
	}
	if len(s.used) >= maxSeen {
		clear(s.used)
	}
	s.used[addr] = time.Now()
	s.mu.Unlock()
	kind, what := "dhcp.conflict", "the reservation is served on: find who else has it"
	var drafts []claim.Draft
	if e.Reason == dhcp.ReasonDecline {
		kind, what = "dhcp.declined", "it rests for 24 hours"
		drafts = append(drafts, claim.Draft{Kind: kindRest, Key: addr, Body: rest{s.w.Replica.Passed().Add(dhcp.RestTime), e.MAC.String()}})
	}
	drafts = append(drafts, reconcile.Event("", "", intent.Epoch{}, kind, fmt.Sprintf("%s found %s in use on %s: %s", e.MAC, addr, e.Subnet, what),
		map[string]string{"mac": e.MAC.String(), "address": addr, "subnet": e.Subnet}))
	for _, d := range drafts {
		select {
		case s.events <- d:
		default:
			s.mu.Lock()
			s.lost++
			delete(s.used, addr) // the client's next DECLINE tells it
			s.mu.Unlock()
		}
	}
}
