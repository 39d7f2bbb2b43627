package metadata

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// Instance is what a machine is told about itself.
type Instance struct {
	ID       string // instance-id: changes with each installation, or cloud-init does not run again
	Hostname string // one DNS label
	Domain   string // "" none
	User     string // default user, from the image; gets the keys and sudo
	SSHKeys  []string
	UserData string // as the user gave it, with its first line (#cloud-config, #!...); "" none
	// SecretUserData keeps UserData off plain HTTP: the seed on disk has it, the network does not.
	SecretUserData bool
	NICs           []NIC
	// PhoneHome are URLs, one per agent, that the machine posts to once it is up; the first that hears it is enough.
	PhoneHome []string
}

// NIC is one interface.
type NIC struct {
	MAC     string // lower case, colons
	Addrs   []netip.Prefix
	Gateway netip.Addr // may be zero
	DNS     []netip.Addr
	Search  []string
	MTU     uint16 // 0: not set
	DHCP    bool   // instead of Addrs
}

// Documents are the four files of a NoCloud seed.
type Documents struct {
	MetaData, UserData, VendorData, NetworkConfig string
}

// Files returns the documents by file name.
func (d Documents) Files() map[string]string {
	return map[string]string{"meta-data": d.MetaData, "user-data": d.UserData, "vendor-data": d.VendorData, "network-config": d.NetworkConfig}
}

const emptyCloudConfig = "#cloud-config\n{}\n"

// Render writes the documents. User and keys are vendor data, so that a user's own `users:` wins, as cloud-init defines it.
// Source: cloud-init 22.4, "NoCloud", "Networking config Version 2", module phone_home.
func Render(in Instance) Documents {
	d := Documents{MetaData: metaData(in), UserData: in.UserData, VendorData: vendorData(in), NetworkConfig: networkConfig(in)}
	if d.UserData == "" {
		d.UserData = emptyCloudConfig
	}
	return d
}

// quote writes a YAML double-quoted scalar: JSON's string form is one.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil { // cannot happen for a string
		return `""`
	}
	return string(b)
}

func metaData(in Instance) string {
	return fmt.Sprintf("instance-id: %s\nlocal-hostname: %s\n", quote(in.ID), quote(in.Hostname))
}

func vendorData(in Instance) string {
	var b strings.Builder
	b.WriteString("#cloud-config\n")
	fmt.Fprintf(&b, "hostname: %s\n", quote(in.Hostname))
	if in.Domain != "" {
		fmt.Fprintf(&b, "fqdn: %s\n", quote(in.Hostname+"."+in.Domain))
	}
	if in.User != "" {
		fmt.Fprintf(&b, "users:\n  - name: %s\n    shell: \"/bin/bash\"\n    sudo: \"ALL=(ALL) NOPASSWD:ALL\"\n    lock_passwd: true\n", quote(in.User))
		if len(in.SSHKeys) > 0 {
			b.WriteString("    ssh_authorized_keys:\n")
			for _, k := range in.SSHKeys {
				fmt.Fprintf(&b, "      - %s\n", quote(k))
			}
		}
	}
	b.WriteString("growpart:\n  mode: \"auto\"\n  devices: [\"/\"]\n")
	phoneHome(&b, in.PhoneHome)
	return b.String()
}

// phoneHome writes cloud-init's own module for the first URL, which knows one only, and a command that tries the others: the
// agent that wrote the seed may be dead when the machine first boots.
func phoneHome(b *strings.Builder, urls []string) {
	if len(urls) == 0 {
		return
	}
	fmt.Fprintf(b, "phone_home:\n  url: %s\n  post:\n    - \"instance_id\"\n    - \"hostname\"\n  tries: 10\n", quote(urls[0]))
	if len(urls) == 1 {
		return
	}
	b.WriteString("skerry_phone_home:\n")
	for _, u := range urls {
		fmt.Fprintf(b, "  - %s\n", quote(u))
	}
	b.WriteString("runcmd:\n")
	for _, u := range urls[1:] {
		fmt.Fprintf(b, "  - [\"python3\", \"-c\", \"import socket,sys,urllib.request as r,urllib.parse as p; r.urlopen(sys.argv[1], p.urlencode({'hostname': socket.gethostname()}).encode(), 10)\", %s]\n", quote(u))
	}
}

func networkConfig(in Instance) string {
	var b strings.Builder
	b.WriteString("version: 2\nethernets:\n")
	if len(in.NICs) == 0 {
		return "version: 2\nethernets: {}\n"
	}
	for i, n := range in.NICs {
		fmt.Fprintf(&b, "  nic%d:\n    match:\n      macaddress: %s\n    dhcp4: %v\n", i, quote(n.MAC), n.DHCP)
		if n.MTU != 0 {
			fmt.Fprintf(&b, "    mtu: %d\n", n.MTU)
		}
		list(&b, "    ", "addresses", texts(n.Addrs))
		if n.Gateway.IsValid() {
			fmt.Fprintf(&b, "    routes:\n      - to: \"0.0.0.0/0\"\n        via: %s\n", quote(n.Gateway.String()))
		}
		if len(n.DNS)+len(n.Search) > 0 {
			b.WriteString("    nameservers:\n")
			list(&b, "      ", "addresses", texts(n.DNS))
			list(&b, "      ", "search", n.Search)
		}
	}
	return b.String()
}

func texts[T fmt.Stringer](l []T) []string {
	var out []string
	for _, v := range l {
		out = append(out, v.String())
	}
	return out
}

func list(b *strings.Builder, indent, key string, l []string) {
	if len(l) == 0 {
		return
	}
	fmt.Fprintf(b, "%s%s:\n", indent, key)
	for _, v := range l {
		fmt.Fprintf(b, "%s  - %s\n", indent, quote(v))
	}
}
