package vm

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// Firmware says how a machine boots from the network.
type Firmware string

// The firmwares. BIOS is SeaBIOS with QEMU's iPXE ROM; the other two are OVMF without an option ROM.
const (
	BIOS     Firmware = "bios"
	UEFIPXE  Firmware = "uefi-pxe"
	UEFIHTTP Firmware = "uefi-http"
)

// Device is what firmware tries first; the other one is tried after it.
type Device string

// The boot devices.
const (
	BootDisk Device = "disk"
	BootNet  Device = "net"
)

// Bus is how a disk is attached. Only AHCI and SCSI disks bear a WWN in QEMU.
type Bus string

// The buses.
const (
	Virtio Bus = "virtio"
	NVMe   Bus = "nvme"
	AHCI   Bus = "ahci"
	SCSI   Bus = "scsi" // behind a virtual host adapter
)

// Disk is a raw image file that outlives power cycles.
type Disk struct {
	Path      string // made sparse with SizeBytes if absent
	SizeBytes int64
	Serial    string // at most 20 printable characters
	WWN       uint64 // AHCI and SCSI; 0 = none
	Bus       Bus    // "" = Virtio
}

// NIC is one network card on a tap that exists in the machine's namespace.
type NIC struct {
	MAC string
	Tap string
}

// Config describes a machine. Dir receives serial.log (appended by each start), qemu.log and vars.fd.
type Config struct {
	Name         string
	Dir          string
	NS           *netlab.Namespace // where the taps are; nil = the caller's
	Firmware     Firmware
	MemoryMiB    int // 0 = 512: OVMF, kernel and a 25 MB ramdisk need 384
	NICs         []NIC
	Disks        []Disk
	Serial       string
	UUID         string
	Manufacturer string
	Product      string

	// Boot is asked at each start what to try first; it may consume a one-time override. nil = BootDisk always.
	Boot func() Device
	// Kernel, Initrd and Append, if set, are started directly where the machine would boot from the network.
	Kernel, Initrd, Append string

	// OnEvent is called from Run, in order. It must not call the Machine's methods that wait for Run.
	OnEvent func(Event)
	// OVMFDir holds OVMF_CODE_4M.fd and OVMF_VARS_4M.fd; "" = /usr/share/OVMF.
	OVMFDir string
}

// Event is one change of a machine's power.
type Event struct {
	Time    time.Time
	Machine string
	Kind    string // started, rebooted (by the guest), off (by the guest), killed (by us), failed
	Boot    Device // of started
	Detail  string
}

var cleanWord = regexp.MustCompile(`^[A-Za-z0-9._ -]{0,64}$`)

// check refuses what could not be, or what would be taken for another QEMU option.
func (c *Config) check() error {
	for _, s := range []string{c.Serial, c.UUID, c.Manufacturer, c.Product, c.Name} {
		if !cleanWord.MatchString(s) {
			return fmt.Errorf("cannot use %q for a machine: only letters, digits, space, dot, dash", s)
		}
	}
	switch c.Firmware {
	case BIOS, UEFIPXE, UEFIHTTP:
	default:
		return fmt.Errorf("cannot make machine %s: unknown firmware %q", c.Name, c.Firmware)
	}
	for _, n := range c.NICs {
		if _, err := net.ParseMAC(n.MAC); err != nil {
			return fmt.Errorf("cannot make machine %s: %w", c.Name, err)
		}
	}
	for _, d := range c.Disks {
		if strings.Contains(d.Path, ",") || !cleanWord.MatchString(d.Serial) || len(d.Serial) > 20 {
			return fmt.Errorf("cannot make machine %s: disk path %q or serial %q", c.Name, d.Path, d.Serial)
		}
	}
	return nil
}

// prepare makes the files that persist between power cycles, where they are absent.
func (c *Config) prepare() error {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return fmt.Errorf("cannot make directory of machine %s: %w", c.Name, err)
	}
	for _, d := range c.Disks {
		if _, err := os.Stat(d.Path); err == nil {
			continue
		}
		f, err := os.OpenFile(d.Path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
		if err != nil {
			return fmt.Errorf("cannot make disk of machine %s: %w", c.Name, err)
		}
		err = f.Truncate(d.SizeBytes)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("cannot make disk of machine %s: %w", c.Name, err)
		}
	}
	if c.Firmware == BIOS {
		return nil
	}
	vars := filepath.Join(c.Dir, "vars.fd")
	if _, err := os.Stat(vars); err == nil {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(c.ovmf(), "OVMF_VARS_4M.fd"))
	if err != nil {
		return fmt.Errorf("cannot read firmware variables (apt-get install ovmf): %w", err)
	}
	if err := os.WriteFile(vars, b, 0o644); err != nil {
		return fmt.Errorf("cannot write firmware variables of machine %s: %w", c.Name, err)
	}
	return nil
}

