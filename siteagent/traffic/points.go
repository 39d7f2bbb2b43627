package traffic

import (
	"cmp"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/telemetry/account"
	"github.com/skerry-metal/skerry/telemetry/probe"
)

// PointsOf says what a host's interfaces count, so that each direction of each link counts at one point of the site:
//
//   - An interface that is a registered machine's own, by its hardware address, counts for that machine, in place of the machine's access
//     ports; if the machine has several, only where all of them are seen alike.
//   - At any other, machines are on the other side. Those count by their addresses that hang on no access port: the others count there.
func PointsOf(c *intent.Catalog, addrs map[string]effective.NICAddress, bindings map[string]reconcile.Binding, site, self string, at []probe.State, macs map[string]string) (probe.Plan, []account.Point) {
	p := planner{c: c, site: site, bound: boundOf(bindings)}
	b := &pointer{self: self, prefixes: p.prefixes(addrs), bound: p.bound, ports: map[string][]string{}, projects: map[string]uint32{}}
	b.nics = p.nics()
	for _, o := range c.List(intent.KindSwitch) {
		if o.Metadata.Site != site {
			continue
		}
		for _, port := range o.Spec.(*intent.SwitchSpec).Ports {
			mac, _ := intent.ParseMAC(port.NIC)
			if m := b.nics[mac]; m != "" {
				b.ports[m] = append(b.ports[m], mac)
			}
		}
	}
	slices.SortFunc(b.prefixes, func(x, y account.Prefix) int {
		return cmp.Or(cmp.Compare(x.Project, y.Project), cmp.Compare(x.Network, y.Network), cmp.Compare(x.Machine, y.Machine), x.Prefix.Compare(y.Prefix))
	})
	own := map[string][]stand{}
	facing := false
	for _, s := range at {
		if s.Method == probe.Off {
			continue
		}
		mac, _ := intent.ParseMAC(macs[s.Interface])
		if m := b.nics[mac]; m != "" {
			own[m] = append(own[m], stand{s, mac})
			continue
		}
		facing = true
		l := probe.Link{Interface: s.Interface}
		if s.Method == probe.Counters {
			l.Whole, l.Label = true, labelled{}.text()
		}
		b.plan.Links = append(b.plan.Links, l)
	}
	if facing {
		b.addPoint(account.Point{Agent: self})
		b.facing()
	}
	for _, s := range at { // in the order of the configuration
		mac, _ := intent.ParseMAC(macs[s.Interface])
		if m := b.nics[mac]; own[m] != nil {
			b.own(m, own[m])
			delete(own, m)
		}
	}
	return b.plan, b.points
}

type stand struct {
	probe.State
	mac string
}

type pointer struct {
	self     string
	prefixes []account.Prefix
	bound    map[string]reconcile.Binding
	nics     map[string]string   // MAC -> machine
	ports    map[string][]string // machine -> MACs that hang on access ports
	projects map[string]uint32
	plan     probe.Plan
	points   []account.Point
	tables   uint32
}

// group numbers projects from 1; so also those that are nobody's.
func (b *pointer) group(project string) uint32 {
	if b.projects[project] == 0 {
		b.projects[project] = uint32(len(b.projects)) + 1
	}
	return b.projects[project]
}

func (b *pointer) addPoint(p account.Point) {
	if !slices.Contains(b.points, p) {
		b.points = append(b.points, p)
	}
}

// facing fills table 0: machines on the other side, by address.
func (b *pointer) facing() {
	for _, x := range b.prefixes {
		if x.Shared {
			continue
		}
		b.plan.Prefixes = append(b.plan.Prefixes, probe.Prefix{
			Prefix: x.Prefix, Group: b.group(x.Project), Peer: len(b.ports[x.Machine]) > 0,
			Label: labelled{Label: account.Label{Project: x.Project, Network: x.Network, Subnet: x.Subnet, Machine: x.Machine}}.text(),
		})
	}
}

// own counts a machine at its own interfaces.
func (b *pointer) own(machine string, at []stand) {
	point := account.Point{Agent: b.self}
	if ports := b.ports[machine]; len(ports) > 0 {
		point.Machine, point.In, point.Out = machine, at[0].In, at[0].Out
		for _, mac := range ports {
			if !slices.ContainsFunc(at, func(s stand) bool { return s.mac == mac }) {
				return // one of its links is not seen here: the access ports count all of them
			}
		}
		if slices.ContainsFunc(at, func(s stand) bool { return s.In != point.In || s.Out != point.Out }) || !point.In && !point.Out {
			return // not all of any direction is seen at each
		}
	}
	project := b.bound[machine].Project
	label := labelled{Point: point, Label: account.Label{Project: project, Machine: machine}}
	label.Point.Agent = ""
	b.addPoint(point)
	b.tables++
	for _, s := range at {
		b.plan.Links = append(b.plan.Links, probe.Link{Interface: s.Interface, Table: b.tables, Group: 1, Own: true, Whole: true, Label: label.text()})
	}
	for _, x := range b.prefixes {
		if x.Project != project {
			continue
		}
		l := label
		l.Network, l.Subnet = x.Network, x.Subnet
		y := probe.Prefix{Table: b.tables, Prefix: x.Prefix, Label: l.text(), Group: 1}
		if x.Shared {
			y.Group = 0
		}
		b.plan.Prefixes = append(b.plan.Prefixes, y)
	}
}

// PointPlanner returns PointsOf a site as it is when it is called.
func PointPlanner(w *effective.Site) func(string, []probe.State, map[string]string) (probe.Plan, []account.Point) {
	var plan probe.Plan
	var points []account.Point
	return func(self string, at []probe.State, macs map[string]string) (probe.Plan, []account.Point) {
		e := w.Now()
		if e.Err != nil {
			return plan, points // as it was: what is not known now is no reason to count nothing
		}
		c := e.Overlay.Catalog
		plan, points = PointsOf(c, effective.Addresses(c, e.State.Roster, w.ID()), reconcile.Bindings(w.Journal), w.ID(), self, at, macs)
		return plan, points
	}
}
