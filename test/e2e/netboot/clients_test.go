package netboot

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/ipxe"
)

func two(act ipxe.Act) []child {
	return []child{
		{Self: "a1", Addr: netip.MustParseAddr("10.88.0.11"), Act: act, RA: true},
		{Self: "a2", Addr: netip.MustParseAddr("10.88.0.12"), Act: act, RA: true},
	}
}

// TestUdhcpc: busybox's client, known and unknown, with two agents that both answer.
func TestUdhcpc(t *testing.T) {
	need(t, "udhcpc", "udhcpc", "ethtool", "ethtool")
	b := newBench(t, two(ipxe.ActLocal)...)
	script := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ $1 = bound ] && env >&2\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := func(mac string, want ...string) string {
		t.Helper()
		run(t, "ip", "-n", b.ns("c"), "link", "set", "e0", "address", mac)
		start := time.Now()
		out := run(t, "ip", "netns", "exec", b.ns("c"), "udhcpc", "-f", "-q", "-n", "-i", "e0", "-s", script, "-t", "5", "-T", "1", "-R")
		t.Logf("bound after %v", time.Since(start))
		for _, w := range want {
			if !strings.Contains(out, w+"\n") {
				t.Fatalf("no %s in\n%s", w, out)
			}
		}
		b.drain()
		return out
	}
	f("52:54:00:00:00:01", "ip=10.88.0.21", "subnet=255.255.255.0", "router=10.88.0.1", "hostname=m1", "lease=86400")
	first := f("52:54:00:00:07:01", "lease=14400")
	again := f("52:54:00:00:07:01")
	if line(first, "ip=") != line(again, "ip=") {
		t.Fatalf("the same stranger got %s, then %s", line(first, "ip="), line(again, "ip="))
	}
	if other := f("52:54:00:00:07:02"); line(other, "ip=") == line(first, "ip=") {
		t.Fatalf("two strangers got %s", line(other, "ip="))
	}
}

func line(out, prefix string) string {
	for _, l := range strings.Split(out, "\n") {
		if strings.HasPrefix(l, prefix) {
			return l
		}
	}
	return ""
}

// TestDhclient: ISC's client binds, then asks for the wrong address and is corrected.
func TestDhclient(t *testing.T) {
	need(t, "dhclient", "isc-dhcp-client", "ethtool", "ethtool")
	b := newBench(t, two(ipxe.ActLocal)...)
	dir := t.TempDir()
	lease := filepath.Join(dir, "leases")
	cmd := exec.Command("ip", "netns", "exec", b.ns("c"), "dhclient", "-4", "-1", "-v", "-lf", lease, "-pf", filepath.Join(dir, "pid"), "-sf", "/bin/true", "e0")
	out, err := cmd.CombinedOutput()
	stopPid(t, filepath.Join(dir, "pid"))
	if err != nil || !strings.Contains(string(out), "bound to 10.88.0.21") {
		t.Fatalf("%v\n%s", err, out)
	}
	// The lease file now claims another address: INIT-REBOOT must be refused and the right one given.
	text, err := os.ReadFile(lease)
	if err != nil {
		t.Fatal(err)
	}
	wrong := strings.ReplaceAll(string(text), "fixed-address 10.88.0.21", "fixed-address 10.88.0.77")
	if err := os.WriteFile(lease, []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("ip", "netns", "exec", b.ns("c"), "dhclient", "-4", "-1", "-v", "-lf", lease, "-pf", filepath.Join(dir, "pid"), "-sf", "/bin/true", "e0")
	out, err = cmd.CombinedOutput()
	stopPid(t, filepath.Join(dir, "pid"))
	if err != nil || !strings.Contains(string(out), "DHCPNAK") || !strings.Contains(string(out), "bound to 10.88.0.21") {
		t.Fatalf("%v\n%s", err, out)
	}
	b.drain()
}

// stopPid ends the daemon that wrote its pid there.
func stopPid(t *testing.T, path string) {
	t.Helper()
	pid, err := os.ReadFile(path)
	if err != nil {
		return
	}
	exec.Command("kill", strings.TrimSpace(string(pid))).Run()
}

// TestTransfer: a loader by TFTP and HTTP, as other people's clients fetch it.
func TestTransfer(t *testing.T) {
	need(t, "atftp", "atftp", "curl", "curl", "/usr/lib/ipxe/undionly.kpxe", "ipxe", "ethtool", "ethtool")
	b := newBench(t, two(ipxe.ActLocal)[:1]...)
	run(t, "ip", "-n", b.ns("c"), "addr", "add", "10.88.0.50/24", "dev", "e0")
	dir := t.TempDir()
	want, err := os.ReadFile("/usr/lib/ipxe/undionly.kpxe")
	if err != nil {
		t.Fatal(err)
	}
	got := filepath.Join(dir, "got")
	f := func(args ...string) {
		t.Helper()
		run(t, append([]string{"ip", "netns", "exec", b.ns("c")}, args...)...)
		if b, err := os.ReadFile(got); err != nil || string(b) != string(want) {
			t.Fatalf("%v: %d octets, %v", args, len(b), err)
		}
		os.Remove(got)
	}
	f("atftp", "-g", "-r", `\UNDIONLY.kpxe`, "-l", got, "--option", "blksize 1468", "10.88.0.11")
	f("atftp", "-g", "-r", "undionly.kpxe", "-l", got, "10.88.0.11")
	f("curl", "-sSf", "-o", got, "http://10.88.0.11:7480/loaders/undionly.kpxe")
	out, err := exec.Command("ip", "netns", "exec", b.ns("c"), "atftp", "-p", "-l", "/usr/lib/ipxe/undionly.kpxe", "-r", "x", "10.88.0.11").CombinedOutput()
	if err == nil && !strings.Contains(string(out), "rror") {
		t.Fatalf("a write was taken: %s", out)
	}
	b.drain()
}
