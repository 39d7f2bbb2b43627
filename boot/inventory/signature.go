package inventory

import (
	"bytes"
	"encoding/binary"
	"io"
)

// magic is octets at an offset from the start of a device.
type magic struct {
	name string
	off  int64
	want string
}

// magics are on-disk signatures. Offsets and octets are those of the formats' own documents: LVM2 label in one of the
// first four sectors; md 1.1 and 1.2 superblocks; ext superblock at 1024 + 56; LUKS, XFS, btrfs, swap with 4 KiB pages, FAT;
// Ceph BlueStore's label.
func magics() []magic {
	ms := []magic{
		{"md", 0, "\xfc\x4e\x2b\xa9"},
		{"md", 4096, "\xfc\x4e\x2b\xa9"},
		{"ext4", 1080, "\x53\xef"},
		{"luks", 0, "LUKS\xba\xbe"},
		{"xfs", 0, "XFSB"},
		{"btrfs", 65600, "_BHRfS_M"},
		{"swap", 4086, "SWAPSPACE2"},
		{"vfat", 54, "FAT1"},
		{"vfat", 82, "FAT32"},
		{"ceph", 0, "bluestore block device"},
		{"iso9660", 32769, "CD001"},
		{"gpt", 512, "EFI PART"},
		{"gpt", 4096, "EFI PART"},
	}
	for s := range int64(4) {
		ms = append(ms, magic{"lvm", s * 512, "LABELONE"})
	}
	return ms
}

// Signatures returns the names of what r, a device of size octets, bears; sorted by the order of discovery, may repeat.
// It reads at most 1 MiB. Unreadable places bear nothing.
func Signatures(r io.ReaderAt, size int64) []string {
	var found []string
	at := func(off int64, n int) []byte {
		if off < 0 || off+int64(n) > size {
			return nil
		}
		b := make([]byte, n)
		if _, err := r.ReadAt(b, off); err != nil {
			return nil
		}
		return b
	}
	for _, m := range magics() {
		if b := at(m.off, len(m.want)); string(b) == m.want {
			found = append(found, m.name)
		}
	}
	if b := at(0, 512); b != nil && b[510] == 0x55 && b[511] == 0xAA && mbrPartitions(b) {
		found = append(found, "mbr")
	}
	// md 0.90 and 1.0 keep their superblock near the end.
	for _, off := range []int64{size&^65535 - 65536, (size - 8192) &^ 4095} {
		if b := at(off, 4); b != nil && (binary.LittleEndian.Uint32(b) == 0xa92b4efc) {
			found = append(found, "md")
		}
	}
	if zfs(at(128<<10, 128<<10)) {
		found = append(found, "zfs")
	}
	return found
}

// mbrPartitions tells a partition table from a plain boot sector; the protective entry of GPT does not count.
func mbrPartitions(b []byte) bool {
	for i := range 4 {
		e := b[446+16*i : 462+16*i]
		if e[0]&0x7F != 0 {
			return false
		}
		if e[4] != 0 && e[4] != 0xEE {
			return true
		}
	}
	return false
}

// zfs looks for an uberblock in the ring of the first label: 128 slots of 1 KiB, either byte order.
func zfs(ring []byte) bool {
	for i := 0; i+8 <= len(ring); i += 1024 {
		if bytes.Equal(ring[i:i+8], []byte("\x0c\xb1\xba\x00\x00\x00\x00\x00")) || bytes.Equal(ring[i:i+8], []byte("\x00\x00\x00\x00\x00\xba\xb1\x0c")) {
			return true
		}
	}
	return false
}
