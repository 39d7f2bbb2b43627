package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/mesh/api/discovery"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/netlab"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

const (
	// discoverLimit bounds the whole of TestDiscover: two network boots, quiet 15 s each, under emulation and load four times that.
	discoverLimit = 6 * time.Minute
	strangerMAC   = "52:54:00:88:00:99"
	strangerID    = "52-54-00-88-00-99"
	bmcAddr       = "10.88.1.9"
)

// newRack is a coordinator, an agent and what they need, in one namespace: real processes, a bridge that machines are plugged into.
type newRack struct {
	t   *testing.T
	ctx context.Context
	net *netlab.Lab
	ns  *netlab.Namespace
	exe string
	dir string
}

// start runs the program under test until the end of the test.
func (r *newRack) start(name string, args ...string) {
	r.t.Helper()
	log, err := os.Create(filepath.Join(r.dir, name+".log"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		log.Close()
		if b, err := os.ReadFile(log.Name()); err == nil && r.t.Failed() {
			r.t.Logf("the log of %s ends in:\n%s", name, b[max(0, len(b)-4000):])
		}
	})
	if _, err := r.net.Start(netlab.Command{Name: name, NS: r.ns, Path: r.exe, Args: args, Output: log, Env: r.env()}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *newRack) env() []string {
	return append(os.Environ(), "SKERRY_CONFIG="+filepath.Join(r.dir, "config.yaml"))
}

// cli runs one command and returns what it wrote.
func (r *newRack) cli(args ...string) (string, error) {
	out, errs := &strings.Builder{}, &strings.Builder{}
	p, err := r.net.Start(netlab.Command{Name: "skerry " + args[0], NS: r.ns, Path: r.exe, Args: args, Output: out, Errors: errs, Env: r.env()})
	if err == nil {
		err = p.Wait(r.ctx)
	}
	if err != nil {
		return out.String(), fmt.Errorf("skerry %v: %w: %s", args, err, errs)
	}
	return out.String(), nil
}

func (r *newRack) must(args ...string) string {
	r.t.Helper()
	out, err := r.cli(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// until asks again until ok; other processes have no event for it.
func (r *newRack) until(what string, ok func() error) {
	r.t.Helper()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-r.ctx.Done():
			r.t.Fatalf("%s: %v", what, err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// found starts a domain, a site with one agent, and applies what the site knows: the installer, a machine type, a subnet.
func found(t *testing.T) *newRack {
	r := &newRack{t: t, net: lab.New(t), exe: buildSkerry(t), dir: t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), discoverLimit)
	t.Cleanup(cancel)
	r.ctx = ctx
	var err error
	if r.ns, err = r.net.Namespace("rk"); err != nil {
		t.Fatal(err)
	}
	steps := []error{r.ns.Bridge("br0"), r.ns.Tap("m9", "br0")}
	for _, a := range []string{"10.88.0.11/16", bmcAddr + "/16"} {
		steps = append(steps, r.ns.Addr("br0", a))
	}
	for _, a := range []string{"10.99.0.1/32", "10.99.0.11/32"} {
		steps = append(steps, r.ns.Addr("lo", a))
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	var res map[string]string
	out := r.must("coordinator", "init", "--data", filepath.Join(r.dir, "c"), "--domain", "edge.example", "--addr", "10.99.0.1:7443", "-o", "json")
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	r.start("coordinator", "coordinator", "--data", filepath.Join(r.dir, "c"), "--listen", "10.99.0.1:7443", "--metrics", "", "--spread", "1s", "--reserve-bytes", "1")
	for name, server := range map[string]string{"edge": "10.99.0.1:7443", "lon1": "10.99.0.11:7444"} {
		r.must("context", "set", name, "--server", "https://"+server, "--token", res["token"], "--ca", res["ca"], "--site", "lon1")
	}
	r.until("the coordinator answers", func() error { _, err := r.cli("--context", "edge", "get", "sites"); return err })
	for _, a := range [][3]string{{"../../out/vmlinuz", "vmlinuz", "boot"}, {"../../out/ramdisk.gz", "ramdisk", "boot"}} {
		r.must("--context", "edge", "asset", "upload", a[0], "--name", a[1], "--class", a[2])
	}
	file := filepath.Join(r.dir, "site.yaml")
	if err := os.WriteFile(file, []byte(rackDocs), 0o600); err != nil {
		t.Fatal(err)
	}
	r.must("--context", "edge", "apply", "-f", file)
	token := strings.TrimSpace(r.must("--context", "edge", "token", "create", "--site", "lon1", "--agent", "a1"))
	r.start("a1", "agent", "--data", filepath.Join(r.dir, "a1"), "--management", "10.99.0.11:7444", "--boot", "10.88.0.11", "--metrics", "",
		"--spread", "100ms", "--max-backoff", "1s", "--reserve-bytes", "1", "--join", token)
	r.until("the agent answers", func() error { _, err := r.cli("--context", "edge", "machine", "discovered"); return err })
	return r
}

const rackDocs = `
apiVersion: skerry/v1
kind: Site
metadata: {name: lon1}
spec: {region: eu, zone: london, installer: {kernel: vmlinuz, ramdisk: ramdisk, args: [no_timer_check]}}
---
apiVersion: skerry/v1
kind: MachineType
metadata: {name: small}
spec: {cpu: {min: 1, max: 4}, memoryMiB: {min: 256, max: 2048}, disks: [{count: {min: 1}}]}
---
apiVersion: skerry/v1
kind: SubnetPool
metadata: {name: boot, site: lon1}
spec: {prefix: 10.88.0.0/16, discovery: true, dynamic: {from: 10.88.9.1, to: 10.88.9.254}, static: {from: 10.88.0.20, to: 10.88.0.250}}
---
apiVersion: skerry/v1
kind: Secret
metadata: {name: bmc, site: lon1}
spec: {type: bmc, data: {username: admin, password: secret}}
`

// plug makes a machine that nobody declared, with its controller; both run until the test ends.
func (r *newRack) plug(fw vm.Firmware) (*vm.Machine, *bmc.BMC) {
	r.t.Helper()
	var controller *bmc.BMC
	disks := []vm.Disk{{Path: filepath.Join(r.dir, "disk.img"), SizeBytes: 64 << 20, Serial: diskSerial}}
	machine, err := vm.New(vm.Config{
		Name: "m9", Dir: filepath.Join(r.dir, "m9"), NS: r.ns, Firmware: fw, MemoryMiB: 512, NICs: []vm.NIC{{MAC: strangerMAC, Tap: "m9"}}, Disks: disks,
		Serial: machineSerial, UUID: machineUUID, Manufacturer: "ACME", Product: "R1",
		Boot: func() vm.Device { return controller.NextBoot() }, OnEvent: func(e vm.Event) { r.t.Logf("%s %s %s %s", e.Machine, e.Kind, e.Boot, e.Detail) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	controller = bmc.New(bmc.Config{
		User: "admin", Password: "secret", Firmware: fw, UUID: machineUUID, Serial: machineSerial, Maker: "ACME", Model: "R1", MACs: []string{strangerMAC},
		Disks: disks, Memory: 512, Address: bmcAddr,
	}, machine)
	cert, err := bmc.SelfSigned(net.ParseIP(bmcAddr))
	if err != nil {
		r.t.Fatal(err)
	}
	ln, err := r.ns.Listen("tcp", bmcAddr+":443")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan error, 2)
	go func() { ended <- machine.Run(ctx) }()
	go func() { ended <- controller.Serve(ctx, ln, cert) }()
	r.t.Cleanup(func() {
		cancel()
		<-ended
		<-ended
		if b, err := os.ReadFile(machine.SerialLog()); err == nil && r.t.Failed() {
			r.t.Logf("the serial line ends in:\n%s", b[max(0, len(b)-4000):])
		}
	})
	return machine, controller
}

// lldpFrame is what a switch sw1 says at its port ge-0/0/7.
const lldpFrame = "0180c200000e0cc47a00000188cc0207040cc47a00000104090567652d302f302f37060200780a037377310000"

// announce sends lldpFrame on a link, every second until the test ends.
func (r *newRack) announce(link string) {
	r.t.Helper()
	frame, err := hex.DecodeString(lldpFrame)
	if err != nil {
		r.t.Fatal(err)
	}
	index, err := r.ns.Index(link)
	if err != nil {
		r.t.Fatal(err)
	}
	fd := -1
	err = r.ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				_ = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(index)}) // an error: the machine is off
			}
		}
	})
	r.t.Cleanup(func() { cancel(); wg.Wait(); unix.Close(fd) })
}

// TestDiscover: a machine that nobody declared is racked, cabled and powered on. It appears as discovered, with what is in it; it is accepted,
// and the site boots it by its controller, inspects it and has it available. Real firmware, real iPXE, the real ramdisk.
func TestDiscover(t *testing.T) {
	if testing.Short() {
		t.Skip("boots twice: not in -short")
	}
	lab.Need(t, lab.Root, lab.Tool("ip", "iproute2"), lab.Tool("qemu-system-x86_64", "qemu-system-x86"), lab.Tool("/usr/lib/ipxe/undionly.kpxe", "ipxe"),
		lab.Tool("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"), lab.Built("../../out/vmlinuz", "ramdisk"), lab.Built("../../out/ramdisk.gz", "ramdisk"))
	r := found(t)
	machine, controller := r.plug(vm.BIOS)
	r.announce("m9")
	redfish(t, controller, "PATCH", "/redfish/v1/Systems/1", `{"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`)
	begun := time.Now()
	redfish(t, controller, "POST", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", `{"ResetType":"On"}`)
	var m discovery.FoundMachine
	r.until("the machine is discovered", func() error {
		out, err := r.cli("--context", "edge", "machine", "discovered", strangerMAC, "-o", "json")
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(out), &m)
	})
	t.Logf("power-on to discovered: %.1f s", time.Since(begun).Seconds())
	if m.ID != strangerID || m.Serial != machineSerial || m.UUID != machineUUID || m.Vendor != "ACME" || m.MachineType != "small" || m.Firmware != "bios" ||
		len(m.Disks) != 1 || m.Disks[0].Serial != diskSerial || m.Subnet != "boot" || !strings.HasPrefix(m.Address, "10.88.9.") || m.Conflict != "" || m.Inventory == nil {
		t.Fatalf("%+v", m)
	}
	if b, err := os.ReadFile(machine.SerialLog()); err != nil || strings.Contains(string(b), "skerry.token") {
		t.Errorf("the stranger was given a token, or %v", err)
	}
	t.Log("\n" + r.must("--context", "lon1", "machine", "discovered"))
	r.until("the machine heard its switch", func() error {
		out, err := r.cli("--context", "edge", "machine", "discovered", strangerID)
		if err == nil && !strings.Contains(out, "in ge-0/0/7 of sw1 (0c:c4:7a:00:00:01)") {
			err = errors.New(out)
		}
		return err
	})
	accept := []string{"--context", "edge", "machine", "accept", strangerID, "--name", "m9", "--bmc", bmcAddr, "--bmc-secret", "bmc"}
	r.must(append(accept, "--dry-run")...)
	if out, err := r.cli("--context", "edge", "get", "machine", "m9"); err == nil {
		t.Fatalf("a dry run declared it: %s", out)
	}
	begun = time.Now()
	r.must(accept...)
	r.until("the machine is available", func() error {
		out, err := r.cli("--context", "edge", "get", "machine", "m9", "-o", "json")
		if err == nil && !strings.Contains(out, `"state": "available"`) {
			err = errors.New(out)
		}
		return err
	})
	t.Logf("accepted to available: %.1f s", time.Since(begun).Seconds())
	if out := r.must("--context", "lon1", "machine", "discovered"); strings.Contains(out, strangerID) {
		t.Errorf("a declared machine is still listed: %s", out)
	}
}
