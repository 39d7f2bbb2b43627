package intent

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent/weburl"
)

// SiteSpec is a place with its agents and hardware.
type SiteSpec struct {
	Region      string `json:"region"`
	Zone        string `json:"zone"`
	Description string `json:"description,omitempty"`
	StaleAfter  string `json:"staleAfter,omitempty"` // Go duration, default 168h: how long without a coordinator's beacon before writing a disk needs an operator
	BootSlots   int    `json:"bootSlots,omitempty"`  // machines that may load an installer at once, default 16
	// Installer names the assets of class boot with which machines are inspected and installed; without it none is booted.
	Installer *InstallerSpec `json:"installer,omitempty"`
	WAN       *WANSpec       `json:"wan,omitempty"`   // budget of the site's line
	Erase     string         `json:"erase,omitempty"` // of released machines: required (purge, default), clear (overwriting is enough), none (held until cleared)
	// Peers names the sites whose agents this one's reach: what those have of assets is taken from them before it is asked of the
	// coordinator, and the gateways of both gossip. At most MaxPeers. It need not hold both ways.
	Peers []string `json:"peers,omitempty"`
}

// MaxPeers is how many other sites a site may reach.
const MaxPeers = 16

// InstallerSpec names the kernel and the ramdisk of the installer.
type InstallerSpec struct {
	Kernel  string   `json:"kernel"`
	Ramdisk string   `json:"ramdisk"`
	Args    []string `json:"args,omitempty"` // more words of the kernel's command line, at most 32
}

func (s *SiteSpec) validate(c *checker) {
	c.label("region", s.Region)
	c.label("zone", s.Zone)
	c.text("description", s.Description, 256)
	if s.StaleAfter != "" {
		c.duration("staleAfter", s.StaleAfter, MinStaleAfter, MaxStaleAfter)
	}
	c.count("bootSlots", s.BootSlots, 0, 4096)
	c.oneOf("erase", cmp.Or(s.Erase, "required"), "required", "clear", "none")
	if s.Installer != nil {
		c.label("installer.kernel", s.Installer.Kernel)
		c.label("installer.ramdisk", s.Installer.Ramdisk)
		for i, a := range s.Installer.Args {
			if a == "" || len(a) > 128 || i > 31 || strings.HasPrefix(a, "skerry.") || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("$&|;`\"'\\{}<>#", r) }) {
				c.add(fmt.Sprintf("installer.args[%d]", i), fmt.Sprintf("%q is no argument of the kernel", clip(a, 40)), "words like nomodeset or pci=noaer, at most 32, none of skerry's own")
			}
		}
	}
	if s.WAN != nil {
		s.WAN.validate(c.below("wan"))
	}
	if len(s.Peers) > MaxPeers {
		c.add("peers", fmt.Sprintf("%d sites, more than %d", len(s.Peers), MaxPeers), "name the nearest")
	}
	for i, p := range s.Peers {
		c.label(fmt.Sprintf("peers[%d]", i), p)
	}
}

// AgentSpec is what the coordinator knows of a joined agent; the roster entry is compiled from it.
type AgentSpec struct {
	Management string   `json:"management"` // host:port of site API and mesh
	Boot       []string `json:"boot,omitempty"`
	Roles      []string `json:"roles,omitempty"` // dhcp, bmc; empty = all
	Rank       int      `json:"rank"`            // order of admission, 0-65535
	Spare      bool     `json:"spare,omitempty"` // certified, and waiting to take another agent's place: it has no address yet
}

func (s *AgentSpec) validate(c *checker) {
	if _, err := netip.ParseAddrPort(s.Management); err != nil && (!s.Spare || s.Management != "") {
		c.add("management", fmt.Sprintf("%q is not an address with port", clip(s.Management, 60)), "write it like 10.99.1.11:7444")
	}
	for i, a := range s.Boot {
		c.addr(fmt.Sprintf("boot[%d]", i), a)
	}
	for i, r := range s.Roles {
		c.oneOf(fmt.Sprintf("roles[%d]", i), r, "dhcp", "bmc")
	}
	c.count("rank", s.Rank, 0, 65535)
}

