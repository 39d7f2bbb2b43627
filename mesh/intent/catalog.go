package intent

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
)

// Catalog is a set of objects by key. The zero value is not usable; see NewCatalog. It is not safe for concurrent writes;
// share it read-only.
type Catalog struct {
	objects map[Key]*Object
	sorted  atomic.Pointer[[]*Object] // as List gives them; nil: to be made by the next List
}

// NewCatalog returns a catalog of the given objects; a later one replaces an earlier one of the same key.
func NewCatalog(objects ...*Object) *Catalog {
	c := &Catalog{objects: make(map[Key]*Object, len(objects))}
	for _, o := range objects {
		c.Put(o)
	}
	return c
}

// Clone returns a catalog that shares the objects, not the set.
func (c *Catalog) Clone() *Catalog {
	n := &Catalog{objects: maps.Clone(c.objects)}
	n.sorted.Store(c.sorted.Load())
	return n
}

// Put adds or replaces o, which must not be changed afterwards.
func (c *Catalog) Put(o *Object) {
	k := o.Key()
	c.objects[k] = o
	if all := c.sorted.Load(); all != nil {
		i, found := slices.BinarySearchFunc(*all, k, func(o *Object, k Key) int { return compareKeys(o.Key(), k) })
		next := slices.Clone(*all) // whoever listed it, or was cloned from it, has the old one
		if found {
			next[i] = o
		} else {
			next = slices.Insert(next, i, o)
		}
		c.sorted.Store(&next)
	}
}

// Delete removes the object of key k, if any.
func (c *Catalog) Delete(k Key) {
	delete(c.objects, k)
	c.sorted.Store(nil)
}

// Len returns the number of objects.
func (c *Catalog) Len() int { return len(c.objects) }

// Get returns the object of key k or nil. The object must not be changed.
func (c *Catalog) Get(k Key) *Object { return c.objects[k] }

// ByUID returns the object with that uid or nil.
func (c *Catalog) ByUID(uid string) *Object {
	for _, o := range c.objects {
		if o.Metadata.UID == uid {
			return o
		}
	}
	return nil
}

// List returns the objects of kind k ("" = every kind), ordered by kind's place in Kinds, scope, name. The slice is the caller's.
func (c *Catalog) List(k Kind) []*Object {
	all := c.all()
	if k == "" {
		return slices.Clone(all)
	}
	from, _ := slices.BinarySearchFunc(all, k.place(), func(o *Object, place int) int { return o.Kind.place() - place })
	to := from
	for to < len(all) && all[to].Kind == k {
		to++
	}
	return append([]*Object(nil), all[from:to]...)
}

func (c *Catalog) all() []*Object {
	if all := c.sorted.Load(); all != nil {
		return *all
	}
	keys := slices.SortedFunc(maps.Keys(c.objects), compareKeys)
	all := make([]*Object, len(keys))
	for i, k := range keys {
		all[i] = c.objects[k]
	}
	c.sorted.Store(&all)
	return all
}

// compareKeys orders keys as List does.
func compareKeys(a, b Key) int {
	if a.Kind != b.Kind {
		return a.Kind.place() - b.Kind.place()
	}
	return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name))
}

// Lookup returns the spec of one object; ok is false when it is absent.
func Lookup[S Spec](c *Catalog, k Kind, scope, name string) (spec S, o *Object, ok bool) {
	o = c.objects[Key{k, scope, name}]
	if o == nil {
		return spec, nil, false
	}
	spec, ok = o.Spec.(S)
	return spec, o, ok
}

// ObjectProblem is a problem of one object of a catalog.
type ObjectProblem struct {
	Key Key `json:"object"`
	Problem
}

// Check finds what does not fit together: unknown references, duplicate MACs and addresses, overlapping subnets, quotas
// exceeded. The answer is ordered by object and path; empty means that the catalog may be published.
func (c *Catalog) Check() []ObjectProblem {
	k := &catalogCheck{c: c, macs: map[string]Key{}, addrs: map[string]Key{}, bmcs: map[string]Key{}, keys: map[Digest]Key{}, ports: map[string]Key{}}
	place := map[Key]int{}
	for i, o := range c.List("") {
		place[o.Key()] = i
		k.object(o)
	}
	k.subnets()
	k.quotas()
	slices.SortStableFunc(k.ps, func(a, b ObjectProblem) int {
		return cmp.Or(place[a.Key]-place[b.Key], cmp.Compare(a.Path, b.Path))
	})
	return k.ps
}

type catalogCheck struct {
	c     *Catalog
	ps    []ObjectProblem
	macs  map[string]Key
	addrs map[string]Key // site + address
	bmcs  map[string]Key // site + address of the controller
	keys  map[Digest]Key // users' keys, by SPKI
	ports map[string]Key // site + NIC, or agent address of sFlow
}

