package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/test/e2e/lab"
)

var errPower = errors.New("power cut")

// memDisk is a disk in memory. It loses power after left writes (negative: never), and flips a bit of what it stores
// at the offsets in flip.
type memDisk struct {
	mu   sync.Mutex
	b    []byte
	left int
	flip map[int64]bool
}

func newMemDisk(size int) *memDisk {
	d := &memDisk{b: make([]byte, size), left: -1}
	for i := range d.b { // an old system's data: stays unless overwritten
		d.b[i] = 0xEE
	}
	return d
}

func (d *memDisk) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(b, d.b[off:]), nil
}

func (d *memDisk) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off%sector != 0 || len(b)%sector != 0 || off+int64(len(b)) > int64(len(d.b)) {
		return 0, fmt.Errorf("write of %d at %d is not direct", len(b), off)
	}
	if d.left == 0 {
		return 0, errPower
	}
	d.left--
	n := copy(d.b[off:], b)
	if d.flip[off] {
		d.b[off] ^= 1
	}
	return n, nil
}

func (d *memDisk) Sync() error  { return nil }
func (d *memDisk) Size() int64  { return int64(len(d.b)) }
func (d *memDisk) Close() error { return nil }

var _ Device = (*memDisk)(nil)

// rawImage makes an image of size octets with an EFI and a Linux partition, as sfdisk would; data is random, with a hole.
func rawImage(size int) []byte {
	b := make([]byte, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := 2 * mib; i < size; i += 8 {
		if i/BlockSize != 1 { // block 1 stays zero
			binary.LittleEndian.PutUint64(b[i:], rnd.Uint64())
		}
	}
	b[446+4] = 0xEE
	binary.LittleEndian.PutUint32(b[446+8:], 1)
	b[510], b[511] = 0x55, 0xAA
	copy(b, "boot code")
	le := binary.LittleEndian
	entries := make([]byte, 128*128)
	part := func(i int, typ string, first, last uint64) {
		e := entries[i*128:]
		g := parseGUID(typ)
		copy(e, g[:])
		e[16] = byte(i + 1)
		le.PutUint64(e[32:], first)
		le.PutUint64(e[40:], last)
	}
	part(0, typeBasicData, 2048, 4095)
	part(1, typeLinux, 4096, uint64(size/sector)-2048)
	h := make([]byte, 92)
	copy(h, "EFI PART\x00\x00\x01\x00\x5c")
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], uint64(size/sector)-1)
	le.PutUint64(h[40:], 34)
	le.PutUint64(h[48:], uint64(size/sector)-34)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	copy(b[sector:], h)
	copy(b[2*sector:], entries)
	return b
}

func manifest(t testing.TB, b []byte) *chunk.Manifest {
	t.Helper()
	m, err := chunk.ScanManifest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func seed() map[string]string {
	return map[string]string{
		"meta-data": "instance-id: i-1\n", "user-data": "#cloud-config\n" + strings.Repeat("# fill\n", 1000), "network-config": "version: 2\n",
		"vendor-data": "", "exactly13char": "thirteen",
	}
}

// install writes img to d in the order in which an installer does.
func install(d Device, m *chunk.Manifest, img []byte) (*Writer, error) {
	w, err := NewWriter(d, m)
	if err != nil {
		return nil, err
	}
	for i := range w.Blocks() {
		off, n := w.Block(i)
		switch {
		case i == 0:
			err = w.Start(img[:n])
		case w.IsZero(i):
			err = w.PutZero(i)
		default:
			err = w.Put(i, img[off:off+int64(n)])
		}
		if err != nil {
			return w, err
		}
	}
	if err := w.Verify(context.Background(), true, nil); err != nil {
		return w, err
	}
	_, err = w.Finish(seed())
	return w, err
}

func TestInstalledDiskIsJudgedByOthers(t *testing.T) {
	img := rawImage(11*mib + 512)
	d := newMemDisk(64*mib + 7*sector)
	w, err := install(d, manifest(t, img), img)
	if err != nil {
		t.Fatal(err)
	}
	if w.Written() != 3 || !w.IsZero(1) {
		t.Errorf("written %d blocks, want 3; block 1 zero: %v", w.Written(), w.IsZero(1))
	}
	if !bytes.Equal(d.b[mib:11*mib], img[mib:11*mib]) || string(d.b[:9]) != "boot code" {
		t.Error("the disk does not hold the image")
	}
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, d.b, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(pkg, name string, args ...string) string {
		t.Helper()
		lab.Need(t, lab.Tool(name, pkg))
		c := exec.Command(name, args...)
		c.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=0", "LC_ALL=C")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		return string(out)
	}
	if out := run("fdisk", "sfdisk", "--verify", path); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk: %s", out)
	}
	dump := run("fdisk", "sfdisk", "-o", "Start,End,Name", "--list", path)
	for _, want := range []string{"2048 4095", "4096 96255", "96256 129023 cidata"} {
		if !strings.Contains(strings.Join(strings.Fields(dump), " "), want) {
			t.Errorf("table lacks %q:\n%s", want, dump)
		}
	}
	at := path + "@@47M"
	got := map[string]string{}
	for name := range seed() {
		got[name] = run("mtools", "mcopy", "-n", "-i", at, "::"+name, "-")
	}
	if diff := cmp.Diff(seed(), got); diff != "" {
		t.Errorf("seed: -want +got\n%s", diff)
	}
	vol, err := buildSeed(seed())
	if err != nil {
		t.Fatal(err)
	}
	fat := filepath.Join(t.TempDir(), "fat.img")
	if err := os.WriteFile(fat, vol, 0o644); err != nil {
		t.Fatal(err)
	}
	run("dosfstools", "fsck.fat", "-n", fat)
}