// MachineSpec declares one expected box.
type MachineSpec struct {
	Rack        string    `json:"rack,omitempty"`
	Position    int       `json:"position,omitempty"` // rack unit from 1
	Serial      string    `json:"serial,omitempty"`   // SMBIOS system serial; checked against the hardware when given
	UUID        string    `json:"uuid,omitempty"`     // SMBIOS system UUID, lower case
	BMC         *BMCSpec  `json:"bmc,omitempty"`
	NICs        []NIC     `json:"nics"`
	Maintenance bool      `json:"maintenance,omitempty"` // no task touches the machine
	SNMP        *SNMPSpec `json:"snmp,omitempty"`        // of the operating system that runs there, where it has an SNMP agent
	Onboard     string    `json:"onboard,omitempty"`     // as-is: accepted whatever its disks hold; erase comes with its issue; default: as-is only if no disk bears a signature
}

// BMCSpec says how to reach a management controller.
type BMCSpec struct {
	Address  string `json:"address"`  // host or host:port; by default 443, or 623 for ipmi
	Protocol string `json:"protocol"` // redfish, or ipmi where there is no Redfish
	Secret   string `json:"secret"`   // name of a Secret of the same site with keys username and password
	Pin      string `json:"pin,omitempty"`
}

// NIC is one port of a machine, known by its MAC address.
type NIC struct {
	MAC     string `json:"mac"`
	Boot    bool   `json:"boot,omitempty"`    // PXE happens here; at most one
	Address string `json:"address,omitempty"` // fixed IPv4 address out of a subnet pool; default: chosen by the site
}

func (s *MachineSpec) validate(c *checker) {
	c.text("rack", s.Rack, 63)
	c.count("position", s.Position, 0, 100)
	c.text("serial", s.Serial, 128)
	if s.UUID != "" && !isUUID(s.UUID) {
		c.add("uuid", fmt.Sprintf("%q is not a UUID", clip(s.UUID, 60)), "write it in lower case, like 4c4c4544-0042-3510-8051-b4c04f4d3132")
	}
	c.oneOf("onboard", cmp.Or(s.Onboard, "as-is"), "as-is")
	if s.BMC != nil {
		s.BMC.validate(c.below("bmc"))
	}
	s.SNMP.validate(c.below("snmp"))
	if len(s.NICs) == 0 || len(s.NICs) > 64 {
		c.add("nics", fmt.Sprintf("%d network ports", len(s.NICs)), "give 1 to 64")
	}
	boots := 0
	for i, n := range s.NICs {
		c.mac(fmt.Sprintf("nics[%d].mac", i), n.MAC)
		if n.Address != "" {
			if a := c.addr(fmt.Sprintf("nics[%d].address", i), n.Address); a.IsValid() && !a.Is4() {
				c.add(fmt.Sprintf("nics[%d].address", i), "is not an IPv4 address", "write it like 10.88.0.21")
			}
		}
		if n.Boot {
			boots++
		}
	}
	if boots > 1 {
		c.add("nics", "more than one has boot: true", "keep one")
	}
}

// BootNIC returns the NIC that boots: the marked one, else the first.
func (s *MachineSpec) BootNIC() NIC {
	if i := slices.IndexFunc(s.NICs, func(n NIC) bool { return n.Boot }); i >= 0 {
		return s.NICs[i]
	}
	if len(s.NICs) == 0 {
		return NIC{}
	}
	return s.NICs[0]
}

func (s *BMCSpec) validate(c *checker) {
	c.host("address", s.Address)
	c.oneOf("protocol", s.Protocol, "redfish", "ipmi")
	c.label("secret", s.Secret)
	if _, err := ParseDigest(s.Pin); s.Pin != "" && err != nil {
		c.add("pin", err.Error(), "give the SHA-256 of the certificate's public key")
	} else if s.Pin != "" && s.Protocol == "ipmi" {
		c.add("pin", "is given, and IPMI has no certificate", "remove it")
	}
}

