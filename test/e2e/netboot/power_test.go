package netboot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/ipxe"
	"github.com/skerry-metal/skerry/test/bench"
)

const (
	vmlinuz  = "../../../out/vmlinuz"
	ramdisk  = "../../../out/ramdisk.gz"
	firstRow = "skerry-installer started" // the installer's first line
	rounds   = 3
	peerAddr = "10.88.0.1"
)

// BenchmarkPowerOn: a BIOS machine from power-on to the installer's first line on the serial console, by our two agents, and
// by dnsmasq with a static iPXE script from nginx: the same machine, kernel, ramdisk and command line, in turn.
func BenchmarkPowerOn(b *testing.B) {
	needQEMU(b)
	need(b, "dnsmasq", "dnsmasq-base", "nginx", "nginx-light", vmlinuz, "the kernel by `make ramdisk`", ramdisk, "it by `make ramdisk`")
	for name, path := range map[string]string{"KERNEL": vmlinuz, "RAMDISK": ramdisk} {
		abs, err := filepath.Abs(path)
		if err != nil {
			b.Fatal(err)
		}
		b.Setenv("SKERRY_NETBOOT_"+name, abs)
	}
	var ours, peer []time.Duration
	for i := range rounds {
		b.Run(fmt.Sprintf("ours%d", i), func(b *testing.B) {
			ours = append(ours, powerOn(b, newBench(b, two(ipxe.ActInstaller)...)))
		})
		b.Run(fmt.Sprintf("dnsmasq%d", i), func(b *testing.B) {
			r := newBench(b)
			r.peer()
			peer = append(peer, powerOn(b, r))
		})
	}
	if len(ours) != rounds || len(peer) != rounds {
		b.Fatal("not every boot reached the installer")
	}
	o, p := bench.Quantile(ours, 0.5), bench.Quantile(peer, 0.5)
	bench.Figure(os.Stdout, fmt.Sprintf("power-on to installer, BIOS under TCG, median of %d", rounds), bench.Seconds(o), bench.Seconds(p)+" (dnsmasq, nginx)",
		fmt.Sprintf("%.2f", o.Seconds()/p.Seconds()), "<= 1.3")
	b.Logf("ours %v, dnsmasq %v", ours, peer)
}

func powerOn(b *testing.B, r *rack) time.Duration {
	b.Helper()
	c := console(b)
	start := time.Now()
	r.power(bios(), c)
	waitText(b, c.Name(), firstRow, bootLimit)
	return time.Since(start)
}

// peer plugs a namespace with dnsmasq and nginx into the rack. Its script and command line are ours, written out.
func (r *rack) peer() {
	t := r.t
	r.netns("d")
	r.plug("d", peerAddr+"/24")
	// Without a router advertisement iPXE waits 13 s; dnsmasq sends one only where it has an address of that prefix.
	run(t, "ip", "-n", r.ns("d"), "addr", "add", "fd00:88::1/64", "dev", "e0", "nodad")
	dir := t.TempDir()
	script, err := ipxe.Script(ipxe.Input{
		Act: ipxe.ActInstaller, Machine: "m1", MAC: "52-54-00-00-00-01", Kernel: kernelID(), Ramdisk: ramdiskID(), Pin: "00", Token: "t",
		HTTP: []string{peerAddr + ":7480"}, Agents: []string{peerAddr + ":7444"},
	})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"boot.ipxe": script,
		"dnsmasq.conf": "port=0\nkeep-in-foreground\nuser=root\ninterface=e0\nbind-interfaces\nno-ping\ndhcp-authoritative\nleasefile-ro\n" +
			"dhcp-range=10.88.0.100,10.88.0.199,255.255.255.0\ndhcp-range=fd00:88::,ra-only,64\nenable-ra\ndhcp-match=set:ipxe,175\n" +
			"dhcp-boot=tag:!ipxe,undionly.kpxe\ndhcp-boot=tag:ipxe,http://" + peerAddr + ":7480/boot.ipxe\nenable-tftp\ntftp-root=/usr/lib/ipxe\n",
		"nginx.conf": "daemon off;\nuser root;\npid " + dir + "/pid;\nerror_log stderr;\nevents {}\nhttp {\n sendfile on;\n access_log off;\n" +
			" server { listen " + peerAddr + ":7480; root " + dir + "; }\n}\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for path, to := range map[string]string{os.Getenv("SKERRY_NETBOOT_KERNEL"): kernelID().Hex() + "/kernel", os.Getenv("SKERRY_NETBOOT_RAMDISK"): ramdiskID().Hex() + "/ramdisk"} {
		at := filepath.Join(dir, "assets", to)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, at); err != nil {
			t.Fatal(err)
		}
	}
	r.serve("dnsmasq", "--conf-file="+filepath.Join(dir, "dnsmasq.conf"))
	r.serve("nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	r.answers(peerAddr + ":7480/boot.ipxe")
}

// serve runs a program in the peer's namespace until the benchmark ends.
func (r *rack) serve(args ...string) {
	cmd := exec.Command("ip", append([]string{"netns", "exec", r.ns("d")}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		// The group, for nginx has a worker. An error means that it is gone already.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
}

// answers waits until a URL does.
func (r *rack) answers(url string) {
	r.t.Helper()
	run(r.t, "ip", "netns", "exec", r.ns("d"), "curl", "-sSf", "-o", "/dev/null", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "http://"+url)
}
