package discovery

import (
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// known is what the site knows of a declared machine, from intent and from the inventory that was accepted.
type known struct {
	Serial, UUID string
	MACs         map[string]bool
}

// directory finds the declared machines by what a sighting may share with them.
type directory struct {
	by                   map[string]known
	macs, serials, uuids map[string][]string // -> names
}

// newDirectory indexes machines by name.
func newDirectory(by map[string]known) *directory {
	d := &directory{by, map[string][]string{}, map[string][]string{}, map[string][]string{}}
	for name, k := range by {
		for mac := range k.MACs {
			d.macs[mac] = append(d.macs[mac], name)
		}
		d.serials[k.Serial] = append(d.serials[k.Serial], name)
		d.uuids[k.UUID] = append(d.uuids[k.UUID], name)
	}
	return d
}

// like lists, in order, the machines that have one of the cards, the serial number or the UUID; empty ones are nobody's.
func (d *directory) like(macs []string, serial, uuid string) []string {
	var out []string
	for _, mac := range macs {
		out = append(out, d.macs[mac]...)
	}
	if serial != "" {
		out = append(out, d.serials[serial]...)
	}
	if uuid != "" {
		out = append(out, d.uuids[uuid]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// knownMachines joins both. What is declared wins: the inventory may be of the box that was there before.
func knownMachines(c *intent.Catalog, site string, accepted func(machine string) *reconcile.Facts) *directory {
	out := map[string]known{}
	for _, o := range c.List(intent.KindMachine) {
		if o.Metadata.Site != site {
			continue
		}
		s := o.Spec.(*intent.MachineSpec)
		k := known{Serial: s.Serial, UUID: s.UUID, MACs: map[string]bool{}}
		for _, n := range s.NICs {
			if mac, ok := intent.ParseMAC(n.MAC); ok {
				k.MACs[mac] = true
			}
		}
		if f := accepted(o.Metadata.Name); f != nil {
			if k.Serial == "" {
				k.Serial = f.Serial
			}
			if k.UUID == "" {
				k.UUID = f.UUID
			}
			for _, mac := range f.MACs {
				k.MACs[mac] = true
			}
		}
		out[o.Metadata.Name] = k
	}
	return newDirectory(out)
}

// verdict is who a discovered machine is, or why it cannot be told.
type verdict struct {
	Owner    string // the declared machine that it is
	Conflict string // why it cannot become one
	Notes    []string
	Twice    bool     // another machine has the same UUID
	Shared   []string // cards that another discovered machine has too
}

// judge compares a sighting with the declared machines and with the other sightings. It is pure. A MAC and the serial number, if one
// is known, make it the declared machine; a serial number alone, or a MAC with another one or none, is a contradiction, which a person settles. UUIDs that are twice there are
// common and are told only (boot.md section 2: identity).
func judge(r record, machines *directory, others []record) (v verdict) {
	f := r.Facts
	serial := !inventory.Placeholder(f.Serial)
	macs := append([]string{macOf(r.ID)}, f.MACs...)
	for _, name := range machines.like(macs, f.Serial, f.UUID) {
		m := machines.by[name]
		i := slices.IndexFunc(macs, func(mac string) bool { return m.MACs[mac] })
		differs := !inventory.Placeholder(m.Serial) && f.Serial != m.Serial
		switch {
		case i >= 0 && !differs:
			return verdict{Owner: name}
		case i >= 0 && v.Conflict == "":
			v.Conflict = fmt.Sprintf("its network card %s is declared of machine %s, which has serial number %s", macs[i], name, m.Serial)
		case serial && f.Serial == m.Serial && v.Conflict == "":
			v.Conflict = fmt.Sprintf("its serial number is declared of machine %s, which has other network cards", name)
		}
		if f.UUID != "" && f.UUID == m.UUID {
			v.Twice, v.Notes = true, append(v.Notes, "machine "+name+" has the same UUID: it is left out of the Machine")
		}
	}
	if !serial {
		v.Notes = append(v.Notes, "it has no serial number: the network cards alone tell which it is")
	}
	for _, o := range others {
		if o.ID == r.ID {
			continue
		}
		if i := slices.IndexFunc(macs, func(mac string) bool { return mac == macOf(o.ID) || slices.Contains(o.Facts.MACs, mac) }); i >= 0 && !sameBox(o, r) {
			v.Notes = append(v.Notes, "discovered "+o.ID+" has the network card "+macs[i]+", too: one of them lies")
			v.Shared = append(v.Shared, macs[i])
		}
		if serial && o.Facts.Serial == f.Serial {
			v.Notes = append(v.Notes, "discovered "+o.ID+" has the same serial number")
		}
		if f.UUID != "" && o.Facts.UUID == f.UUID {
			v.Twice, v.Notes = true, append(v.Notes, "discovered "+o.ID+" has the same UUID: it is left out of the Machine")
		}
	}
	if f.Signed {
		v.Notes = append(v.Notes, "it may run a system of its own: accepting it powers it off (--power-off)")
	}
	return v
}

// proposal is the Machine that accepting makes: what the box says of itself, without what says nothing.
func proposal(r record, v verdict) intent.MachineSpec {
	s := intent.MachineSpec{NICs: []intent.NIC{{MAC: macOf(r.ID), Boot: true}}}
	if !inventory.Placeholder(r.Facts.Serial) {
		s.Serial = r.Facts.Serial
	}
	if !v.Twice {
		s.UUID = r.Facts.UUID
	}
	for _, mac := range r.Facts.MACs {
		if mac != macOf(r.ID) && len(s.NICs) < 64 && !slices.Contains(v.Shared, mac) {
			s.NICs = append(s.NICs, intent.NIC{MAC: mac})
		}
	}
	return s
}