func isUUID(s string) bool {
	plain := strings.ReplaceAll(s, "-", "")
	_, err := hex.DecodeString(plain)
	return err == nil && len(plain) == 32 && s == strings.ToLower(plain[:8]+"-"+plain[8:12]+"-"+plain[12:16]+"-"+plain[16:20]+"-"+plain[20:])
}

// MachineTypeSpec is a class of machines: a machine belongs to it when every range holds.
type MachineTypeSpec struct {
	CPU      Range       `json:"cpu"`       // logical processors
	MemoryMB Range       `json:"memoryMiB"` // installed memory, MiB
	Disks    []DiskClass `json:"disks,omitempty"`
	Console  string      `json:"console,omitempty"`  // kernel console, default ttyS0
	Warm     int         `json:"warm,omitempty"`     // idle machines that wait in the installer, default 0
	ResetBMC bool        `json:"resetBMC,omitempty"` // at release the BMC's settings are reset too, but for network and accounts
}

// Range is inclusive; Max 0 means no upper bound.
type Range struct {
	Min int `json:"min"`
	Max int `json:"max,omitempty"`
}

// Holds tells whether n is in r.
func (r Range) Holds(n int) bool { return n >= r.Min && (r.Max == 0 || n <= r.Max) }

// DiskClass wants Count disks of at least MinBytes each.
type DiskClass struct {
	Media    string `json:"media,omitempty"` // ssd, hdd, nvme; empty = any
	Count    Range  `json:"count"`
	MinBytes uint64 `json:"minBytes,omitempty"`
}

func (s *MachineTypeSpec) validate(c *checker) {
	rng := func(path string, r Range, hi int) {
		if r.Min < 0 || r.Max < 0 || r.Min > hi || r.Max > hi || (r.Max != 0 && r.Max < r.Min) {
			c.add(path, "is no range", fmt.Sprintf("0 <= min <= max <= %d", hi))
		}
	}
	rng("cpu", s.CPU, 1<<16)
	rng("memoryMiB", s.MemoryMB, 1<<30)
	for i, d := range s.Disks {
		if d.Media != "" {
			c.oneOf(fmt.Sprintf("disks[%d].media", i), d.Media, "ssd", "hdd", "nvme")
		}
		rng(fmt.Sprintf("disks[%d].count", i), d.Count, 1024)
	}
	if s.Console != "" && (len(s.Console) > 32 || strings.ContainsAny(s.Console, " \t\n\"'\\")) {
		c.add("console", fmt.Sprintf("%q is no console", clip(s.Console, 40)), "write it like ttyS0,115200n8")
	}
	c.count("warm", s.Warm, 0, 1024)
}

// SubnetPoolSpec is one IPv4 subnet of a site and what DHCP does on it.
type SubnetPoolSpec struct {
	Prefix    string     `json:"prefix"`
	Gateway   string     `json:"gateway,omitempty"`
	DNS       []string   `json:"dns,omitempty"`
	NTP       []string   `json:"ntp,omitempty"`
	Domain    string     `json:"domain,omitempty"`
	DHCP      string     `json:"dhcp,omitempty"` // auto (default), authoritative, proxy, off
	Dynamic   *AddrRange `json:"dynamic,omitempty"`
	Discovery bool       `json:"discovery,omitempty"` // machines that nobody declared are inspected there
	Static    *AddrRange `json:"static,omitempty"`    // for machines; default: all but dynamic, gateway and agents
	Relays    []string   `json:"relays,omitempty"`    // giaddr values that are believed
}

