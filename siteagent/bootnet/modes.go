package bootnet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// kindServers is the journal's kind of what was found out about other DHCP servers; the key is the subnet's name.
const kindServers = "dhcp"

// servers is such a record. Any agent of the site writes it, all obey it, and so does the next life of the writer.
type servers struct {
	Present bool        `json:"present"`
	Server  dhcp.Server `json:"server,omitzero"`
}

const (
	// sayAgain is how often an agent that still notices another server says so: less than half of what must pass in silence
	// before a peer that notices nothing, as one with a cut cable, takes it for gone.
	sayAgain = 4 * time.Minute
	// sayMore bounds what signs of other servers may write, which anybody on the segment can forge: what is no news is said at most so
	// often, and of new servers at most maxServers in GoneAfter.
	sayMore    = 10 * time.Second
	maxServers = 16
	// modesTick is how often what nobody probes, a subnet behind a relay, counts a silent probe.
	modesTick = 30 * time.Second
)

// modes decides what DHCP does on each subnet: what is wanted, and what other servers are there.
type modes struct {
	journal *claim.Journal
	self    string
	log     *slog.Logger
	events  chan<- claim.Draft // what is to be journaled; full: said again at the next sign
	changed chan struct{}      // holds one token while the view is older than the modes

	mu      sync.Mutex // guards what follows
	subnets map[string]*subnetMode
	probers []*dhcp.Prober
}

// subnetMode is one subnet's watch, and what of the journal is in it.
type subnetMode struct {
	watch  dhcp.Watch
	want   dhcp.Mode
	prefix netip.Prefix
	probed bool                     // an interface of this agent is on it
	record uint64                   // clock of the newest record that was taken over
	said   time.Time                // when this agent, or another, said last that a server is there
	seen   time.Time                // when this agent noticed one last
	met    map[netip.Addr]time.Time // servers, and when they were noticed last; at most maxServers
}

func newModes(journal *claim.Journal, self string, log *slog.Logger, events chan<- claim.Draft) *modes {
	return &modes{journal: journal, self: self, log: log, events: events, changed: make(chan struct{}, 1), subnets: map[string]*subnetMode{}}
}

// wantedMode reads SubnetPool.spec.dhcp.
func wantedMode(s string) dhcp.Mode {
	for _, m := range []dhcp.Mode{dhcp.ModeOff, dhcp.ModeAuthoritative, dhcp.ModeProxy} {
		if s == m.String() {
			return m
		}
	}
	return dhcp.ModeAuto
}

