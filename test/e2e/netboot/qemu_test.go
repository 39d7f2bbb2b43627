package netboot

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/ipxe"
)

// firmware says how a QEMU machine boots. Source: testbench R5.
type firmware struct {
	name string
	args []string
}

const ovmf = "/usr/share/OVMF/"

func bios() firmware {
	return firmware{"bios", []string{"-M", "q35,graphics=off,usb=off", "-m", "256"}}
}

func uefi(t *testing.T, http bool) firmware {
	vars := filepath.Join(t.TempDir(), "vars.fd")
	b, err := os.ReadFile(ovmf + "OVMF_VARS_4M.fd")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vars, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f := firmware{"uefi-pxe", []string{
		"-M", "q35", "-m", "384",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + ovmf + "OVMF_CODE_4M.fd", "-drive", "if=pflash,format=raw,unit=1,file=" + vars,
	}}
	if http {
		f.name = "uefi-http"
		f.args = append(f.args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
	}
	return f
}

// power starts a machine on the rack's bridge; it is killed at the end of the test. console collects its serial line.
func (b *rack) power(f firmware, console *os.File) {
	b.t.Helper()
	run(b.t, "ip", "netns", "exec", b.ns("r"), "ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
	run(b.t, "ip", "-n", b.ns("r"), "link", "set", "tap0", "master", "br0", "up")
	nic := "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,bootindex=0"
	if f.name != "bios" {
		nic += ",romfile="
	}
	args := append([]string{
		"netns", "exec", b.ns("r"), "qemu-system-x86_64", "-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot", "-vga", "none",
		"-accel", "tcg", "-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no", "-device", "virtio-rng-pci", "-device", nic,
		"-smbios", "type=1,serial=SN1,manufacturer=ACME,uuid=00112233-4455-6677-8899-aabbccddeeff",
	}, f.args...)
	cmd := exec.Command("ip", args...)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if b.t.Failed() {
			text, _ := os.ReadFile(console.Name())
			b.t.Logf("console:\n%s", text[max(0, len(text)-4000):])
		}
	})
}

func console(t testing.TB) *os.File {
	f, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// bootLimit is four times the quiet time of the slowest firmware (13 s to its script), and room for a loaded machine.
const bootLimit = 150 * time.Second

func needQEMU(t testing.TB) {
	need(t, "qemu-system-x86_64", "qemu-system-x86", ovmf+"OVMF_CODE_4M.fd", "ovmf", "/usr/lib/ipxe/snponly.efi", "ipxe",
		"/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu", "ethtool", "ethtool")
	if testing.Short() {
		t.Skip("boots machines: not in -short")
	}
}

// TestScriptReached: each firmware gets through DHCP, TFTP or HTTP to its script, finds no kernel at the first agent
// and walks to the second one, round and round. (A BIOS iPXE would start any bytes as a boot sector, so none are served.)
func TestScriptReached(t *testing.T) {
	needQEMU(t)
	for _, f := range []firmware{bios(), uefi(t, false), uefi(t, true)} {
		t.Run(f.name, func(t *testing.T) {
			cs := two(ipxe.ActInstaller)
			cs[0].Bare, cs[1].Bare = true, true
			b := newBench(t, cs...)
			start := time.Now()
			b.power(f, console(t))
			b.wait(bootLimit, func(e event) bool { return e.What == "script" })
			t.Logf("%s: power-on to script %.1f s", f.name, time.Since(start).Seconds())
			for _, self := range []string{"a1", "a2", "a1"} { // in the script's order, and round again
				b.wait(bootLimit, func(e event) bool { return e.What == "http asset" && e.MAC == kernelID().Hex() && e.Self == self })
			}
		})
	}
}

// TestLocalBoot: a running machine that boots from the network is sent to its own disk, which here is none.
func TestLocalBoot(t *testing.T) {
	needQEMU(t)
	b := newBench(t, two(ipxe.ActLocal)...)
	c := console(t)
	b.power(bios(), c)
	b.wait(bootLimit, func(e event) bool { return e.What == "http script" })
	waitText(t, c.Name(), "skerry: m1 local", bootLimit)
	waitText(t, c.Name(), "Booting from SAN device 0x80", bootLimit)
}

// TestKernel boots SKERRY_NETBOOT_KERNEL with SKERRY_NETBOOT_RAMDISK, for those who have them, and waits for the words of
// SKERRY_NETBOOT_WORDS on the serial line.
func TestKernel(t *testing.T) {
	needQEMU(t)
	if os.Getenv("SKERRY_NETBOOT_KERNEL") == "" {
		t.Skip("only with SKERRY_NETBOOT_KERNEL, SKERRY_NETBOOT_RAMDISK, SKERRY_NETBOOT_WORDS: make ramdisk")
	}
	for _, f := range []firmware{bios(), uefi(t, false), uefi(t, true)} {
		t.Run(f.name, func(t *testing.T) {
			b := newBench(t, two(ipxe.ActInstaller)...)
			c := console(t)
			start := time.Now()
			b.power(f, c)
			b.wait(bootLimit, func(e event) bool { return e.What == "script" })
			t.Logf("%s: power-on to script %.1f s", f.name, time.Since(start).Seconds())
			waitText(t, c.Name(), os.Getenv("SKERRY_NETBOOT_WORDS"), bootLimit)
			t.Logf("%s: power-on to %q %.1f s", f.name, os.Getenv("SKERRY_NETBOOT_WORDS"), time.Since(start).Seconds())
			b.drain()
		})
	}
}

func waitText(t testing.TB, path, words string, limit time.Duration) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond) // a serial log has no other signal; bounded by limit
	defer tick.Stop()
	deadline := time.After(limit)
	for {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(words)) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no %q within %v", words, limit)
		}
	}
}
