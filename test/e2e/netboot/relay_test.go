package netboot

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/ipxe"
)

// farRelay is the relay's address towards its clients, and what it writes into giaddr.
const farRelay = "10.90.0.1"

// TestRelay: ISC's relay between udhcpc and two agents: addresses of the far subnet, by unicast over a router, and the port's name as
// evidence.
func TestRelay(t *testing.T) {
	need(t, "dhcrelay", "isc-dhcp-relay", "udhcpc", "udhcpc", "ethtool", "ethtool")
	cs := two(ipxe.ActLocal)
	cs[0].Far, cs[1].Far = true, true
	b := newBench(t, cs...)
	b.netns("y") // the relay: e0 in the rack, e1 towards the far client x
	b.plug("y", "10.88.0.5/24")
	b.netns("x")
	run(t, "ip", "link", "add", "e0", "netns", b.ns("x"), "type", "veth", "peer", "name", "port7", "netns", b.ns("y"))
	run(t, "ip", "-n", b.ns("x"), "link", "set", "e0", "up")
	run(t, "ip", "-n", b.ns("y"), "addr", "add", farRelay+"/24", "dev", "port7")
	run(t, "ip", "-n", b.ns("y"), "link", "set", "port7", "up")
	run(t, "ip", "netns", "exec", b.ns("y"), "sysctl", "-qw", "net.ipv4.ip_forward=1")
	for _, a := range []string{"a1", "a2"} {
		run(t, "ip", "-n", b.ns(a), "route", "add", "10.90.0.0/24", "via", "10.88.0.5")
	}
	for _, n := range []string{"x", "y"} {
		run(t, "ip", "netns", "exec", b.ns(n), "ethtool", "-K", "e0", "tx", "off")
	}
	run(t, "ip", "netns", "exec", b.ns("y"), "ethtool", "-K", "port7", "tx", "off")
	relay := exec.Command("ip", "netns", "exec", b.ns("y"), "dhcrelay", "-d", "-4", "-a", "-m", "replace", "-id", "port7", "-iu", "e0", "10.88.0.11", "10.88.0.12")
	relay.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Process.Kill(); relay.Wait() })
	bind := func(mac string) string {
		t.Helper()
		run(t, "ip", "-n", b.ns("x"), "link", "set", "e0", "address", mac)
		return run(t, "ip", "netns", "exec", b.ns("x"), "udhcpc", "-f", "-q", "-n", "-i", "e0", "-s", b.script(), "-t", "10", "-T", "1", "-R")
	}
	if out := bind("52:54:00:00:00:01"); line(out, "ip=") != "ip=10.90.0.21" || line(out, "router=") != "router="+farRelay {
		t.Fatalf("%s", out)
	}
	b.wait(10*time.Second, func(e event) bool { return e.What == "dhcp REQUEST ack" && strings.HasSuffix(e.Detail, "port7") })
	if out := bind("52:54:00:00:07:01"); !strings.HasPrefix(line(out, "ip="), "ip=10.90.0.1") || line(out, "lease=") != "lease=14400" {
		t.Fatalf("%s", out)
	}
	b.drain()
}