// AddrRange is inclusive.
type AddrRange struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func (s *SubnetPoolSpec) validate(c *checker) {
	p := c.prefix("prefix", s.Prefix)
	if p.IsValid() && (!p.Addr().Is4() || p.Bits() > 30) {
		c.add("prefix", p.String()+" cannot hold machines", "use an IPv4 prefix of /30 or shorter")
	}
	inside := func(path, a string) {
		if ad := c.addr(path, a); ad.IsValid() && p.IsValid() && !p.Contains(ad) {
			c.add(path, fmt.Sprintf("%s is not inside %s", ad, p), "choose an address of the prefix")
		}
	}
	if s.Gateway != "" {
		inside("gateway", s.Gateway)
	}
	for i, a := range s.DNS {
		c.addr(fmt.Sprintf("dns[%d]", i), a)
	}
	for i, a := range s.NTP {
		c.addr(fmt.Sprintf("ntp[%d]", i), a)
	}
	for i, a := range s.Relays {
		c.addr(fmt.Sprintf("relays[%d]", i), a)
	}
	c.text("domain", s.Domain, 253)
	c.oneOf("dhcp", cmp.Or(s.DHCP, "auto"), "auto", "authoritative", "proxy", "off")
	ranges := func(path string, r *AddrRange) {
		if r == nil {
			return
		}
		inside(path+".from", r.From)
		inside(path+".to", r.To)
		from, err1 := netip.ParseAddr(r.From)
		to, err2 := netip.ParseAddr(r.To)
		if err1 == nil && err2 == nil && to.Less(from) {
			c.add(path, "ends before it begins", "swap from and to")
		}
	}
	ranges("dynamic", s.Dynamic)
	ranges("static", s.Static)
	if s.Discovery && s.Dynamic == nil {
		c.add("discovery", "has no addresses to give", "set dynamic too")
	}
	if s.Dynamic != nil && s.Static != nil && s.Dynamic.overlaps(*s.Static) {
		c.add("static", "overlaps the dynamic range", "keep them apart")
	}
}

// Contains tells whether a lies in r; false when r does not parse.
func (r AddrRange) Contains(a netip.Addr) bool {
	from, err1 := netip.ParseAddr(r.From)
	to, err2 := netip.ParseAddr(r.To)
	return err1 == nil && err2 == nil && !a.Less(from) && !to.Less(a)
}

func (r AddrRange) overlaps(o AddrRange) bool {
	from, err := netip.ParseAddr(o.From)
	mine, err2 := netip.ParseAddr(r.From)
	return (err == nil && r.Contains(from)) || (err2 == nil && o.Contains(mine))
}

// MaxAssetSize bounds one asset, in octets: 1 TiB.
const MaxAssetSize = 1 << 40

// AssetSpec is immutable bytes by digest.
type AssetSpec struct {
	Digest   Digest `json:"digest"`
	Size     uint64 `json:"size"`
	Manifest Digest `json:"manifest"`
	Class    string `json:"class"` // boot, image, other
	// Pin says where it is kept while nothing uses it; nil: at every site. Where something uses it, it is kept in any case.
	Pin *AssetPin `json:"pin,omitempty"`
	// Sources are where its octets lie as they are, besides the coordinator; at most MaxSources, of different hosts.
	Sources []AssetSource `json:"sources,omitempty"`
}

// AssetSource is a URL that agents may read parts of.
type AssetSource struct {
	URL       string `json:"url"`
	Validator string `json:"validator,omitempty"` // strong ETag or Last-Modified that the file had when it was registered
}

// MaxSources is how many URLs an asset may have.
const MaxSources = 4

// AssetPin names the sites that keep an asset that they do not use.
type AssetPin struct {
	Sites []string `json:"sites,omitempty"` // at most MaxPinned; empty: none
}

// MaxPinned is at how many sites an asset can be pinned by name.
const MaxPinned = 4096

// KeptAt tells whether a site keeps the asset while nothing there uses it.
func (s *AssetSpec) KeptAt(site string) bool {
	return s.Pin == nil || slices.Contains(s.Pin.Sites, site)
}

func (s *AssetSpec) validate(c *checker) {
	if s.Digest.IsZero() {
		c.add("digest", "is missing", "`skerry asset upload FILE` makes the asset and its document")
	}
	if s.Manifest.IsZero() {
		c.add("manifest", "is missing", "`skerry asset upload FILE` makes the asset and its document")
	}
	if s.Size == 0 || s.Size > MaxAssetSize {
		c.add("size", fmt.Sprintf("%d is out of range", s.Size), "1 octet to 1 TiB")
	}
	c.oneOf("class", s.Class, "boot", "image", "other")
	s.validateSources(c)
	if s.Pin == nil {
		return
	}
	if len(s.Pin.Sites) > MaxPinned {
		c.add("pin.sites", fmt.Sprintf("%d sites, more than %d", len(s.Pin.Sites), MaxPinned), "leave `pin` away: then every site keeps it")
	}
	for i, site := range s.Pin.Sites {
		c.label(fmt.Sprintf("pin.sites[%d]", i), site)
	}
}

