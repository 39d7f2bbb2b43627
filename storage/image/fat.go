package image

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"
)

// Geometry of the seed volume: FAT16, because 16 MiB in clusters of 2 KiB are 8,100 clusters, inside FAT16's 4,085 to
// 65,524. Source: Microsoft, FAT: General Overview of On-Disk Format, 1.03.
const (
	fatCluster  = 2048
	fatReserved = 4   // sectors before the first FAT
	fatSectors  = 32  // of one FAT: 8,192 entries of 2 octets
	fatRoot     = 512 // entries of the root directory: 32 sectors
	fatFirst    = fatReserved + 2*fatSectors + fatRoot*32/sector
	maxSeedFile = 1 << 20
)

// buildSeed returns a FAT16 volume of seedBytes octets, labelled CIDATA, with the given files in its root directory.
// Names are printable ASCII, 1 to 64 octets. The volume has no times: equal files give equal octets.
func buildSeed(files map[string]string) ([]byte, error) {
	v := alignedBuffer(seedBytes)
	bootSector(v)
	le := binary.LittleEndian
	fat := make([]byte, fatSectors*sector)
	le.PutUint16(fat, 0xFFF8)
	le.PutUint16(fat[2:], 0xFFFF)
	root := v[(fatFirst-fatRoot*32/sector)*sector : fatFirst*sector]
	copy(root, "CIDATA     ")
	root[11] = 0x08
	slot, cluster := 1, 2
	for i, name := range slices.Sorted(maps.Keys(files)) {
		data := files[name]
		if !seedName(name) || len(data) > maxSeedFile {
			return nil, fmt.Errorf("cannot put file %q of %d octets into the seed", name[:min(len(name), 64)], len(data))
		}
		n := (len(data) + fatCluster - 1) / fatCluster
		dir := dirEntries(name, i, cluster, len(data))
		if cluster+n > (seedBytes-fatFirst*sector)/fatCluster || slot*32+len(dir) > len(root) {
			return nil, fmt.Errorf("cannot put %d files into the seed: no room", len(files))
		}
		slot += copy(root[slot*32:], dir) / 32
		copy(v[fatFirst*sector+(cluster-2)*fatCluster:], data)
		for j := range n {
			next := uint16(cluster + 1)
			if j == n-1 {
				next = 0xFFFF
			}
			le.PutUint16(fat[2*cluster:], next)
			cluster++
		}
	}
	copy(v[fatReserved*sector:], fat)
	copy(v[(fatReserved+fatSectors)*sector:], fat)
	return v, nil
}

func seedName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`\/:*?"<>|`, c) })
}

func bootSector(v []byte) {
	le := binary.LittleEndian
	copy(v, "\xEB\x3C\x90SKERRY  ")
	le.PutUint16(v[11:], sector)
	v[13] = fatCluster / sector
	le.PutUint16(v[14:], fatReserved)
	v[16] = 2
	le.PutUint16(v[17:], fatRoot)
	le.PutUint16(v[19:], seedBytes/sector)
	v[21] = 0xF8
	le.PutUint16(v[22:], fatSectors)
	le.PutUint16(v[24:], 32)
	le.PutUint16(v[26:], 64)
	v[36], v[38] = 0x80, 0x29
	le.PutUint32(v[39:], 0x534B5259)
	copy(v[43:], "CIDATA     FAT16   ")
	v[510], v[511] = 0x55, 0xAA
}

// dirEntries returns the long-name entries and the short one, which is called SKERRYnn and exists for the form only.
func dirEntries(name string, i, cluster, size int) []byte {
	short := fmt.Sprintf("SKERRY%02d   ", i%100)
	sum := byte(0)
	for _, c := range []byte(short) {
		sum = (sum&1)<<7 + sum>>1 + c
	}
	u := append(utf16.Encode([]rune(name)), 0)
	for len(u)%13 != 0 {
		u = append(u, 0xFFFF)
	}
	if len(name)%13 == 0 { // an exact fit has neither end nor fill
		u = u[:len(name)]
	}
	n := len(u) / 13
	out := make([]byte, 0, (n+1)*32)
	le := binary.LittleEndian
	for k := n; k >= 1; k-- {
		e := make([]byte, 32)
		e[0] = byte(k)
		if k == n {
			e[0] |= 0x40
		}
		e[11], e[13] = 0x0F, sum
		for j, off := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			le.PutUint16(e[off:], u[(k-1)*13+j])
		}
		out = append(out, e...)
	}
	e := make([]byte, 32)
	copy(e, short)
	e[11] = 0x20
	le.PutUint16(e[24:], 1<<5|1) // 1980-01-01, the first day that FAT knows
	if size > 0 {
		le.PutUint16(e[26:], uint16(cluster))
	}
	le.PutUint32(e[28:], uint32(size))
	return append(out, e...)
}
