package ramdisk

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Config says what goes into a ramdisk.
type Config struct {
	KernelRoot string            // a Debian kernel package, unpacked by dpkg-deb -x; holds exactly one release
	Init       string            // static program, becomes /init
	Modules    []string          // names; '?' before one = may be missing
	Files      map[string]string // further files: path in the ramdisk to path on the host; mode 0755 if executable there
}

// Output is what Build made.
type Output struct {
	Release string   // of the kernel
	Kernel  []byte   // vmlinuz, untouched: its signature stays good
	Ramdisk []byte   // gzip over newc
	Modules []string // names in load order
}

// OrderFile lists the modules of a ramdisk, one path a line, in the order in which /init loads them.
const OrderFile = "/lib/modules/order"

// DefaultModules is what machines may need to reach network and disks: virtio for virtual ones, then the common server
// hardware, which Debian's cloud kernel partly lacks or has built in.
func DefaultModules() []string {
	return []string{
		"virtio_pci", "virtio_net", "virtio_blk", "?virtio_scsi", "?virtio_rng", "?sd_mod", "?ata_piix", "?ahci", "?nvme",
		"?e1000", "?e1000e", "?igb", "?ixgbe", "?i40e", "?ice", "?mlx5_core", "?bnxt_en", "?tg3", "?megaraid_sas", "?mpt3sas",
		"?smartpqi", "?efivarfs", "?ipmi_si", "?ipmi_devintf",
	}
}

// Build makes a ramdisk in memory; 25 MB at most is the product's budget, the caller checks it.
func Build(c Config) (*Output, error) {
	releases, err := os.ReadDir(filepath.Join(c.KernelRoot, "lib/modules"))
	if err != nil {
		return nil, fmt.Errorf("cannot find the kernel's release: %w", err)
	}
	if len(releases) != 1 {
		return nil, fmt.Errorf("cannot choose between %d kernel releases in %s", len(releases), c.KernelRoot)
	}
	out := &Output{Release: releases[0].Name()}
	if out.Kernel, err = os.ReadFile(filepath.Join(c.KernelRoot, "boot/vmlinuz-"+out.Release)); err != nil {
		return nil, fmt.Errorf("cannot read kernel: %w", err)
	}
	t, err := readTree(c.KernelRoot, out.Release)
	if err != nil {
		return nil, err
	}
	mods, err := t.order(c.Modules)
	if err != nil {
		return nil, err
	}
	files := map[string]file{}
	var order strings.Builder
	for _, m := range mods {
		name := "/lib/modules/" + filepath.Base(m)
		fmt.Fprintln(&order, name)
		out.Modules = append(out.Modules, moduleName(m))
		if err := addFile(files, name, m); err != nil {
			return nil, err
		}
	}
	files[OrderFile] = file{data: []byte(order.String()), mode: 0o644}
	for dst, src := range c.Files {
		if err := addFile(files, path.Clean("/"+dst), src); err != nil {
			return nil, err
		}
	}
	if err := addFile(files, "/init", c.Init); err != nil {
		return nil, err
	}
	out.Ramdisk, err = pack(files)
	return out, err
}

type file struct {
	data []byte
	mode uint32
}

func addFile(files map[string]file, dst, src string) error {
	b, err := os.ReadFile(src)
	if err != nil {
		return fmt.Errorf("cannot add %s: %w", dst, err)
	}
	st, err := os.Stat(src)
	if err != nil {
		return fmt.Errorf("cannot add %s: %w", dst, err)
	}
	mode := uint32(0o644)
	if st.Mode()&0o111 != 0 {
		mode = 0o755
	}
	files[dst] = file{b, mode}
	return nil
}

// pack writes directories before what is in them, all sorted, and the console device that /init's first output needs.
func pack(files map[string]file) ([]byte, error) {
	dirs := map[string]bool{"/dev": true, "/proc": true, "/sys": true, "/run": true, "/tmp": true}
	for name := range files {
		for d := path.Dir(name); d != "/"; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	names := make([]string, 0, len(files)+len(dirs))
	for n := range files {
		names = append(names, n)
	}
	for d := range dirs {
		names = append(names, d)
	}
	slices.Sort(names)
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("cannot pack ramdisk: %w", err)
	}
	c := &newc{w: z}
	for _, n := range names {
		if dirs[n] {
			c.entry(n[1:], modeDir|0o755, nil, 0, 0)
			continue
		}
		c.entry(n[1:], modeFile|files[n].mode, files[n].data, 0, 0)
	}
	c.entry("dev/console", modeChar|0o600, nil, 5, 1)
	c.entry("dev/null", modeChar|0o666, nil, 1, 3)
	if err := c.close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("cannot pack ramdisk: %w", err)
	}
	return b.Bytes(), nil
}
