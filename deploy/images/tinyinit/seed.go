package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
)

// instance is what a NoCloud seed asks for. Source: cloud-init's documentation, NoCloud and network-config version 2.
type instance struct {
	id, hostname string
	users        []user
	nics         []nic
	phoneHome    []string // URLs; the first that hears us is enough
}

type user struct {
	Name string   `yaml:"name"`
	Keys []string `yaml:"ssh_authorized_keys"`
}

type nic struct {
	mac   net.HardwareAddr
	name  string // when no MAC is matched
	dhcp  bool
	addrs []netip.Prefix
	gw    netip.Addr
	dns   []string
}

// cloudConfig is the part of user-data and vendor-data that we know; cloud-init knows much more.
type cloudConfig struct {
	Hostname  string   `yaml:"hostname"`
	Keys      []string `yaml:"ssh_authorized_keys"`
	Users     []any    `yaml:"users"` // maps, or the word default
	PhoneHome struct {
		URL string `yaml:"url"`
	} `yaml:"phone_home"`
	PhoneHomes []string `yaml:"skerry_phone_home"`
}

type networkConfig struct {
	Version   int                 `yaml:"version"`
	Ethernets map[string]ethernet `yaml:"ethernets"`
	Network   *networkConfig      `yaml:"network"` // netplan's form, one level deeper
}

type ethernet struct {
	Match struct {
		MAC string `yaml:"macaddress"`
	} `yaml:"match"`
	DHCP4       bool     `yaml:"dhcp4"`
	Addresses   []string `yaml:"addresses"`
	Gateway4    string   `yaml:"gateway4"`
	Nameservers struct {
		Addresses []string `yaml:"addresses"`
	} `yaml:"nameservers"`
	Routes []struct {
		To  string `yaml:"to"`
		Via string `yaml:"via"`
	} `yaml:"routes"`
}

// readSeed reads the files of a seed directory. Only meta-data must be there.
func readSeed(dir string) (*instance, error) {
	in := &instance{}
	var meta struct {
		ID       string `yaml:"instance-id"`
		Hostname string `yaml:"local-hostname"`
	}
	if err := readYAML(dir, "meta-data", &meta, true); err != nil {
		return nil, err
	}
	in.id, in.hostname = meta.ID, meta.Hostname
	for _, name := range []string{"vendor-data", "user-data"} { // the user's word comes last and wins
		var c cloudConfig
		if err := readYAML(dir, name, &c, false); err != nil {
			return nil, err
		}
		if err := in.apply(&c); err != nil {
			return nil, fmt.Errorf("cannot use %s: %w", name, err)
		}
	}
	var n networkConfig
	if err := readYAML(dir, "network-config", &n, false); err != nil {
		return nil, err
	}
	if n.Network != nil {
		n = *n.Network
	}
	for name, e := range n.Ethernets {
		c, err := e.nic(name)
		if err != nil {
			return nil, fmt.Errorf("cannot use network-config: %s: %w", name, err)
		}
		in.nics = append(in.nics, c)
	}
	return in, nil
}

func readYAML(dir, name string, v any, must bool) error {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) && !must {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read seed: %w", err)
	}
	if name == "user-data" && len(b) > 0 && !strings.HasPrefix(string(b), "#cloud-config") {
		return nil // a script: not for us
	}
	if err := yaml.Unmarshal(b, v); err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	return nil
}

func (in *instance) apply(c *cloudConfig) error {
	if c.Hostname != "" {
		in.hostname = c.Hostname
	}
	if c.PhoneHome.URL != "" {
		in.phoneHome = []string{strings.ReplaceAll(c.PhoneHome.URL, "$INSTANCE_ID", in.id)}
	}
	if len(c.PhoneHomes) > 0 {
		in.phoneHome = c.PhoneHomes
	}
	if len(c.Keys) > 0 {
		in.users = append(in.users, user{"skerry", c.Keys})
	}
	for _, u := range c.Users {
		b, err := yaml.Marshal(u)
		if err != nil {
			return err
		}
		var one user
		if yaml.Unmarshal(b, &one) != nil || one.Name == "" {
			continue // the word "default"
		}
		if strings.ContainsAny(one.Name, "/:\n\x00") || one.Name[0] == '.' {
			return fmt.Errorf("user name %q", one.Name)
		}
		in.users = append(in.users, one)
	}
	return nil
}

func (e *ethernet) nic(name string) (nic, error) {
	n := nic{name: name, dhcp: e.DHCP4, dns: e.Nameservers.Addresses}
	var err error
	if e.Match.MAC != "" {
		if n.mac, err = net.ParseMAC(e.Match.MAC); err != nil {
			return n, err
		}
	}
	for _, a := range e.Addresses {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return n, err
		}
		n.addrs = append(n.addrs, p)
	}
	gw := e.Gateway4
	for _, r := range e.Routes {
		if r.To == "default" || r.To == "0.0.0.0/0" {
			gw = r.Via
		}
	}
	if gw != "" {
		if n.gw, err = netip.ParseAddr(gw); err != nil {
			return n, err
		}
	}
	return n, nil
}