func (c *Config) ovmf() string {
	if c.OVMFDir != "" {
		return c.OVMFDir
	}
	return "/usr/share/OVMF"
}

// args is the QEMU command line of one start. qmp is the path of the control socket.
func (c *Config) args(first Device, qmp string) []string {
	mem := c.MemoryMiB
	if mem == 0 {
		mem = 512
	}
	a := []string{
		// -cpu max: with AVX2, SHA-256 of Go runs at 44 MB/s instead of 30; boot times are the same.
		"-nodefaults", "-vga", "none", "-display", "none", "-accel", "tcg", "-cpu", "max", "-m", fmt.Sprint(mem),
		// Paused instead of gone at shutdown: the QMP event that tells reset from power-off is then never lost.
		"-no-reboot", "-no-shutdown",
		"-qmp", "unix:" + qmp + ",server=on,wait=off",
		"-chardev", "file,id=ser,append=on,path=" + filepath.Join(c.Dir, "serial.log"), "-serial", "chardev:ser",
		"-device", "virtio-rng-pci",
		"-smbios", smbios(c),
	}
	if c.UUID != "" {
		a = append(a, "-uuid", c.UUID)
	}
	if c.Firmware == BIOS {
		a = append(a, "-M", "q35,graphics=off,usb=off")
	} else {
		a = append(a, "-M", "q35",
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+filepath.Join(c.ovmf(), "OVMF_CODE_4M.fd"),
			"-drive", "if=pflash,format=raw,unit=1,file="+filepath.Join(c.Dir, "vars.fd"))
	}
	if c.Firmware == UEFIHTTP {
		for _, v := range []string{"4", "6"} {
			a = append(a, "-fw_cfg", "name=opt/org.tianocore/IPv"+v+"PXESupport,string=n")
		}
	}
	index := map[Device]int{BootDisk: 20, BootNet: 20}
	index[first] = 1 // 0 belongs to QEMU's own option ROM when a kernel is given
	for i, n := range c.NICs {
		dev := fmt.Sprintf("virtio-net-pci,netdev=n%d,mac=%s,bootindex=%d", i, n.MAC, index[BootNet]+i)
		if c.Firmware != BIOS {
			dev += ",romfile="
		}
		a = append(a, "-netdev", fmt.Sprintf("tap,id=n%d,ifname=%s,script=no,downscript=no,vnet_hdr=off", i, n.Tap), "-device", dev)
	}
	for i, d := range c.Disks {
		if d.Bus == SCSI {
			a = append(a, "-device", fmt.Sprintf("virtio-scsi-pci,id=s%d", i))
		}
		a = append(a, "-drive", fmt.Sprintf("if=none,id=d%d,file=%s,format=raw,cache=unsafe", i, d.Path),
			"-device", diskDevice(i, d)+fmt.Sprintf(",bootindex=%d", index[BootDisk]+i))
	}
	if c.Kernel != "" && first == BootNet {
		a = append(a, "-kernel", c.Kernel, "-initrd", c.Initrd, "-append", c.Append)
	}
	return a
}

func smbios(c *Config) string {
	s := "type=1"
	for _, kv := range [][2]string{{"manufacturer", c.Manufacturer}, {"product", c.Product}, {"serial", c.Serial}} {
		if kv[1] != "" {
			s += "," + kv[0] + "=" + kv[1]
		}
	}
	return s
}

func diskDevice(i int, d Disk) string {
	switch d.Bus {
	case NVMe:
		return fmt.Sprintf("nvme,drive=d%d,serial=%s", i, d.Serial)
	case AHCI, SCSI:
		s := fmt.Sprintf("ide-hd,drive=d%d,bus=ide.%d,serial=%s", i, i, d.Serial)
		if d.Bus == SCSI {
			s = fmt.Sprintf("scsi-hd,drive=d%d,bus=s%d.0,serial=%s", i, i, d.Serial)
		}
		if d.WWN != 0 {
			s += fmt.Sprintf(",wwn=%#x", d.WWN)
		}
		return s
	default:
		return fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=%s", i, d.Serial)
	}
}
