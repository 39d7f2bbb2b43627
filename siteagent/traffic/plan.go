package traffic

import (
	"net/netip"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/telemetry/account"
)

// PlanOf says who is where: ports belong to the project whose instance has the machine, addresses too; a subnet pool that projects share
// names the subnet and no owner.
func PlanOf(c *intent.Catalog, addrs map[string]effective.NICAddress, bindings map[string]reconcile.Binding, site string) *account.Plan {
	p := planner{c: c, site: site, bound: boundOf(bindings)}
	return account.NewPlan(p.switches(), p.prefixes(addrs))
}

// boundOf returns the bindings that stand, by machine.
func boundOf(bindings map[string]reconcile.Binding) map[string]reconcile.Binding {
	out := map[string]reconcile.Binding{}
	for _, b := range bindings {
		if !b.Released {
			out[b.Machine] = b
		}
	}
	return out
}

type planner struct {
	c     *intent.Catalog
	site  string
	bound map[string]reconcile.Binding // by machine
}

// nics returns whose each hardware address is.
func (p *planner) nics() map[string]string {
	nics := map[string]string{}
	for _, o := range p.c.List(intent.KindMachine) {
		for _, n := range o.Spec.(*intent.MachineSpec).NICs {
			if mac, ok := intent.ParseMAC(n.MAC); ok && o.Metadata.Site == p.site {
				nics[mac] = o.Metadata.Name
			}
		}
	}
	return nics
}

func (p *planner) switches() (out []account.Switch) {
	nics := p.nics()
	for _, o := range p.c.List(intent.KindSwitch) {
		spec := o.Spec.(*intent.SwitchSpec)
		if o.Metadata.Site != p.site {
			continue
		}
		s := account.Switch{Name: o.Metadata.Name, Mode: account.Mode(spec.SFlow.Direction)}
		if s.Mode == "" {
			s.Mode = account.Auto
		}
		for _, a := range spec.SFlow.Agents {
			if ip, err := netip.ParseAddr(a); err == nil {
				s.Agents = append(s.Agents, ip)
			}
		}
		for _, port := range spec.Ports {
			mac, _ := intent.ParseMAC(port.NIC)
			m := nics[mac] // "": the machine is gone, and with it the reason to count
			var members []uint32
			for _, i := range port.Members {
				members = append(members, uint32(i))
			}
			s.Ports = append(s.Ports, account.Port{Index: uint32(port.Index), Members: members, Name: port.Name, VLAN: uint16(port.VLAN), Machine: m, Project: p.bound[m].Project})
		}
		out = append(out, s)
	}
	return out
}

func (p *planner) prefixes(addrs map[string]effective.NICAddress) (out []account.Prefix) {
	pools := map[string]netip.Prefix{}
	for _, o := range p.c.List(intent.KindSubnetPool) {
		if prefix, err := netip.ParsePrefix(o.Spec.(*intent.SubnetPoolSpec).Prefix); err == nil && o.Metadata.Site == p.site {
			pools[o.Metadata.Name] = prefix
		}
	}
	for _, o := range p.c.List(intent.KindNetwork) {
		if prefix, ok := pools[o.Spec.(*intent.NetworkSpec).SubnetPool]; ok && o.Metadata.Site == p.site {
			out = append(out, account.Prefix{Project: o.Metadata.Project, Network: o.Metadata.Name, Subnet: prefix.String(), Prefix: prefix, Shared: true})
		}
	}
	for _, n := range addrs {
		b := p.bound[n.Machine]
		out = append(out, account.Prefix{
			Project: b.Project, Network: p.network(b, n.PoolName), Subnet: pools[n.PoolName].String(), Machine: n.Machine,
			Prefix: netip.PrefixFrom(n.Addr, n.Addr.BitLen()),
		})
	}
	return out
}

// network returns which of the networks of a machine's instance array takes its addresses from the pool.
func (p *planner) network(b reconcile.Binding, pool string) string {
	spec, _, ok := intent.Lookup[*intent.InstanceArraySpec](p.c, intent.KindInstanceArray, b.Project, b.Array)
	if !ok {
		return ""
	}
	i := slices.IndexFunc(spec.Networks, func(n string) bool {
		net, _, ok := intent.Lookup[*intent.NetworkSpec](p.c, intent.KindNetwork, b.Project, n)
		return ok && net.SubnetPool == pool
	})
	if i < 0 {
		return ""
	}
	return spec.Networks[i]
}
