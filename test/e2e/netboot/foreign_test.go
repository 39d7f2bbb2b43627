package netboot

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/ipxe"
)

// auto are two agents that yield to another DHCP server.
func auto(act ipxe.Act) []child {
	cs := two(act)
	for i := range cs {
		cs[i].Auto, cs[i].Bare = true, true
	}
	return cs
}

// dnsmasq starts it in namespace d as the DHCP server of the rack: addresses only, 10.88.0.150 to .199.
func (r *rack) dnsmasq() {
	r.netns("d")
	r.plug("d", peerAddr+"/24")
	r.serve("dnsmasq", "--conf-file=/dev/null", "--port=0", "--keep-in-foreground", "--user=root", "--interface=e0", "--bind-interfaces", "--no-ping",
		"--dhcp-authoritative", "--leasefile-ro", "--dhcp-range=10.88.0.150,10.88.0.199,255.255.255.0", "--dhcp-option=3,"+peerAddr)
}

// kea starts kea-dhcp4 there likewise.
func (r *rack) kea() {
	r.netns("d")
	r.plug("d", peerAddr+"/24")
	dir := r.t.TempDir()
	conf := filepath.Join(dir, "k.json")
	text := `{"Dhcp4":{"interfaces-config":{"interfaces":["e0"]},"lease-database":{"type":"memfile","persist":false},
		"subnet4":[{"id":1,"subnet":"10.88.0.0/24","pools":[{"pool":"10.88.0.150-10.88.0.199"}]}]}}`
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	r.t.Setenv("KEA_PIDFILE_DIR", dir)
	r.t.Setenv("KEA_LOCKFILE_DIR", dir)
	r.serve("kea-dhcp4", "-c", conf)
}

// udhcpc binds in the client's namespace under a MAC address, and returns what it was told.
func (r *rack) udhcpc(mac string) string {
	r.t.Helper()
	run(r.t, "ip", "-n", r.ns("c"), "link", "set", "e0", "address", mac)
	return run(r.t, "ip", "netns", "exec", r.ns("c"), "udhcpc", "-f", "-q", "-n", "-i", "e0", "-s", r.script(), "-t", "8", "-T", "1", "-R")
}

// script prints what udhcpc was told, and sets the address, so that the client can renew by unicast.
func (r *rack) script() string {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "s")
	text := "#!/bin/sh\ncase $1 in bound|renew) ip addr flush dev e0; ip addr add $ip/24 dev e0; env >&2;; deconfig) ip addr flush dev e0;; esac\nexit 0\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// modes waits until both agents are in a mode, and returns what they say of the other server.
func (r *rack) modes(mode string) string {
	r.t.Helper()
	is := func(event) bool { return r.mode["a1"].What == "mode "+mode && r.mode["a2"].What == "mode "+mode }
	if !is(event{}) {
		r.wait(60*time.Second, is)
	}
	return r.mode["a1"].Detail
}

// TestYieldsToDnsmasq: agents that start beside dnsmasq find it by asking, and only it gives addresses, to known machines too.
func TestYieldsToDnsmasq(t *testing.T) {
	need(t, "dnsmasq", "dnsmasq-base", "udhcpc", "udhcpc", "ethtool", "ethtool")
	b := newBench(t)
	b.dnsmasq()
	b.join(auto(ipxe.ActLocal)...)
	if whose := b.modes("proxy"); !strings.Contains(whose, "10.88.0.1 at ") {
		t.Fatalf("whose it is: %q", whose)
	}
	for _, mac := range []string{"52:54:00:00:00:01", "52:54:00:00:07:01"} {
		if out := b.udhcpc(mac); line(out, "serverid=") != "serverid=10.88.0.1" {
			t.Fatalf("%s was served by %s", mac, line(out, "serverid="))
		}
	}
	for _, e := range b.drain() {
		if strings.Contains(e.What, "offer") || strings.HasSuffix(e.What, "ack") || strings.HasSuffix(e.What, "nak") {
			t.Errorf("answered beside dnsmasq: %+v", e)
		}
	}
}

// TestYieldsToKea: the same with kea, which comes after us: a client that chooses it tells.
func TestYieldsToKea(t *testing.T) {
	need(t, "kea-dhcp4", "kea-dhcp4-server", "udhcpc", "udhcpc", "ethtool", "ethtool")
	b := newBench(t, auto(ipxe.ActLocal)...)
	b.modes("authoritative")
	run(t, "ip", "-n", b.ns("c"), "link", "set", "e0", "address", "52:54:00:00:00:01")
	client := exec.Command("ip", "netns", "exec", b.ns("c"), "udhcpc", "-f", "-n", "-i", "e0", "-s", b.script(), "-t", "5", "-T", "1", "-R")
	client.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Process.Kill(); client.Wait() })
	b.wait(20*time.Second, func(e event) bool { return e.What == "dhcp REQUEST ack" })
	b.kea()
	// Another client, on a wire of its own, that only kea serves.
	b.netns("x")
	b.plug("x", "")
	run(t, "ip", "-n", b.ns("x"), "link", "set", "e0", "address", "52:54:00:00:07:01")
	out := run(t, "ip", "netns", "exec", b.ns("x"), "udhcpc", "-f", "-q", "-n", "-i", "e0", "-s", b.script(), "-t", "20", "-T", "1", "-R")
	if line(out, "serverid=") != "serverid=10.88.0.1" {
		t.Fatalf("served by %s", line(out, "serverid="))
	}
	b.modes("proxy")
	if err := client.Process.Signal(syscall.SIGUSR1); err != nil { // renew now
		t.Fatal(err)
	}
	b.wait(20*time.Second, func(e event) bool { return e.What == "dhcp REQUEST ack" && e.MAC == "52:54:00:00:00:01" })
	b.drain()
}

// TestBootsBesideDnsmasq: each firmware takes its address from dnsmasq and its loader and script from us.
func TestBootsBesideDnsmasq(t *testing.T) {
	needQEMU(t)
	need(t, "dnsmasq", "dnsmasq-base")
	for _, f := range []firmware{bios(), uefi(t, false), uefi(t, true)} {
		t.Run(f.name, func(t *testing.T) {
			b := newBench(t)
			b.dnsmasq()
			b.join(auto(ipxe.ActInstaller)...)
			b.modes("proxy")
			start := time.Now()
			b.power(f, console(t))
			e := b.wait(bootLimit, func(e event) bool { return e.What == "script" })
			t.Logf("%s: power-on to script %.1f s", f.name, time.Since(start).Seconds())
			from, err := netip.ParseAddr(e.Detail)
			if err != nil || from.Unmap().Less(netip.MustParseAddr("10.88.0.150")) {
				t.Errorf("the machine asks from %s: not an address of dnsmasq's", e.Detail)
			}
			b.wait(bootLimit, func(e event) bool { return e.What == "http asset" && e.MAC == kernelID().Hex() })
			for _, e := range b.drain() {
				if strings.Contains(e.What, "offer") || e.What == "dhcp REQUEST ack" {
					t.Errorf("an address beside dnsmasq: %s", fmt.Sprint(e))
				}
			}
		})
	}
}
