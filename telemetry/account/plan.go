package account

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/skerry-metal/skerry/telemetry/sflow"
)

// Mode says which samples of a switch count as traffic to a machine.
type Mode string

// The modes.
const (
	Auto    Mode = "auto"    // ingress, until a port gives egress samples: from the next interval on both
	Ingress Mode = "ingress" // the switch samples what comes in: to a machine is what has its port as output
	Both    Mode = "both"    // the switch samples both: to a machine is what its port sampled on the way out
	Host    Mode = "host"    // the exporter is a host, without ports: by address
)

// Switch is one exporter.
type Switch struct {
	Name   string
	Agents []netip.Addr // what its datagrams name as agent, and come from
	Mode   Mode
	Ports  []Port
}

// Port is one access port: what a machine hangs on.
type Port struct {
	Index   uint32   // ifIndex; 0: by Name, or with Host by neither
	Members []uint32 // other ifIndexes of the same link: those of an aggregate
	Name    string   // as the exporter's counters tell it
	VLAN    uint16   // access VLAN, 0: none
	Machine string
	Project string // of the machine now; empty: nobody's
}

// Prefix is what a project's addresses are.
type Prefix struct {
	Project string
	Network string
	Subnet  string
	Machine string // with an address of one machine
	Prefix  netip.Prefix
	VLAN    uint16 // 0: in every VLAN
	VNI     uint32 // 0: in none
	// Shared tells that addresses of it belong to others too: it names the subnet, and says nothing of who the peer is.
	Shared bool
}

// Plan is who is where, as of one revision of intent. It is immutable.
type Plan struct {
	switches map[netip.Addr]*switchPlan
	projects map[string]*tables
	all      *tables // every project's own prefixes, for by-address
}

type switchPlan struct {
	Switch
	ports    map[uint32]*Port
	links    map[uint32]uint32 // Index by member
	names    map[string]*Port  // of those without an index
	machines map[string]bool
}

// tables are the prefixes of one project, by VLAN or VNI; 0 is for all that name none.
type tables struct {
	by map[uint32]*bart.Fast[*Prefix]
}

const vniTable = 1 << 24 // above any VLAN

func (p *Prefix) table() uint32 {
	if p.VNI != 0 {
		return vniTable | p.VNI
	}
	return uint32(p.VLAN)
}

func (t *tables) insert(p *Prefix) {
	k := p.table()
	if t.by[k] == nil {
		t.by[k] = &bart.Fast[*Prefix]{}
	}
	t.by[k].Insert(p.Prefix.Masked(), p)
}

// lookup finds the longest prefix of a in the table, else in that of all. nil: none.
func (t *tables) lookup(table uint32, a netip.Addr) *Prefix {
	if t == nil || !a.IsValid() {
		return nil
	}
	if table != 0 {
		if f := t.by[table]; f != nil {
			if p, ok := f.Lookup(a); ok {
				return p
			}
		}
	}
	if f := t.by[0]; f != nil {
		if p, ok := f.Lookup(a); ok {
			return p
		}
	}
	return nil
}

// NewPlan makes a plan. Of two switches with one agent address, and of two prefixes alike in one project, the first by name counts.
func NewPlan(switches []Switch, prefixes []Prefix) *Plan {
	p := &Plan{switches: map[netip.Addr]*switchPlan{}, projects: map[string]*tables{}, all: &tables{map[uint32]*bart.Fast[*Prefix]{}}}
	switches = slices.Clone(switches)
	slices.SortStableFunc(switches, func(a, b Switch) int { return cmp.Compare(b.Name, a.Name) })
	for _, s := range switches {
		sp := &switchPlan{Switch: s, ports: map[uint32]*Port{}, links: map[uint32]uint32{}, names: map[string]*Port{}, machines: map[string]bool{}}
		for i := range s.Ports {
			port := &s.Ports[i]
			if port.Index != 0 {
				sp.ports[port.Index] = port
				for _, m := range port.Members {
					sp.links[m] = port.Index
				}
			} else if port.Name != "" {
				sp.names[port.Name] = port
			}
			sp.machines[port.Machine] = true
		}
		for _, a := range s.Agents {
			p.switches[a.Unmap()] = sp
		}
	}
	prefixes = slices.Clone(prefixes)
	slices.SortStableFunc(prefixes, func(a, b Prefix) int {
		return cmp.Or(cmp.Compare(b.Project, a.Project), cmp.Compare(b.Network, a.Network), cmp.Compare(b.Machine, a.Machine))
	})
	for i := range prefixes {
		x := &prefixes[i]
		if !x.Prefix.IsValid() {
			continue
		}
		if p.projects[x.Project] == nil {
			p.projects[x.Project] = &tables{map[uint32]*bart.Fast[*Prefix]{}}
		}
		p.projects[x.Project].insert(x)
		if !x.Shared {
			p.all.insert(x)
		}
	}
	return p
}

// link returns the index by which a port is counted: members of an aggregate and the whole are one.
func (s *switchPlan) link(index uint32) uint32 {
	if one, ok := s.links[index]; ok {
		return one
	}
	return index
}

// Known tells whether a switch sends with this agent address from this address.
func (p *Plan) Known(agent, from netip.Addr) bool {
	s := p.switches[agent]
	return s != nil && s == p.switches[from]
}

// Has tells whether an agent address is a switch's.
func (p *Plan) Has(agent netip.Addr) bool { return p.switches[agent] != nil }

// tableOf says in which table a packet's addresses are looked up: VNI, tag, the switch's own word, the port's access VLAN. out: as the
// packet came from the machine.
func tableOf(k *sflow.Packet, port *Port, out bool) uint32 {
	vlan := k.DstVLAN
	if out {
		vlan = k.SrcVLAN
	}
	switch {
	case k.VNI != 0:
		return vniTable | k.VNI
	case k.VLAN != 0:
		return uint32(k.VLAN)
	case vlan != 0 && vlan < vniTable:
		return vlan
	case port != nil:
		return uint32(port.VLAN)
	}
	return 0
}