func (k *catalogCheck) add(o *Object, path, what, fix string) {
	k.ps = append(k.ps, ObjectProblem{o.Key(), Problem{Path: path, What: what, Fix: fix}})
}

func (k *catalogCheck) ref(o *Object, path string, kind Kind, scope, name string) *Object {
	found := k.c.Get(Key{kind, scope, name})
	if found == nil {
		k.add(o, path, fmt.Sprintf("there is no %s", Key{kind, scope, name}), fmt.Sprintf("create it first, or see `skerry get %s`", plural(kind)))
	}
	return found
}

func plural(k Kind) string {
	info, _ := k.Info()
	return info.Plural
}

func (k *catalogCheck) object(o *Object) {
	info, _ := o.Kind.Info()
	if info.NeedSite && o.Metadata.Site != "" {
		k.ref(o, "metadata.site", KindSite, "", o.Metadata.Site)
	}
	if info.Scope == ScopeProject && o.Metadata.Project != "" {
		p := k.ref(o, "metadata.project", KindProject, "", o.Metadata.Project)
		if p != nil && info.NeedSite && !slices.Contains(p.Spec.(*ProjectSpec).Sites, o.Metadata.Site) {
			k.add(o, "metadata.site", fmt.Sprintf("project %s may not use site %s", o.Metadata.Project, o.Metadata.Site), "an owner adds it to the project's spec.sites")
		}
	}
	switch s := o.Spec.(type) {
	case *SiteSpec:
		if s.Installer != nil {
			k.bootAsset(o, "spec.installer.kernel", s.Installer.Kernel)
			k.bootAsset(o, "spec.installer.ramdisk", s.Installer.Ramdisk)
		}
		k.peers(o, s.Peers)
	case *AssetSpec:
		if s.Pin != nil {
			for i, n := range s.Pin.Sites {
				k.ref(o, fmt.Sprintf("spec.pin.sites[%d]", i), KindSite, "", n)
			}
		}
	case *MachineSpec:
		k.machine(o, s)
	case *SwitchSpec:
		k.ofSwitch(o, s)
	case *ImageSpec:
		if a := k.ref(o, "spec.asset", KindAsset, "", s.Asset); a != nil && a.Spec.(*AssetSpec).Class != "image" {
			k.add(o, "spec.asset", "asset "+s.Asset+" is not of class image", "upload it with --class image")
		}
	case *ProjectSpec:
		for i, n := range s.Sites {
			k.ref(o, fmt.Sprintf("spec.sites[%d]", i), KindSite, "", n)
		}
	case *UserSpec:
		k.user(o, s)
	case *GroupSpec:
		k.group(o, s)
	case *NetworkSpec:
		k.ref(o, "spec.subnetPool", KindSubnetPool, o.Metadata.Site, s.SubnetPool)
	case *InstanceArraySpec:
		k.array(o, s)
	}
}

func (k *catalogCheck) peers(o *Object, peers []string) {
	for i, name := range peers {
		path := fmt.Sprintf("spec.peers[%d]", i)
		switch {
		case name == o.Metadata.Name:
			k.add(o, path, "it is the site itself", "name other sites")
		case slices.Contains(peers[:i], name):
			k.add(o, path, name+" is named twice", "name it once")
		default:
			k.ref(o, path, KindSite, "", name)
		}
	}
}

func (k *catalogCheck) bootAsset(o *Object, path, name string) {
	if a := k.ref(o, path, KindAsset, "", name); a != nil && a.Spec.(*AssetSpec).Class != "boot" {
		k.add(o, path, "asset "+name+" is not of class boot", "upload it with --class boot")
	}
}

// secret wants a secret of o's site, of a type.
func (k *catalogCheck) secret(o *Object, path, name, kind string) {
	if s := k.ref(o, path, KindSecret, o.Metadata.Site, name); s != nil && s.Spec.(*SecretSpec).Type != kind {
		k.add(o, path, "secret "+name+" is not of type "+kind, "make one of type "+kind)
	}
}

func (k *catalogCheck) snmp(o *Object, s *SNMPSpec) {
	if s != nil {
		k.secret(o, "spec.snmp.secret", s.Secret, "snmp")
	}
}

