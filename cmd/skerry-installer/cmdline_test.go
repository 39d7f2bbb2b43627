package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseCmdline(t *testing.T) {
	base := "BOOT_IMAGE=vmlinuz initrd=ramdisk.gz console=tty0 console=ttyS0 skerry.agents=10.88.0.11:7444,10.88.0.12:7444 " +
		"skerry.pin=aa,bb skerry.token=v1.abc skerry.ip=10.88.0.21/24 skerry.gw=10.88.0.1 BOOTIF=01-52-54-00-88-00-21\n"
	f := func(want, from, to string) {
		t.Helper()
		s, err := parseCmdline(strings.Replace(base, from, to, 1))
		got := fmt.Sprintf("%v %v %s %v %v %v", s.agents, s.pins, s.token, s.addr, s.gw, s.mac)
		if err != nil {
			got = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		if got != want {
			t.Errorf("%s -> %s:\n got %s\nwant %s", from, to, got, want)
		}
	}
	f("[10.88.0.11:7444 10.88.0.12:7444] [aa bb] v1.abc 10.88.0.21/24 10.88.0.1 52:54:00:88:00:21", "", "")
	f("[10.88.0.11:7444 10.88.0.12:7444] [aa bb] v1.abc 10.88.0.21/24 invalid IP 52:54:00:88:00:21", " skerry.gw=10.88.0.1", " skerry.gw=")
	f("[10.88.0.11:7444 10.88.0.12:7444] [aa bb]  10.88.0.21/24 10.88.0.1 52:54:00:88:00:21", "skerry.token=v1.abc ", "") // a stranger
	f("cannot read skerry.token: it is empty", "skerry.token=v1.abc", "skerry.token=")
	f("cannot go on without skerry.pin on the kernel command line", "skerry.pin=aa,bb", "skerry.pin=,")
	f("cannot go on without skerry.ip (IPv4) on the kernel command line", "10.88.0.21/24", "fd00::1/64")
	f(`cannot read skerry.ip: netip.ParsePrefix("x"): no '/'; cannot go on without skerry.ip (IPv4) on the kernel command line`, "10.88.0.21/24", "x")
	f("cannot read BOOTIF: address 52:54: invalid MAC address; cannot go on without BOOTIF on the kernel command line", "-00-88-00-21", "")
}
