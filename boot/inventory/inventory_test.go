package inventory

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite goldens")

// smbiosStructure makes one structure: type, formatted area after the header, strings.
func smbiosStructure(kind byte, body []byte, strs ...string) []byte {
	b := append([]byte{kind, byte(4 + len(body)), 0, 0}, body...)
	for _, s := range strs {
		b = append(append(b, s...), 0)
	}
	if len(strs) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

// body puts values at offsets of the specification (which count the header) into n octets.
func body(n int, at map[int]any) []byte {
	b := make([]byte, n-4)
	for off, v := range at {
		switch v := v.(type) {
		case int:
			b[off-4] = byte(v)
		case uint16:
			binary.LittleEndian.PutUint16(b[off-4:], v)
		case uint32:
			binary.LittleEndian.PutUint32(b[off-4:], v)
		case []byte:
			copy(b[off-4:], v)
		}
	}
	return b
}

func table() []byte {
	uuid := []byte{0x1e, 0x3c, 0x1f, 0x6b, 0x1c, 0x5d, 0x5f, 0x4c, 0x9a, 0x52, 1, 0x23, 0x45, 0x67, 0x89, 0xab}
	return bytes.Join([][]byte{
		smbiosStructure(0, body(24, map[int]any{4: 1, 5: 2, 8: 3}), "ACME BIOS", "1.2", "01/02/2024"),
		smbiosStructure(1, body(27, map[int]any{4: 1, 5: 2, 7: 3, 8: uuid, 0x19: 4}), "ACME", "R1  ", "SN\x01 1", "SKU9"),
		smbiosStructure(2, body(15, map[int]any{4: 1, 7: 2}), "ACME", "To Be Filled By O.E.M."),
		smbiosStructure(3, body(22, map[int]any{4: 1, 7: 2, 8: 3}), "ACME", "CH1", "TAG1"),
		smbiosStructure(4, body(48, map[int]any{
			4: 1, 5: 3, 0x10: 2, 0x16: uint16(2600), 0x18: 0x41, 0x23: 0xFF, 0x25: 0xFF,
			0x2A: uint16(300), 0x2E: uint16(600),
		}), "CPU0", "Big CPU"),
		smbiosStructure(4, body(48, map[int]any{4: 1, 5: 3, 0x18: 0}), "CPU1"), // empty socket
		smbiosStructure(17, body(40, map[int]any{0x0C: uint16(0x7FFF), 0x10: 1, 0x17: 2, 0x18: 3, 0x1A: 4, 0x1C: uint32(64 << 10), 0x20: uint16(3200)}),
			"DIMM_A1", "Maker", "DS1", "PART1"),
		smbiosStructure(17, body(40, map[int]any{0x0C: uint16(16384), 0x10: 1, 0x15: uint16(2933)}), "DIMM_A2"),
		smbiosStructure(17, body(40, map[int]any{0x0C: uint16(0)})),
		smbiosStructure(127, nil),
		[]byte("what follows the end is not read"),
	}, nil)
}

// sysfs makes a tree from paths; a value that begins with "->" is a symbolic link.
func sysfs(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, v := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(v, "->"); ok {
			if err := os.MkdirAll(filepath.Join(root, to), 0o755); err != nil {
				t.Fatal(err)
			}
			err = os.Symlink(filepath.Join(root, to), p)
		} else {
			err = os.WriteFile(p, []byte(v), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func server() map[string]string {
	return map[string]string{
		"sys/firmware/dmi/tables/DMI": string(table()),
		"sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\x00\x00\x00\x01",
		"proc/sys/kernel/osrelease": "6.1.0-56-amd64\n",
		"proc/mounts":               "/dev/sdb1 /mnt ext4 rw 0 0\nproc /proc proc rw 0 0\n",
		// an HDD of a member of an array, mounted
		"sys/block/sdb/device":                   "->sys/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0",
		"sys/block/sdb/size":                     "2048\n",
		"sys/block/sdb/queue/logical_block_size": "512\n",
		"sys/block/sdb/queue/rotational":         "1\n",
		"sys/block/sdb/holders/md0/x":            "",
		"sys/block/sdb/sdb1/partition":           "1\n",
		"sys/class/block/sdb/size":               "2048\n",
		"sys/class/block/sdb1/size":              "1024\n",
		"sys/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/type":     "0\n",
		"sys/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/wwid":     "naa.5000C500A1B2C3D4\n",
		"sys/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/vendor":   "ATA     \n",
		"sys/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/model":    "ST1000  NM\n",
		"sys/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/rev":      "SN03\n",
		"sys/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0/vpd_pg80": "\x00\x80\x00\x08  Z1D0AB",
		// an NVMe
		"sys/block/nvme0n1/device":                                    "->sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0",
		"sys/block/nvme0n1/wwid":                                      "eui.0025385b71b0a1c2\n",
		"sys/block/nvme0n1/size":                                      "4096\n",
		"sys/block/nvme0n1/queue/logical_block_size":                  "512\n",
		"sys/block/nvme0n1/queue/rotational":                          "0\n",
		"sys/class/block/nvme0n1/size":                                "4096\n",
		"sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/serial":       "S4EV\n",
		"sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/model":        "PM9A3\n",
		"sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/firmware_rev": "GDC5\n",
		// left out: loop, optical
		"sys/block/loop0/size":                       "8\n",
		"sys/block/sr0/device":                       "->sys/devices/pci0000:00/0000:00:1f.2/ata3/x",
		"sys/class/net/lo/type":                      "772\n",
		"sys/class/net/eth0/device":                  "->sys/devices/pci0000:00/0000:00:02.0",
		"sys/class/net/eth0/type":                    "1\n",
		"sys/class/net/eth0/address":                 "52:54:00:AA:BB:CC\n",
		"sys/class/net/eth0/carrier":                 "1\n",
		"sys/class/net/eth0/speed":                   "25000\n",
		"sys/devices/pci0000:00/0000:00:02.0/driver": "->sys/bus/pci/drivers/ice",
		"sys/class/net/eth1/device":                  "->sys/devices/pci0000:00/0000:00:03.0",
		"sys/class/net/eth1/type":                    "1\n",
		"sys/class/net/eth1/address":                 "52:54:00:aa:bb:cd\n",
		"sys/class/net/eth1/speed":                   "-1\n",
		"sys/class/net/br0/type":                     "1\n",
	}
}

func TestCollect(t *testing.T) {
	f := func(name string, files map[string]string, disks map[string][]byte) {
		t.Helper()
		c := &Collector{Root: sysfs(t, files), OpenDisk: func(name string) (io.ReaderAt, func() error, error) {
			b, ok := disks[name]
			if !ok {
				return nil, nil, os.ErrNotExist
			}
			return bytes.NewReader(b), func() error { return nil }, nil
		}}
		r, err := c.Collect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Faults { // paths of temporary directories
			r.Faults[i].Error = strings.ReplaceAll(r.Faults[i].Error, c.Root, "")
		}
		got, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(got)+"\n"); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
	lvm := make([]byte, 1024*512)
	copy(lvm[512:], "LABELONE")
	gpt := make([]byte, 4096*512)
	copy(gpt[512:], "EFI PART")
	gpt[510], gpt[511], gpt[450] = 0x55, 0xAA, 0xEE
	f("server", server(), map[string][]byte{"sdb1": lvm, "nvme0n1": gpt})
	f("empty", map[string]string{"proc/x": ""}, nil)
	f("no-smbios", map[string]string{
		"proc/meminfo": "MemTotal:         1024 kB\n", "proc/cpuinfo": "processor : 0\nmodel name : X\ncpu cores : 2\nprocessor : 1\n",
		"sys/block/x": "", "sys/class/net/x": "", "sys/firmware/dmi/tables/DMI": "\x01\xff\x00\x00",
	}, nil)
}

func TestCollectStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&Collector{Root: sysfs(t, server())}).Collect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestBadTables(t *testing.T) {
	f := func(b []byte) {
		t.Helper()
		if err := new(Report).smbios(b); !errors.Is(err, ErrSMBIOS) {
			t.Errorf("%q: %v", b[:min(len(b), 20)], err)
		}
	}
	f([]byte{1})
	f([]byte{1, 3, 0, 0, 0, 0})
	f([]byte{1, 200, 0, 0, 0, 0})
	f([]byte{1, 4, 0, 0, 'a', 0, 'b'})
	f(make([]byte, maxTable+1))
	f(bytes.Repeat(smbiosStructure(9, nil), maxStructures+1))
}

func TestSignatures(t *testing.T) {
	f := func(want string, size int, at map[int]string) {
		t.Helper()
		b := make([]byte, size)
		for off, s := range at {
			copy(b[off:], s)
		}
		if got := strings.Join(Signatures(bytes.NewReader(b), int64(size)), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	const mib = 1 << 20
	f("", mib, nil)
	f("", 0, nil)
	f("", 100, map[int]string{0: "LUKS\xba\xbe"[:5]})
	f("ext4", mib, map[int]string{1080: "\x53\xef"})
	f("lvm", mib, map[int]string{1024: "LABELONE"})
	f("md", mib, map[int]string{4096: "\xfc\x4e\x2b\xa9"})
	f("md", mib, map[int]string{mib - 65536: "\xfc\x4e\x2b\xa9"})
	f("md", mib, map[int]string{mib - 8192: "\xfc\x4e\x2b\xa9"})
	f("zfs", mib, map[int]string{128<<10 + 5<<10: "\x0c\xb1\xba\x00\x00\x00\x00\x00"})
	f("ceph", mib, map[int]string{0: "bluestore block device\n"})
	f("mbr", mib, map[int]string{446: "\x80\x00\x00\x00\x83", 510: "\x55\xaa"})
	f("gpt", mib, map[int]string{446: "\x00\x00\x00\x00\xee", 510: "\x55\xaa", 512: "EFI PART"})
	f("swap", mib, map[int]string{4086: "SWAPSPACE2"})
}

func FuzzSMBIOS(f *testing.F) {
	f.Add(table())
	f.Add([]byte{1, 27, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Report
		_ = r.smbios(b) // only panics and bounds matter
		out, err := json.Marshal(r)
		if err != nil || len(out) > 1<<20 {
			t.Fatalf("%d octets, %v", len(out), err)
		}
	})
}

func FuzzSignatures(f *testing.F) {
	f.Add([]byte("LABELONE"), int64(512))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if n := len(Signatures(bytes.NewReader(b), size)); n > 30 {
			t.Fatalf("%d signatures", n)
		}
	})
}
