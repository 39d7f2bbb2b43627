package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
)

const (
	maxPrefixes = 16384 // of hosts, and of subnets
	maxLinks    = 4096  // of ifaces
	maxSlots    = 1024  // labels; of counts, 4 for each: as many rows as one interval of the ledger holds
)

// Plan says what counts as what. The zero Plan counts nothing.
type Plan struct {
	Links    []Link
	Prefixes []Prefix
}

// Link is what an interface, or one VLAN of it, carries.
type Link struct {
	Interface string
	VLAN      uint16 // 0: each that has no Link of its own
	Table     uint32 // in which addresses are looked up
	Group     uint32 // of all that is behind it; 0: that of the address
	// Own tells that the interface is the machine's own: what leaves it is from the machine. Else machines are on the other side of
	// it, and what comes in is from them.
	Own bool
	// Whole tells that frames of no known address count too, under Label.
	Whole bool
	Label string
}

// Prefix is one of a table.
type Prefix struct {
	Table  uint32
	Prefix netip.Prefix
	Label  string // of what counts here
	Group  uint32 // two ends of one group are inside; 0: in none
	// Peer tells that it only says whose the other end is: what is its own is counted elsewhere. Label means nothing then.
	Peer bool
}

// labels returns every label of the plan once, in order; those that do not fit are left out.
func (p *Plan) labels() []string {
	seen := map[string]bool{"": true}
	var out []string
	add := func(l string) {
		if !seen[l] && len(out) < maxSlots-1 {
			seen[l] = true
			out = append(out, l)
		}
	}
	for i := range p.Links {
		if p.Links[i].Whole {
			add(p.Links[i].Label)
		}
	}
	for i := range p.Prefixes {
		if !p.Prefixes[i].Peer {
			add(p.Prefixes[i].Label)
		}
	}
	return out
}

// rules are a plan as the kernel's maps have it.
type rules struct {
	ifaces  map[countInterfaceKey]countInterface
	subnets map[countSubnetKey]countSubnet
	left    int // links and prefixes that did not fit
}

const (
	flagNear  = 1
	flagWhole = 2
	slotPeer  = 1<<32 - 1

	wholeAddress = 32 + 128
)

// compile makes rules. slot returns the slot of a label, index the index of an interface and its MTU, 0: there is none.
func compile(p *Plan, slot func(string) uint32, index func(string) (int, int)) *rules {
	r := &rules{map[countInterfaceKey]countInterface{}, map[countSubnetKey]countSubnet{}, 0}
	for i := range p.Links {
		l := &p.Links[i]
		n, mtu := index(l.Interface)
		if n == 0 {
			continue
		}
		if len(r.ifaces) >= maxLinks {
			r.left++
			continue
		}
		v := countInterface{Table: l.Table, Group: l.Group, Mtu: uint32(max(mtu, 0))}
		if l.Own {
			v.Flags |= flagNear
		}
		if l.Whole {
			v.Flags |= flagWhole
			v.Slot = slot(l.Label)
		}
		r.ifaces[countInterfaceKey{Ifindex: uint32(n), Vlan: uint32(l.VLAN)}] = v
	}
	for i := range p.Prefixes {
		x := &p.Prefixes[i]
		if !x.Prefix.IsValid() {
			continue
		}
		if len(r.subnets) >= maxPrefixes {
			r.left++
			continue
		}
		v := countSubnet{Slot: slotPeer, Group: x.Group}
		if !x.Peer {
			v.Slot = slot(x.Label)
		}
		r.subnets[subnetKey(x.Table, x.Prefix)] = v
	}
	return r
}

// subnetKey is a prefix in a table as the trie has it: IPv4 as ::ffff:a.b.c.d.
func subnetKey(table uint32, p netip.Prefix) countSubnetKey {
	p = p.Masked()
	bits := uint32(p.Bits())
	if p.Addr().Is4() {
		bits += 96
	}
	return countSubnetKey{Bits: 32 + bits, Table: table, Addr: p.Addr().As16()}
}

// load makes the kernel's maps say r.
func (r *rules) load(m *countMaps) error {
	hosts, subnets := map[countHostKey]countSubnet{}, map[countSubnetKey]countSubnet{}
	for k, v := range r.subnets {
		if k.Bits == wholeAddress {
			hosts[countHostKey{Table: k.Table, Addr: k.Addr}] = v
		} else {
			subnets[k] = v
		}
	}
	return errors.Join(replace(m.Hosts, hosts), replace(m.Subnets, subnets), replace(m.Ifaces, r.ifaces))
}

// replace makes m hold want: what is not wanted goes, then what is missing or differs is put. Of a full map what fits is in it.
func replace[K, V comparable](m *ebpf.Map, want map[K]V) error {
	have := map[K]V{}
	var k K
	var v V
	it := m.Iterate()
	for it.Next(&k, &v) {
		have[k] = v
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("cannot read map %s: %w", m.String(), err)
	}
	var errs []error
	for k := range have { // first: a full map takes nothing
		if _, ok := want[k]; !ok {
			if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, err)
			}
		}
	}
	for k, v := range want {
		if old, ok := have[k]; ok && old == v {
			continue
		}
		if err := m.Put(&k, &v); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("cannot write map %s (%d of %d): %w", m.String(), len(errs), len(want), errs[0])
	}
	return nil
}

// mtuOf returns the MTU of an interface, 0: nobody knows.
func mtuOf(name string) int {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return i.MTU
}

// indexOf returns the index of an interface, 0: there is none.
func indexOf(name string) int {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return i.Index
}
