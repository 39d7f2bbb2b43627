package inventory

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sectorBytes is the unit of sysfs sizes, whatever the device's block size.
const sectorBytes = 512

func (c *Collector) disks(ctx context.Context, r *Report) error {
	entries, err := os.ReadDir(c.path("/sys/block"))
	if err != nil {
		return fmt.Errorf("cannot list disks: %w", err)
	}
	mounts := c.mounts()
	for _, e := range entries {
		name := e.Name()
		dev, err := filepath.EvalSymlinks(c.path("/sys/block/" + name + "/device"))
		if err != nil { // loop, ram, md, dm, zram have none
			continue
		}
		if c.attr("/sys/block/"+name+"/device/type") == "5" || strings.HasPrefix(name, "sr") || strings.HasPrefix(name, "fd") {
			continue // optical, floppy
		}
		if ctx.Err() != nil {
			return nil
		}
		if len(r.Disks) == maxDisks {
			return fmt.Errorf("cannot list more than %d disks", maxDisks)
		}
		r.Disks = append(r.Disks, c.disk(name, dev, mounts))
	}
	slices.SortFunc(r.Disks, func(a, b Disk) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

func (c *Collector) disk(name, dev string, mounts map[string][]string) Disk {
	dir := "/sys/block/" + name
	first := func(paths ...string) string {
		for _, p := range paths {
			if v := c.attr(dir + "/" + p); v != "" {
				return v
			}
		}
		return ""
	}
	d := Disk{
		Name: name, Serial: first("device/serial", "serial"), WWN: wwn(first("wwid", "device/wwid")),
		Vendor: first("device/vendor"), Model: first("device/model"), Firmware: first("device/firmware_rev", "device/rev"),
		SizeBytes: uint64(max(0, c.number(dir+"/size"))) * sectorBytes, BlockBytes: int(c.number(dir + "/queue/logical_block_size")),
		ReadOnly: c.attr(dir+"/ro") == "1", Removable: c.attr(dir+"/removable") == "1", PCIPath: pciPath(dev),
	}
	if strings.HasPrefix(d.Vendor, "0x") { // virtio and NVMe show a PCI vendor number here
		d.Vendor = ""
	}
	if d.Serial == "" {
		d.Serial = c.pageSerial(dir + "/device/vpd_pg80")
	}
	d.Transport, d.Media = transport(name, dev), "unknown"
	switch {
	case d.Transport == "nvme":
		d.Media = "nvme"
	case d.Transport == "virtio": // it says "rotational" whatever lies below
	case c.attr(dir+"/queue/rotational") == "1":
		d.Media = "hdd"
	case c.attr(dir+"/queue/rotational") == "0":
		d.Media = "ssd"
	}
	nodes := append([]string{name}, c.partitions(dir, name)...)
	for _, n := range nodes {
		sub := dir
		if n != name {
			sub = dir + "/" + n
		}
		d.InUse = append(d.InUse, mounts[n]...)
		if holders, err := os.ReadDir(c.path(sub + "/holders")); err == nil {
			for _, h := range holders {
				d.InUse = append(d.InUse, h.Name())
			}
		}
		d.Signatures = append(d.Signatures, c.signatures(n)...)
	}
	slices.Sort(d.Signatures)
	d.Signatures = slices.Compact(d.Signatures)
	return d
}

// partitions returns the names of name's partitions: directories with a file "partition".
func (c *Collector) partitions(dir, name string) []string {
	entries, err := os.ReadDir(c.path(dir))
	if err != nil {
		return nil
	}
	var parts []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), name) {
			if _, err := os.Stat(c.path(dir + "/" + e.Name() + "/partition")); err == nil {
				parts = append(parts, e.Name())
			}
		}
	}
	return parts
}

// wwn keeps only world-wide names: naa., eui., uuid. forms. Others (t10.ATA…) are a serial in disguise.
func wwn(s string) string {
	s = strings.ToLower(s)
	for _, p := range []string{"naa.", "eui.", "uuid."} {
		if strings.HasPrefix(s, p) {
			return s
		}
	}
	return ""
}

// pageSerial reads a SCSI VPD page 80h: four octets of header, then the serial.
func (c *Collector) pageSerial(p string) string {
	b, err := os.ReadFile(c.path(p))
	if err != nil || len(b) < 4 || len(b) > maxAttr {
		return ""
	}
	return clean(string(b[4:]))
}

func transport(name, dev string) string {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return "nvme"
	case strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.Contains(dev, "/usb"):
		return "usb"
	case strings.Contains(dev, "/session"):
		return "iscsi"
	case strings.Contains(dev, "/ata"):
		return "sata"
	case strings.Contains(dev, "/end_device"):
		return "sas"
	case strings.Contains(dev, "/virtio"):
		return "virtio"
	}
	return "unknown"
}

// mounts maps device names to their mount points.
func (c *Collector) mounts() map[string][]string {
	m := map[string][]string{}
	b, err := os.ReadFile(c.path("/proc/mounts"))
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 2 && strings.HasPrefix(f[0], "/dev/") {
			n := strings.TrimPrefix(f[0], "/dev/")
			m[n] = append(m[n], clean(f[1]))
		}
	}
	return m
}

// signatures opens a device for reading and looks for what it bears. A device that cannot be opened has none to tell.
func (c *Collector) signatures(name string) []string {
	open := c.OpenDisk
	if open == nil {
		open = func(name string) (io.ReaderAt, func() error, error) {
			f, err := os.Open(c.path("/dev/" + name))
			if err != nil {
				return nil, nil, err
			}
			return f, f.Close, nil
		}
	}
	f, done, err := open(name)
	if err != nil {
		return nil
	}
	defer done()
	size := c.number("/sys/class/block/"+name+"/size") * sectorBytes
	return Signatures(f, size)
}
