package inventory

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Collector reads a machine. The zero value reads the running one.
type Collector struct {
	// Root is put before /sys and /proc; tests give a recorded tree. "" = "/".
	Root string
	// OpenDisk opens a block device for reading, to look for signatures; nil = /dev under Root.
	OpenDisk func(name string) (io.ReaderAt, func() error, error)
}

// The bounds on what one machine may have; more is a lie or a storage array, and the report must stay under 1 MiB.
const (
	maxDisks = 512
	maxNICs  = 128
	maxAttr  = 4096 // octets of one sysfs attribute that we look at
)

// Collect returns the report. A source that cannot be read becomes a Fault; only a context that ended is an error.
func (c *Collector) Collect(ctx context.Context) (*Report, error) {
	r := &Report{CPUs: []CPU{}, Disks: []Disk{}, NICs: []NIC{}}
	fault := func(source string, err error) {
		if err != nil {
			r.Faults = append(r.Faults, Fault{source, err.Error()})
		}
	}
	table, err := os.ReadFile(c.path("/sys/firmware/dmi/tables/DMI"))
	if err == nil {
		err = r.smbios(table)
	}
	fault("smbios", err)
	for _, d := range r.DIMMs {
		r.Memory += d.SizeBytes
	}
	if r.Memory == 0 {
		r.Memory = c.memTotal()
	}
	if len(r.CPUs) == 0 {
		r.CPUs = append(r.CPUs, c.cpuinfo())
	}
	r.Boot.Firmware = "bios"
	if _, err := os.Stat(c.path("/sys/firmware/efi")); err == nil {
		r.Boot.Firmware = "uefi"
		r.Boot.SecureBoot = c.secureBoot()
	}
	r.Kernel = c.attr("/proc/sys/kernel/osrelease")
	fault("disks", c.disks(ctx, r))
	fault("nics", c.nics(r))
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot collect inventory: %w", err)
	}
	return r, nil
}

func (c *Collector) path(p string) string { return filepath.Join(c.Root, "/", p) }

// attr returns a sysfs or procfs attribute, cleaned; "" when it cannot be read.
func (c *Collector) attr(p string) string {
	f, err := os.Open(c.path(p))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAttr))
	if err != nil {
		return ""
	}
	return clean(string(b))
}

func (c *Collector) number(p string) int64 {
	n, err := strconv.ParseInt(c.attr(p), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (c *Collector) memTotal() uint64 {
	b, err := os.ReadFile(c.path("/proc/meminfo"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, _ := strconv.ParseUint(f[1], 10, 50)
			return kib << 10
		}
	}
	return 0
}

func (c *Collector) cpuinfo() CPU {
	var cpu CPU
	b, err := os.ReadFile(c.path("/proc/cpuinfo"))
	if err != nil {
		return cpu
	}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(k) {
		case "processor":
			cpu.Threads++
		case "model name":
			cpu.Model = clean(v)
		case "cpu cores":
			cpu.Cores, _ = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return cpu
}

// secureBoot reads the variable of the UEFI specification, section 3.3: four octets of attributes, then one of value.
func (c *Collector) secureBoot() bool {
	b, err := os.ReadFile(c.path("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
	return err == nil && len(b) == 5 && b[4] == 1
}

// pciPath returns the last PCI address on the resolved sysfs path of a device: 0000:00:03.0.
func pciPath(resolved string) string {
	last := ""
	for _, p := range strings.Split(resolved, "/") {
		if len(p) == 12 && p[4] == ':' && p[7] == ':' && p[10] == '.' {
			last = p
		}
	}
	return last
}

func (c *Collector) nics(r *Report) error {
	entries, err := os.ReadDir(c.path("/sys/class/net"))
	if err != nil {
		return fmt.Errorf("cannot list network cards: %w", err)
	}
	for _, e := range entries {
		dir := "/sys/class/net/" + e.Name()
		dev, err := filepath.EvalSymlinks(c.path(dir + "/device"))
		if err != nil || c.attr(dir+"/type") != "1" { // no device: a bridge, a tunnel, the loopback; type 1: Ethernet
			continue
		}
		if len(r.NICs) == maxNICs {
			return fmt.Errorf("cannot list more than %d network cards", maxNICs)
		}
		n := NIC{Name: e.Name(), MAC: strings.ToLower(c.attr(dir + "/address")), PCIPath: pciPath(dev)}
		if d, err := os.Readlink(filepath.Join(dev, "driver")); err == nil {
			n.Driver = filepath.Base(d)
		}
		n.Link = c.attr(dir+"/carrier") == "1"
		if v := c.number(dir + "/speed"); v > 0 {
			n.Mbps = int(v)
		}
		r.NICs = append(r.NICs, n)
	}
	slices.SortFunc(r.NICs, func(a, b NIC) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}