func (k *catalogCheck) machine(o *Object, s *MachineSpec) {
	if s.BMC != nil {
		k.secret(o, "spec.bmc.secret", s.BMC.Secret, "bmc")
		at := o.Metadata.Site + " " + s.BMC.Address
		if other, ok := k.bmcs[at]; ok {
			// Two machines on one controller: power and boot orders meant for one would hit the other.
			k.add(o, "spec.bmc.address", fmt.Sprintf("%s is already of %s", s.BMC.Address, other), "every machine has its own controller; correct one of them")
		}
		k.bmcs[at] = o.Key()
	}
	k.snmp(o, s.SNMP)
	for i, n := range s.NICs {
		mac, _ := ParseMAC(n.MAC)
		path := fmt.Sprintf("spec.nics[%d].", i)
		if other, ok := k.macs[mac]; ok {
			k.add(o, path+"mac", fmt.Sprintf("%s is already of %s", mac, other), "every port has its own; correct one of them")
		}
		k.macs[mac] = o.Key()
		if n.Address == "" {
			continue
		}
		at := o.Metadata.Site + " " + n.Address
		if other, ok := k.addrs[at]; ok {
			k.add(o, path+"address", fmt.Sprintf("%s is already of %s", n.Address, other), "choose another")
		}
		k.addrs[at] = o.Key()
		k.address(o, path+"address", n.Address)
	}
}

// ofSwitch checks ports and agent addresses. Switches come after machines, so every NIC is known.
func (k *catalogCheck) ofSwitch(o *Object, s *SwitchSpec) {
	once := func(path, what string) {
		at := o.Metadata.Site + " " + what
		if other, ok := k.ports[at]; ok {
			k.add(o, path, fmt.Sprintf("%s is already of %s", what, other), "its traffic would count twice; correct one of them")
		}
		k.ports[at] = o.Key()
	}
	k.snmp(o, s.SNMP)
	for i, p := range s.Ports {
		path := fmt.Sprintf("spec.ports[%d].nic", i)
		mac, _ := ParseMAC(p.NIC)
		if m, ok := k.macs[mac]; !ok || m.Scope != o.Metadata.Site {
			k.add(o, path, fmt.Sprintf("no machine of site %s has NIC %s", o.Metadata.Site, clip(p.NIC, 40)), "add it to a machine's nics, or correct it")
		}
		once(path, mac)
	}
	for i, a := range s.SFlow.Agents {
		once(fmt.Sprintf("spec.sflow.agents[%d]", i), a)
	}
}

func (k *catalogCheck) address(o *Object, path, address string) {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return // Validate has said so
	}
	for _, p := range k.c.List(KindSubnetPool) {
		s := p.Spec.(*SubnetPoolSpec)
		prefix, err := netip.ParsePrefix(s.Prefix)
		if err != nil || p.Metadata.Site != o.Metadata.Site || !prefix.Contains(a) {
			continue
		}
		if s.Dynamic != nil && s.Dynamic.Contains(a) {
			k.add(o, path, fmt.Sprintf("%s lies in the dynamic range of %s", a, p.Key()), "choose one outside "+s.Dynamic.From+"-"+s.Dynamic.To)
		}
		if s.Gateway == address {
			k.add(o, path, fmt.Sprintf("%s is the gateway of %s", a, p.Key()), "choose another")
		}
		return
	}
	k.add(o, path, fmt.Sprintf("%s is in no subnet pool of site %s", a, o.Metadata.Site), "add the pool or choose an address of one")
}

func (k *catalogCheck) user(o *Object, s *UserSpec) {
	for i, key := range s.Keys {
		spki, err := key.SPKI()
		if err != nil {
			continue // Validate has said so
		}
		if other, ok := k.keys[spki]; ok {
			k.add(o, fmt.Sprintf("spec.keys[%d].public", i), fmt.Sprintf("the key is already of %s", other), "a key names one user: make another")
		}
		k.keys[spki] = o.Key()
	}
	k.bindings(o, s.Bindings)
}

func (k *catalogCheck) group(o *Object, s *GroupSpec) {
	for i, m := range s.Members {
		u := k.ref(o, fmt.Sprintf("spec.members[%d]", i), KindUser, "", m)
		if u != nil && u.Spec.(*UserSpec).BreakGlass {
			k.add(o, fmt.Sprintf("spec.members[%d]", i), m+" is a break-glass user", "it has its two roles and no more: remove it")
		}
	}
	k.bindings(o, s.Bindings)
}

// BindingsOf returns a user's own bindings and those of the groups that list it; nil for who is no user.
func (c *Catalog) BindingsOf(user string) []RoleBinding {
	s, _, ok := Lookup[*UserSpec](c, KindUser, "", user)
	if !ok {
		return nil
	}
	out := slices.Clone(s.Bindings)
	for _, o := range c.objects {
		if g, ok := o.Spec.(*GroupSpec); ok && slices.Contains(g.Members, user) {
			out = append(out, g.Bindings...)
		}
	}
	slices.SortFunc(out, func(a, b RoleBinding) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Project, b.Project), cmp.Compare(a.Site, b.Site))
	})
	return slices.Compact(out)
}

