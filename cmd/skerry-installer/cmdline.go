package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// settings is what the boot script tells on the kernel command line.
type settings struct {
	agents []string
	pins   []string
	token  string // "": nobody knows this machine
	addr   netip.Prefix
	gw     netip.Addr // invalid = none
	mac    net.HardwareAddr
}

// parseCmdline reads skerry.agents, skerry.pin, skerry.token, skerry.ip, skerry.gw and BOOTIF=01-aa-bb-cc-dd-ee-ff. A
// stranger has no skerry.token; a token that is given is not empty. Other words are the kernel's own.
func parseCmdline(line string) (settings, error) {
	var s settings
	var errs []error
	for _, word := range strings.Fields(line) {
		k, v, _ := strings.Cut(word, "=")
		var err error
		switch k {
		case "skerry.agents":
			s.agents = list(v)
		case "skerry.pin":
			s.pins = list(v)
		case "skerry.token":
			if s.token = v; v == "" {
				err = errors.New("it is empty")
			}
		case "skerry.ip":
			s.addr, err = netip.ParsePrefix(v)
		case "skerry.gw":
			if v != "" {
				s.gw, err = netip.ParseAddr(v)
			}
		case "BOOTIF":
			s.mac, err = net.ParseMAC(strings.ReplaceAll(strings.TrimPrefix(v, "01-"), "-", ":"))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot read %s: %w", k, err))
		}
	}
	for _, m := range []struct {
		missing bool
		name    string
	}{
		{len(s.agents) == 0, "skerry.agents"},
		{len(s.pins) == 0, "skerry.pin"},
		{!s.addr.IsValid() || !s.addr.Addr().Is4(), "skerry.ip (IPv4)"},
		{len(s.mac) != 6, "BOOTIF"},
	} {
		if m.missing {
			errs = append(errs, fmt.Errorf("cannot go on without %s on the kernel command line", m.name))
		}
	}
	return s, errors.Join(errs...)
}

func list(v string) []string {
	return strings.FieldsFunc(v, func(c rune) bool { return c == ',' })
}
