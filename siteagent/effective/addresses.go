package effective

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Addresses assigns every boot NIC of the catalog its address: the declared one, else one of the pool's static
// range that hangs on the machine's uid. It is a pure function of the catalog, so every agent gives the same answer. The
// agents' own addresses, gateways and relays are never given out.
func Addresses(c *intent.Catalog, roster *intent.RosterBody, siteID string) map[string]NICAddress {
	taken := map[netip.Addr]bool{}
	for _, a := range roster.Agents {
		for _, b := range a.Boot {
			if ip, err := netip.ParseAddr(b); err == nil {
				taken[ip] = true
			}
		}
	}
	out := map[string]NICAddress{}
	var pools []*intent.SubnetPoolSpec
	var names []string
	for _, o := range c.List(intent.KindSubnetPool) {
		if s := o.Spec.(*intent.SubnetPoolSpec); o.Metadata.Site == siteID {
			pools, names = append(pools, s), append(names, o.Metadata.Name)
			for _, text := range append([]string{s.Gateway}, s.Relays...) {
				if a, err := netip.ParseAddr(text); err == nil {
					taken[a] = true
				}
			}
		}
	}
	machines := c.List(intent.KindMachine)
	for _, m := range machines { // declared addresses first, so that nobody else gets them
		for _, n := range m.Spec.(*intent.MachineSpec).NICs {
			a, err := netip.ParseAddr(n.Address)
			mac, ok := intent.ParseMAC(n.MAC)
			i := slices.IndexFunc(pools, func(p *intent.SubnetPoolSpec) bool { return contains(p, a) })
			if err == nil && ok && i >= 0 {
				out[mac] = NICAddress{Addr: a, Pool: pools[i], PoolName: names[i], Machine: m.Metadata.Name}
				taken[a] = true
			}
		}
	}
	slices.SortStableFunc(machines, func(a, b *intent.Object) int { // who was there first keeps its address
		return cmp.Or(created(a).Compare(created(b)), cmp.Compare(a.Metadata.UID, b.Metadata.UID))
	})
	for _, m := range machines {
		mac, ok := intent.ParseMAC(m.Spec.(*intent.MachineSpec).BootNIC().MAC)
		if _, has := out[mac]; has || !ok {
			continue
		}
		for i, p := range pools {
			if a, ok := freeFrom(p, m.Metadata.UID, taken); ok {
				out[mac] = NICAddress{Addr: a, Pool: p, PoolName: names[i], Machine: m.Metadata.Name}
				taken[a] = true
				break
			}
		}
	}
	return out
}

func created(o *intent.Object) time.Time {
	if o.Metadata.Created == nil {
		return time.Time{}
	}
	return *o.Metadata.Created
}

// NICAddress is the address of one NIC.
type NICAddress struct {
	Addr     netip.Addr
	Pool     *intent.SubnetPoolSpec
	PoolName string
	Machine  string
}

// Prefix returns the address with the length of its pool's prefix.
func (n NICAddress) Prefix() netip.Prefix {
	p, err := netip.ParsePrefix(n.Pool.Prefix)
	if err != nil {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(n.Addr, p.Bits())
}

func contains(p *intent.SubnetPoolSpec, a netip.Addr) bool {
	prefix, err := netip.ParsePrefix(p.Prefix)
	return err == nil && a.IsValid() && prefix.Contains(a)
}

// maxScan bounds the search for a free address: a /16.
const maxScan = 1 << 16

// freeFrom returns the first free address of the pool's static range at or after a place that hangs on uid alone, so that
// machines which come or go later move nobody.
func freeFrom(p *intent.SubnetPoolSpec, uid string, taken map[netip.Addr]bool) (netip.Addr, bool) {
	lo, n, ok := staticRange(p)
	if !ok {
		return netip.Addr{}, false
	}
	sum := intent.DigestOf([]byte("address|" + uid))
	start := binary.BigEndian.Uint32(sum[:4]) % n
	for i := range n {
		a := lo
		b := a.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+(start+i)%n)
		a = netip.AddrFrom4(b)
		if !taken[a] && (p.Dynamic == nil || !p.Dynamic.Contains(a)) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// staticRange returns the first address for machines and how many there are, without network and broadcast address.
func staticRange(p *intent.SubnetPoolSpec) (lo netip.Addr, n uint32, ok bool) {
	prefix, err := netip.ParsePrefix(p.Prefix)
	if err != nil || p.DHCP == "off" || !prefix.Addr().Is4() {
		return lo, 0, false
	}
	lo, n = prefix.Addr().Next(), uint32(min(maxScan, 1<<(32-prefix.Bits()))-2)
	if p.Static == nil {
		return lo, n, true
	}
	from, err1 := netip.ParseAddr(p.Static.From)
	to, err2 := netip.ParseAddr(p.Static.To)
	if err1 != nil || err2 != nil || !from.Is4() || !to.Is4() {
		return lo, 0, false
	}
	f, t := from.As4(), to.As4()
	return from, min(maxScan, binary.BigEndian.Uint32(t[:])-binary.BigEndian.Uint32(f[:])+1), true
}