// apply sets the mode in force of each subnet, for a view with these facts. local are this agent's addresses on boot networks.
func (m *modes) apply(f *dhcp.Facts, local []netip.Addr) {
	now := time.Now()
	records := m.journal.View(kindServers)
	ours := map[netip.Addr]bool{}
	for _, a := range f.Kin {
		ours[a] = true
	}
	for _, a := range f.Agents {
		for _, b := range a.Boot {
			ours[b] = true
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[string]bool{}
	for i := range f.Subnets {
		s := &f.Subnets[i]
		seen[s.Name] = true
		n := m.subnets[s.Name]
		if n == nil {
			n = &subnetMode{met: map[netip.Addr]time.Time{}}
			m.subnets[s.Name] = n
		}
		n.want, n.prefix = s.Mode, s.Prefix
		n.probed = slices.ContainsFunc(local, s.Prefix.Contains)
		if r, ok := records[s.Name]; ok && !n.take(r, now) {
			m.say(s.Name, n)
		}
		if n.watch.Present && ours[n.watch.Server.ID] { // a new agent was heard of before the roster that has it came
			n.watch.Forgive()
		}
		if !n.probed && !n.watch.Settled {
			n.watch.Silent(now) // nobody can ask there
		}
		s.Mode = n.watch.Mode(n.want)
	}
	maps.DeleteFunc(m.subnets, func(name string, _ *subnetMode) bool { return !seen[name] })
}

// take obeys a record that is newer than what is known. It does not where another agent says that nobody is there, whom this one notices:
// that one may be deaf, with a cut cable; false: say so again.
func (n *subnetMode) take(r claim.Record, now time.Time) bool {
	var s servers
	if r.Clock <= n.record || json.Unmarshal(r.Body, &s) != nil {
		return true
	}
	n.record = r.Clock
	if !s.Present && n.watch.Present && !n.seen.IsZero() && now.Sub(n.seen) < dhcp.GoneAfter {
		return false
	}
	n.said = now
	n.watch.Learn(s.Present, s.Server, now)
	if s.Present {
		n.fresh(s.Server.ID, now)
	}
	return true
}

// fresh notes a server, and tells whether it was not noticed for so long that it is told of.
func (n *subnetMode) fresh(id netip.Addr, now time.Time) bool {
	maps.DeleteFunc(n.met, func(_ netip.Addr, last time.Time) bool { return now.Sub(last) >= dhcp.GoneAfter })
	_, met := n.met[id]
	if !met && len(n.met) >= maxServers {
		return false
	}
	n.met[id] = now
	return !met
}

// on returns the subnet that an address lies in. The lock is held.
func (m *modes) on(a netip.Addr) (string, *subnetMode) {
	for name, n := range m.subnets {
		if n.prefix.Contains(a) {
			return name, n
		}
	}
	return "", nil
}

// yields tells whether somebody else gives the addresses on a subnet.
func (m *modes) yields(subnet string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.subnets[subnet]
	return n != nil && n.watch.Mode(n.want) == dhcp.ModeProxy
}

// gives tells whether somebody else certainly gives the addresses on a subnet: it is wanted so, or one was heard that does.
func (m *modes) gives(subnet string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.subnets[subnet]
	return n != nil && (n.want == dhcp.ModeProxy || n.want == dhcp.ModeAuto && n.watch.Answers(time.Now()))
}

// wanted tells whether other servers matter on the subnet of a boot address.
func (m *modes) wanted(local netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, n := m.on(local)
	return n != nil && (n.want == dhcp.ModeAuto || n.want == dhcp.ModeAuthoritative)
}

// heard notes a server that answers on the segment of a boot address.
func (m *modes) heard(local netip.Addr, s dhcp.Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name, n := m.on(local); n != nil {
		m.notice(name, n, s)
	}
}

// chosen notes that a client on a subnet chose a server that is none of ours.
func (m *modes) chosen(subnet string, server netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.subnets[subnet]; n != nil && n.want != dhcp.ModeProxy {
		m.notice(subnet, n, dhcp.Server{ID: server, By: dhcp.ByClient})
	}
}

// notice is heard and chosen, under the lock. What is news becomes a record and an event; what is not is said again at times.
func (m *modes) notice(name string, n *subnetMode, s dhcp.Server) {
	now := time.Now()
	n.seen = now
	whose := n.watch.Server.By == dhcp.ByReply // so far
	first, news := n.watch.Heard(s, now), n.fresh(s.ID, now)
	news = news || first
	again := sayAgain
	if !whose && s.By == dhcp.ByReply {
		again = sayMore // now it is known whose it is
	}
	if !news && now.Sub(n.said) < again {
		return
	}
	n.said = now
	var more []claim.Draft
	if news {
		kind, what := "dhcp.foreign", "network boot goes on, no addresses are given"
		if n.want == dhcp.ModeAuthoritative {
			kind, what = "dhcp.rogue", "this site is authoritative there and gives addresses too"
		}
		m.log.Warn("another DHCP server", "subnet", name, "server", n.watch.Server.String(), "event", kind)
		more = append(more, m.event(kind, name, n, fmt.Sprintf("DHCP server %s answers on %s: %s", n.watch.Server, name, what)))
	}
	m.say(name, n, more...)
}

// silent notes a probe without an answer on the subnet of a boot address.
func (m *modes) silent(local netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name, n := m.on(local); n != nil {
		m.quiet(name, n)
	}
}

// tick counts for subnets that nobody can probe.
func (m *modes) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, n := range m.subnets {
		if !n.probed {
			m.quiet(name, n)
		}
	}
}

func (m *modes) quiet(name string, n *subnetMode) {
	was := n.watch.Present
	if !n.watch.Silent(time.Now()) {
		return
	}
	var more []claim.Draft
	if was {
		m.log.Info("the other DHCP server is gone", "subnet", name, "server", n.watch.Server.String())
		more = append(more, m.event("dhcp.foreign.gone", name, n, fmt.Sprintf("DHCP server %s was not noticed on %s for 10 minutes: addresses are given again", n.watch.Server, name)))
	}
	m.say(name, n, more...)
}

func (m *modes) event(kind, name string, n *subnetMode, text string) claim.Draft {
	s := n.watch.Server
	fields := map[string]string{"subnet": name, "server": s.ID.String(), "mode": n.watch.Mode(n.want).String()}
	if s.Addr.IsValid() {
		fields["address"], fields["mac"] = s.Addr.String(), s.MAC
	}
	return reconcile.Event("", "", intent.Epoch{}, kind, text, fields)
}

// say hands what is known to the journal and has the view renewed.
func (m *modes) say(name string, n *subnetMode, events ...claim.Draft) {
	for _, d := range append(events, claim.Draft{Kind: kindServers, Key: name, Body: servers{n.watch.Present, n.watch.Server}}) {
		select {
		case m.events <- d:
		default:
			n.said = time.Time{} // the next sign says it
		}
	}
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// word says in a few words what DHCP does on each subnet.
func (m *modes) word() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(m.subnets)) {
		n := m.subnets[name]
		text := name + " " + n.watch.Mode(n.want).String()
		switch {
		case n.want == dhcp.ModeAuto && !n.watch.Settled:
			text += " (asking for other servers)"
		case n.watch.Present && n.want != dhcp.ModeOff && n.want != dhcp.ModeProxy:
			text += ", DHCP server " + n.watch.Server.String()
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// write writes modes and probes as Prometheus text.
func (m *modes) write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.subnets)) {
		n := m.subnets[name]
		present := uint64(0)
		if n.watch.Present {
			present = 1
		}
		metrics.WriteGaugeUint64(w, fmt.Sprintf("skerry_dhcp_foreign_server{subnet=%q}", name), present)
		metrics.WriteGaugeUint64(w, fmt.Sprintf("skerry_dhcp_mode{subnet=%q,mode=%q}", name, n.watch.Mode(n.want)), 1)
	}
	probes := map[string]uint64{}
	for _, p := range m.probers {
		sum(probes, p.Counts())
	}
	for _, k := range slices.Sorted(maps.Keys(probes)) {
		metrics.WriteCounterUint64(w, fmt.Sprintf("skerry_dhcp_probes_total{result=%q}", k), probes[k])
	}
}

// prober returns what looks for other servers on the interface of a boot address.
func (m *modes) prober(iface string, local netip.Addr, view func() *dhcp.View) *dhcp.Prober {
	p := &dhcp.Prober{
		Iface: iface, Logger: m.log, Wanted: func() bool { return m.wanted(local) },
		Ours:  func(a netip.Addr) bool { v := view(); return v != nil && v.Ours(a) },
		Heard: func(s dhcp.Server) { m.heard(local, s) }, Silent: func() { m.silent(local) },
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.probers = append(m.probers, p)
	return p
}

// kin lists the boot addresses of the site's agents that do not count, and answer still.
func kin(roster *intent.RosterBody) (out []netip.Addr) {
	if roster == nil {
		return nil
	}
	for _, a := range roster.Agents {
		out = append(out, parseAddrs(a.Boot)...)
	}
	slices.SortFunc(out, func(a, b netip.Addr) int { return cmp.Compare(a.String(), b.String()) })
	return out
}