// bootable tells what firmware would see: a boot signature or a partition table at either end.
func bootable(b []byte) bool {
	return b[510] == 0x55 || bytes.Contains(b[:mib], []byte("EFI PART")) || bytes.Contains(b[len(b)-mib:], []byte("EFI PART"))
}

// TestPowerCutLeavesNothingBootable cuts the power at every possible write.
func TestPowerCutLeavesNothingBootable(t *testing.T) {
	img := rawImage(9 * mib)
	m := manifest(t, img)
	rapid.Check(t, func(t *rapid.T) {
		d := newMemDisk(40 * mib)
		copy(d.b, rawImage(4 * mib)[:mib]) // an older system boots from it
		d.left = rapid.IntRange(1, 12).Draw(t, "writes")
		_, err := install(d, m, img)
		switch {
		case err == nil && !bootable(d.b):
			t.Fatal("installed, but not bootable")
		case err != nil && !errors.Is(err, errPower):
			t.Fatal(err)
		case err != nil && d.b[510] == 0x55:
			t.Fatalf("bootable after %v", err)
		}
	})
}

func TestRefusals(t *testing.T) {
	img := rawImage(9 * mib)
	f := func(name string, want error, size int, change func([]byte)) {
		t.Helper()
		b := bytes.Clone(img)
		change(b)
		d := newMemDisk(size)
		before := bytes.Clone(d.b)
		if _, err := install(d, manifest(t, b), b); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if !bytes.Equal(before, d.b) {
			t.Errorf("%s: the disk was touched", name)
		}
	}
	f("small disk", ErrTooSmall, 24*mib, func([]byte) {})
	f("qcow2", ErrFormat, 40*mib, func(b []byte) { copy(b, "QFI\xfb") })
	f("no table", ErrNoGPT, 40*mib, func(b []byte) { b[sector] = 0 })
	f("header sum", ErrNoGPT, 40*mib, func(b []byte) { b[sector+60] ^= 1 })
	f("table sum", ErrNoGPT, 40*mib, func(b []byte) { b[1024+40] ^= 1 })
}

func TestWrongChunkIsNotWritten(t *testing.T) {
	img := rawImage(9 * mib)
	m := manifest(t, img)
	d := newMemDisk(40 * mib)
	w, err := NewWriter(d, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Put(2, img[8*mib:]); err == nil {
		t.Error("a block before Start was taken")
	}
	if err := w.Start(img[:BlockSize]); err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(img[8*mib:])
	bad[0] ^= 1
	before := bytes.Clone(d.b)
	var ce *ChunkError
	if err := w.Put(2, bad); !errors.As(err, &ce) || ce.Chunk != 8 {
		t.Errorf("bad chunk: %v", err)
	}
	if err := w.Put(2, bad[:100]); err == nil {
		t.Error("a short block was taken")
	}
	if !bytes.Equal(before, d.b) || w.Have(2) {
		t.Error("a bad block was written")
	}
	if err := w.Verify(t.Context(), true, nil); err == nil {
		t.Error("verified with missing blocks")
	}
	if err := w.Abort(); err != nil || bootable(d.b) {
		t.Errorf("abort: %v", err)
	}
}

func TestReadBackFindsBitFlip(t *testing.T) {
	img := rawImage(9 * mib)
	for _, off := range []int64{mib, 8 * mib, 0, 23 * mib, 24*mib + 4096} {
		d := newMemDisk(40 * mib)
		d.flip = map[int64]bool{off: true}
		_, err := install(d, manifest(t, img), img)
		var want error
		if off != 24*mib+4096 { // nothing is written there: no fault
			want = ErrReadback
		}
		if !errors.Is(err, want) {
			t.Errorf("flip at %d: %v, want %v", off, err, want)
		}
	}
}

func FuzzGPT(f *testing.F) {
	img := rawImage(4 * mib)
	// The input is a header and the first entries, so that it stays small and the fuzzer fast.
	f.Add(append(bytes.Clone(img[sector:sector+92]), img[2*sector:3*sector]...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		head := make([]byte, headBytes)
		copy(head[sector:], b[:min(len(b), 92)])
		copy(head[2*sector:], b[min(len(b), 92):])
		// The checksums stand in the fuzzer's way: mend them where the geometry is sane.
		le := binary.LittleEndian
		if table, n := le.Uint64(head[sector+72:]), le.Uint32(head[sector+80:]); table < 100 && n < 1000 {
			if end := table*sector + uint64(n)*128; end < headBytes {
				le.PutUint32(head[sector+88:], crc32.ChecksumIEEE(head[table*sector:end]))
			}
		}
		le.PutUint32(head[sector+16:], 0)
		le.PutUint32(head[sector+16:], crc32.ChecksumIEEE(head[sector:sector+92]))
		g, err := parseGPT(head, 4*mib)
		if err != nil {
			return
		}
		l, err := g.fit(head, 64*mib, bytes.NewReader(make([]byte, 32)))
		if err != nil {
			return
		}
		if _, err := parseGPT(l.head, 64*mib); err != nil {
			t.Fatalf("our own table is not accepted: %v", err)
		}
	})
}
