package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

const (
	sector     = 512
	mib        = 1 << 20
	headBytes  = mib // what is written last: boot sector, GPT, and what lies before the first aligned partition
	seedBytes  = 16 * mib
	alignLBA   = mib / sector
	maxEntries = 256 // entries of a GPT: 128 everywhere; more is refused, not truncated
)

// ErrNoGPT says that the image does not begin with a valid GUID partition table.
var ErrNoGPT = errors.New("image has no valid GPT")

// ErrTooSmall says that the disk has no room for the image and the 16 MiB seed.
var ErrTooSmall = errors.New("disk is too small for the image")

// guid is the mixed-endian form of the UEFI specification, section 5.3 and appendix A.
type guid [16]byte

func parseGUID(s string) (g guid) {
	var a uint32
	var b, c uint16
	var d, e []byte
	if _, err := fmt.Sscanf(s, "%08X-%04X-%04X-%X-%X", &a, &b, &c, &d, &e); err != nil {
		panic("bad GUID constant " + s) // ours, not input
	}
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	copy(g[8:], append(d, e...))
	return g
}

// The partition types that matter. Sources: UEFI specification table 5.7; Discoverable Partitions Specification.
const (
	typeLinux     = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	typeRootX64   = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
	typeRootARM64 = "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"
	typeBasicData = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
)

// gpt is a table in memory.
type gpt struct {
	header    []byte // 92 octets
	entries   []byte // count x size
	size      int    // octets of one entry
	firstUse  uint64
	tableLBA  uint64
	protected []byte // LBA 0
}