// UserKeys returns who may authenticate with which key: SPKI to user. A key that was to expire stays listed: whoever
// authenticates looks at the time.
func (c *Catalog) UserKeys() map[Digest]string {
	out := map[Digest]string{}
	for _, o := range c.objects {
		if u, ok := o.Spec.(*UserSpec); ok {
			for _, k := range u.Keys {
				if spki, err := k.SPKI(); err == nil {
					out[spki] = o.Metadata.Name
				}
			}
		}
	}
	return out
}

func (k *catalogCheck) bindings(o *Object, bindings []RoleBinding) {
	for i, b := range bindings {
		path := fmt.Sprintf("spec.bindings[%d].", i)
		if !slices.Contains(BuiltinRoles(), b.Role) {
			k.ref(o, path+"role", KindRole, "", b.Role)
		}
		if b.Project != "" {
			k.ref(o, path+"project", KindProject, "", b.Project)
		}
		if b.Site != "" {
			k.ref(o, path+"site", KindSite, "", b.Site)
		}
	}
}

func (k *catalogCheck) array(o *Object, s *InstanceArraySpec) {
	project, site := o.Metadata.Project, o.Metadata.Site
	if inf := k.ref(o, "spec.infrastructure", KindInfrastructure, project, s.Infrastructure); inf != nil && inf.Metadata.Site != site {
		k.add(o, "spec.infrastructure", fmt.Sprintf("infrastructure %s is at site %s", s.Infrastructure, inf.Metadata.Site), "use the same metadata.site")
	}
	k.ref(o, "spec.machineType", KindMachineType, "", s.MachineType)
	k.ref(o, "spec.image", KindImage, "", s.Image)
	for i, n := range s.Networks {
		if net := k.ref(o, fmt.Sprintf("spec.networks[%d]", i), KindNetwork, project, n); net != nil && net.Metadata.Site != site {
			k.add(o, fmt.Sprintf("spec.networks[%d]", i), fmt.Sprintf("network %s is at site %s", n, net.Metadata.Site), "use a network of site "+site)
		}
	}
	for i, n := range s.SSHKeys {
		k.ref(o, fmt.Sprintf("spec.sshKeys[%d]", i), KindSSHKey, project, n)
	}
}

func (k *catalogCheck) subnets() {
	pools := k.c.List(KindSubnetPool)
	for i, a := range pools {
		pa, err := netip.ParsePrefix(a.Spec.(*SubnetPoolSpec).Prefix)
		if err != nil {
			continue
		}
		for _, b := range pools[:i] {
			pb, err := netip.ParsePrefix(b.Spec.(*SubnetPoolSpec).Prefix)
			if err == nil && a.Metadata.Site == b.Metadata.Site && pa.Overlaps(pb) {
				k.add(a, "spec.prefix", fmt.Sprintf("%s overlaps %s of %s", pa, pb, b.Key()), "choose a free prefix; a site's subnets never overlap")
			}
		}
	}
}

// quotas compares what the projects ask for with what they may have. A project without a Quota at a site is not bounded
// there by the coordinator, and has nothing offline.
func (k *catalogCheck) quotas() {
	first := map[[2]string]Key{} // by project and site
	for _, q := range k.c.List(KindQuota) {
		at := [2]string{q.Metadata.Project, q.Metadata.Site}
		if other, ok := first[at]; ok {
			k.add(q, "metadata.site", fmt.Sprintf("%s bounds project %s at site %s already", other, at[0], at[1]), "change that one; a project has one quota per site")
			continue
		}
		first[at] = q.Key()
		spec := q.Spec.(*QuotaSpec)
		for mt, n := range k.c.Wanted(q.Metadata.Project, q.Metadata.Site) {
			if n > spec.Machines[mt] {
				k.add(q, "spec.machines."+mt, fmt.Sprintf("%d machines of type %s are asked for, %d are allowed", n, mt, spec.Machines[mt]), "ask for fewer, or let security raise the quota")
			}
		}
	}
}

// Wanted counts the machines by type that a project's instance arrays ask for at a site.
func (c *Catalog) Wanted(project, site string) map[string]int {
	n := map[string]int{}
	for _, o := range c.List(KindInstanceArray) {
		if o.Metadata.Project == project && o.Metadata.Site == site {
			s := o.Spec.(*InstanceArraySpec)
			n[s.MachineType] += s.Count
		}
	}
	return n
}

// Quota returns the project's quota at the site, or nil.
func (c *Catalog) Quota(project, site string) *QuotaSpec {
	for _, o := range c.List(KindQuota) {
		if o.Metadata.Project == project && o.Metadata.Site == site {
			return o.Spec.(*QuotaSpec)
		}
	}
	return nil
}