func (s *AssetSpec) validateSources(c *checker) {
	if len(s.Sources) > MaxSources {
		c.add("sources", fmt.Sprintf("more than %d", MaxSources), "remove some")
	}
	hosts := map[string]bool{}
	for i, src := range s.Sources {
		c, host := c.below(fmt.Sprintf("sources[%d]", i)), weburl.Host(src.URL)
		if why := weburl.Check(src.URL); why != "" || hosts[host] {
			c.add("url", cmp.Or(why, "another source has the same host"), "give the URL of another host, like https://mirror.example/image.raw")
		}
		hosts[host] = true
		c.text("validator", src.Validator, 256)
	}
}

// ImageSpec is an installable operating system.
type ImageSpec struct {
	Asset       string   `json:"asset"` // name of an Asset of class image
	OS          string   `json:"os,omitempty"`
	Version     string   `json:"version,omitempty"`
	Boot        []string `json:"boot"`   // bios, uefi
	Format      string   `json:"format"` // raw
	DefaultUser string   `json:"defaultUser,omitempty"`
	MinDiskSize uint64   `json:"minDiskBytes,omitempty"` // default: the asset's size + 32 MiB
	Verify      string   `json:"verify,omitempty"`       // full (default), sample
}

func (s *ImageSpec) validate(c *checker) {
	c.label("asset", s.Asset)
	c.text("os", s.OS, 63)
	c.text("version", s.Version, 63)
	if len(s.Boot) == 0 {
		c.add("boot", "is empty", "name bios, uefi or both")
	}
	for i, b := range s.Boot {
		c.oneOf(fmt.Sprintf("boot[%d]", i), b, "bios", "uefi")
	}
	c.oneOf("format", s.Format, "raw")
	if s.DefaultUser != "" && !IsLabel(s.DefaultUser) {
		c.add("defaultUser", fmt.Sprintf("%q is not a user name", clip(s.DefaultUser, 40)), "use a-z, 0-9 and -")
	}
	c.oneOf("verify", cmp.Or(s.Verify, "full"), "full", "sample")
}

// SecretSpec holds values that only the readers' agents ever see: Data is written, sealed and never returned.
type SecretSpec struct {
	Type string            `json:"type"`           // bmc, snmp, opaque
	Data map[string]string `json:"data,omitempty"` // write only: answers never carry it
	Ver  uint64            `json:"version,omitempty"`
}

// MaxSecret bounds the JSON of one secret's values, in octets: what pki/seal seals at once.
const MaxSecret = 64 << 10

func (s *SecretSpec) validate(c *checker) {
	c.oneOf("type", s.Type, "bmc", "snmp", "opaque")
	if len(s.Data) > 32 {
		c.add("data", "more than 32 values", "split the secret")
	}
	if b, err := json.Marshal(s.Data); err != nil || len(b) > MaxSecret {
		c.add("data", fmt.Sprintf("%d octets in all", len(b)), fmt.Sprintf("at most %d: split the secret", MaxSecret))
	}
	for _, k := range slices.Sorted(maps.Keys(s.Data)) {
		v := s.Data[k]
		if !IsLabel(k) || len(v) > 8192 {
			c.add("data", fmt.Sprintf("value %q is refused", clip(k, 40)), "names of a-z, 0-9, -; values up to 8192 octets")
		}
	}
	if s.Type == "snmp" && len(s.Data) > 0 && s.Data["community"] == "" && (s.Data["username"] == "" || len(s.Data["auth-password"]) < 8 || len(s.Data["priv-password"]) < 8) {
		c.add("data", "an snmp secret lacks community (version 2c), or username, auth-password and priv-password of 8 characters or more (version 3)", "give one or the other")
	}
	if s.Type == "bmc" && len(s.Data) > 0 && (s.Data["username"] == "" || s.Data["password"] == "") {
		c.add("data", "a bmc secret lacks username or password", "give both")
	}
}