// parseGPT reads the primary table of an image of imageBytes octets from its first MiB. Errors: ErrNoGPT.
func parseGPT(head []byte, imageBytes uint64) (*gpt, error) {
	bad := func(what string) (*gpt, error) {
		return nil, fmt.Errorf("cannot read partition table: %w: %s", ErrNoGPT, what)
	}
	if len(head) < headBytes || string(head[sector:sector+8]) != "EFI PART" {
		return bad("no header")
	}
	h := bytes.Clone(head[sector : sector+92])
	le := binary.LittleEndian
	if le.Uint32(h[12:]) != 92 {
		return bad("header size")
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if crc32.ChecksumIEEE(h) != sum {
		return bad("header checksum")
	}
	table, n, size := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if size < 128 || size > 4096 || size%128 != 0 || n == 0 || n > maxEntries || table < 2 || table > headBytes/sector {
		return bad("table geometry")
	}
	end := table*sector + uint64(n)*uint64(size)
	if end > headBytes {
		return bad("table beyond the first MiB")
	}
	g := &gpt{
		header: h, entries: bytes.Clone(head[table*sector : end]), size: int(size), firstUse: le.Uint64(h[40:]),
		tableLBA: table, protected: bytes.Clone(head[:sector]),
	}
	if crc32.ChecksumIEEE(g.entries) != le.Uint32(h[88:]) {
		return bad("table checksum")
	}
	for i := range g.count() {
		e := g.entry(i)
		if !e.used() {
			continue
		}
		if e.first() < alignLBA && e.first()*sector < end || e.last() < e.first() || e.last() >= imageBytes/sector {
			return bad(fmt.Sprintf("partition %d lies outside the image", i+1))
		}
	}
	return g, nil
}

type entry []byte

func (g *gpt) count() int        { return len(g.entries) / g.size }
func (g *gpt) entry(i int) entry { return entry(g.entries[i*g.size : (i+1)*g.size]) }
func (e entry) used() bool       { return !bytes.Equal(e[:16], make([]byte, 16)) }
func (e entry) first() uint64    { return binary.LittleEndian.Uint64(e[32:]) }
func (e entry) last() uint64     { return binary.LittleEndian.Uint64(e[40:]) }
func (e entry) is(t string) bool { g := parseGUID(t); return bytes.Equal(e[:16], g[:]) }
func (e entry) setLast(l uint64) { binary.LittleEndian.PutUint64(e[40:], l) }

// layout is a table fitted to a disk.
type layout struct {
	head    []byte // first MiB, complete
	tail    []byte // from tailOff to the end of the disk: backup table and header
	tailOff int64
	seedOff int64 // of the cidata partition, seedBytes long
	grown   int   // number of the partition that grew, 0 = none
}

// tailBytes is the space for the backup table at the end of the disk, rounded to what O_DIRECT takes.
func tailOffset(diskBytes int64, tableBytes int) int64 {
	return (diskBytes - int64(sector) - int64(tableBytes)) &^ 4095
}

// fit moves the backup table to the end of the disk, gives the disk a new GUID, adds the cidata partition in the last
// aligned 16 MiB and grows the last partition up to it if that holds a Linux file system. Partition GUIDs stay: many
// images boot by them. rnd gives 32 random octets. Errors: ErrTooSmall; no free entry.
func (g *gpt) fit(head []byte, diskBytes int64, rnd io.Reader) (*layout, error) {
	le := binary.LittleEndian
	lastLBA := uint64(diskBytes/sector) - 1
	tableLBAs := uint64((len(g.entries) + sector - 1) / sector)
	lastUse := lastLBA - tableLBAs - 1
	if uint64(diskBytes) < 2*seedBytes || lastUse > lastLBA {
		return nil, fmt.Errorf("cannot place the seed: %w", ErrTooSmall)
	}
	seedFirst := (lastUse + 1 - seedBytes/sector) / alignLBA * alignLBA
	free, last := -1, -1
	for i := range g.count() {
		e := g.entry(i)
		switch {
		case !e.used():
			if free < 0 {
				free = i
			}
		case last < 0 || e.last() > g.entry(last).last():
			last = i
		}
	}
	if free < 0 {
		return nil, fmt.Errorf("cannot add the seed: no free entry in the partition table")
	}
	l := &layout{seedOff: int64(seedFirst * sector)}
	if last >= 0 {
		e := g.entry(last)
		if e.last() >= seedFirst {
			return nil, fmt.Errorf("cannot place the seed behind partition %d: %w", last+1, ErrTooSmall)
		}
		if e.is(typeLinux) || e.is(typeRootX64) || e.is(typeRootARM64) {
			e.setLast(seedFirst - 1)
			l.grown = last + 1
		}
	}
	var random [32]byte
	if _, err := io.ReadFull(rnd, random[:]); err != nil {
		return nil, fmt.Errorf("cannot make disk GUID: %w", err)
	}
	g.addSeed(free, seedFirst, random[16:])
	copy(g.header[56:72], version4(random[:16]))
	le.PutUint64(g.header[48:], lastUse)
	le.PutUint32(g.header[88:], crc32.ChecksumIEEE(g.entries))

	l.head = bytes.Clone(head)
	copy(l.head[sector:], g.sealed(1, lastLBA, g.tableLBA))
	copy(l.head[g.tableLBA*sector:], g.entries)
	protect(l.head[:sector], lastLBA)
	l.tailOff = tailOffset(diskBytes, int(tableLBAs)*sector)
	l.tail = alignedBuffer(int(diskBytes - l.tailOff))
	at := func(lba uint64) []byte { return l.tail[int64(lba*sector)-l.tailOff:] }
	copy(at(lastLBA-tableLBAs), g.entries)
	copy(at(lastLBA), g.sealed(lastLBA, 1, lastLBA-tableLBAs))
	return l, nil
}

func (g *gpt) addSeed(i int, first uint64, unique []byte) {
	e := g.entry(i)
	clear(e)
	t := parseGUID(typeBasicData)
	copy(e, t[:])
	copy(e[16:], version4(unique))
	binary.LittleEndian.PutUint64(e[32:], first)
	e.setLast(first + seedBytes/sector - 1)
	for j, u := range utf16.Encode([]rune("cidata")) {
		binary.LittleEndian.PutUint16(e[56+2*j:], u)
	}
}

// sealed returns the header for the given place, with its checksum.
func (g *gpt) sealed(self, other, table uint64) []byte {
	h := bytes.Clone(g.header)
	le := binary.LittleEndian
	le.PutUint64(h[24:], self)
	le.PutUint64(h[32:], other)
	le.PutUint64(h[72:], table)
	le.PutUint32(h[16:], 0)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	return h
}

// protect stretches the protective entry of the boot sector over the whole disk, as far as 32 bits go.
func protect(mbr []byte, lastLBA uint64) {
	for i := range 4 {
		if e := mbr[446+16*i : 462+16*i]; e[4] == 0xEE {
			binary.LittleEndian.PutUint32(e[12:], uint32(min(lastLBA, 0xFFFFFFFF)))
		}
	}
}

// version4 marks 16 random octets as a random GUID (RFC 9562 section 5.4) in the mixed-endian form.
func version4(b []byte) []byte {
	b[7] = b[7]&0x0F | 0x40
	b[8] = b[8]&0x3F | 0x80
	return b
}
