package erase

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// fake is a disk in memory with faults. Everything it was told to do stands in log.
type fake struct {
	data []byte
	log  []string

	sanicap, fna byte
	noFormat     bool
	namespaces   int

	lies     bool // says done, and does nothing
	ignores  bool // keeps nothing that is written
	refuses  bool // the erase command fails
	stuck    bool // a sanitize never moves
	fails    bool // a sanitize ends in failure
	leaves   bool // one sector of the canary stays
	writeErr int64
	readErr  bool
	onWrite  func(off int64)

	state, progress int
}

func newFake() *fake { return &fake{data: make([]byte, 32<<20), namespaces: 1, writeErr: -1} }

var errMedium = errors.New("medium error")

func (f *fake) ReadAt(b []byte, off int64) (int, error) {
	if f.readErr && f.state != 0 {
		return 0, errMedium
	}
	return copy(b, f.data[off:]), nil
}

func (f *fake) WriteAt(b []byte, off int64) (int, error) {
	if f.onWrite != nil {
		f.onWrite(off)
	}
	if f.writeErr >= 0 && off <= f.writeErr && f.writeErr < off+int64(len(b)) {
		return 0, errMedium
	}
	if f.ignores || (f.lies && len(b) == chunk) {
		return len(b), nil
	}
	return copy(f.data[off:], b), nil
}
func (f *fake) Sync() error  { return nil }
func (f *fake) Size() int64  { return int64(len(f.data)) }
func (f *fake) Close() error { return nil }

func (f *fake) wipe() {
	if f.lies {
		return
	}
	if f.leaves {
		clear(f.data[512:])
		return
	}
	clear(f.data)
}

func (f *fake) Admin(c Command, data []byte) (uint32, error) {
	switch c.Opcode {
	case opIdentify:
		switch c.CDW10 {
		case cnsController:
			if !f.noFormat {
				data[256] = oacsFormat
			}
			data[328], data[524] = f.sanicap, f.fna
		case cnsActive:
			for i := range f.namespaces {
				binary.LittleEndian.PutUint32(data[4*i:], uint32(i+1))
			}
		case cnsNamespace:
			data[26], data[29] = 0x11, 0x0a // LBA format 1, extended metadata; protection 2, first octets
		}
	case opFormat:
		f.log = append(f.log, fmt.Sprintf("format ns=%d cdw10=%#x", c.NSID, c.CDW10))
		if f.refuses {
			return 0, ErrDevice
		}
		f.state = sanDone
		f.wipe()
	case opSanitize:
		f.log = append(f.log, fmt.Sprintf("sanitize %d", c.CDW10))
		if f.refuses {
			return 0, ErrDevice
		}
		f.state, f.progress = sanRunning, 0
	case opGetLog:
		if f.state == sanRunning && !f.stuck {
			if f.progress += 0x4000; f.progress >= 0x10000 {
				f.state = sanDone
				if f.fails {
					f.state = sanFailed
				} else {
					f.wipe()
				}
			}
		}
		binary.LittleEndian.PutUint16(data, uint16(min(f.progress, 0xffff)))
		binary.LittleEndian.PutUint16(data[2:], uint16(f.state))
	}
	return 0, nil
}

func (f *fake) SCSI(CDB, []byte) (Sense, error) { return nil, ErrUnsupported }

func job(f *fake, media string, want erasure.Level) *Job {
	for i := range f.data {
		f.data[i] = byte(i>>9) | 1
	}
	return New(f, Disk{DiskID: intent.DiskID{Serial: "D1", SizeBytes: uint64(len(f.data))}, Media: media}, want)
}

func noProgress(string, uint64, uint64) {}

// Every medium times every fault: the goal, proven by reading the whole disk, or a named error; and nothing but the chosen method.
func TestMediaAndFaults(t *testing.T) {
	crypto := func(f *fake) { f.sanicap = sanCapCrypto | sanCapBlock }
	blocks := func(f *fake) { f.sanicap = sanCapBlock }
	fnaCr := func(f *fake) { f.fna = fnaCrypto }
	both := func(fs ...func(*fake)) func(*fake) {
		return func(f *fake) {
			for _, fn := range fs {
				fn(f)
			}
		}
	}
	for _, c := range []struct {
		name, media string
		want        erasure.Level
		set         func(*fake)
		method      string
		log         string
		err         error
	}{
		{"crypto sanitize first", "nvme", erasure.Purge, both(crypto, fnaCr), "nvme-sanitize-crypto", "[sanitize 4]", nil},
		{"block sanitize", "nvme", erasure.Purge, blocks, "nvme-sanitize-block", "[sanitize 2]", nil},
		{"format, crypto", "nvme", erasure.Purge, fnaCr, "nvme-format-crypto", "[format ns=1 cdw10=0x551]", nil},
		{"format, user data", "nvme", erasure.Purge, func(*fake) {}, "nvme-format-user-data", "[format ns=1 cdw10=0x351]", nil},
		{"purge where clear would do", "nvme", erasure.Clear, blocks, "nvme-sanitize-block", "[sanitize 2]", nil},
		{"nothing purges", "nvme", erasure.Purge, func(f *fake) { f.noFormat = true }, "", "[]", ErrNoMethod},
		{"overwrite by policy", "nvme", erasure.Clear, func(f *fake) { f.noFormat = true }, "overwrite", "[]", nil},
		{"two namespaces", "nvme", erasure.Purge, func(f *fake) { f.namespaces = 2 }, "", "[]", ErrUnsupported},
		{"sanitize refused: no format after it", "nvme", erasure.Clear, both(crypto, func(f *fake) { f.refuses = true }), "", "[sanitize 4]", ErrDevice},
		{"format refused: no overwrite after it", "nvme", erasure.Clear, func(f *fake) { f.refuses = true }, "", "[format ns=1 cdw10=0x351]", ErrDevice},
		{"sanitize lies", "nvme", erasure.Purge, both(crypto, func(f *fake) { f.lies = true }), "", "[sanitize 4]", ErrCanary},
		{"format lies", "nvme", erasure.Purge, func(f *fake) { f.lies = true }, "", "[format ns=1 cdw10=0x351]", ErrCanary},
		{"a sector stays", "nvme", erasure.Purge, both(blocks, func(f *fake) { f.leaves = true }), "", "[sanitize 2]", ErrCanary},
		{"sanitize fails", "nvme", erasure.Purge, both(blocks, func(f *fake) { f.fails = true }), "", "[sanitize 2]", ErrDevice},
		{"sanitize stuck", "nvme", erasure.Purge, both(blocks, func(f *fake) { f.stuck = true }), "", "[sanitize 2]", ErrStuck},
		{"no reading afterwards", "nvme", erasure.Purge, both(blocks, func(f *fake) { f.readErr = true }), "", "[sanitize 2]", errMedium},
		{"keeps nothing", "nvme", erasure.Purge, both(blocks, func(f *fake) { f.ignores = true }), "", "[]", ErrIgnored},
		{"disk, purge wanted", "hdd", erasure.Purge, func(*fake) {}, "", "[]", ErrNoMethod},
		{"virtual disk, purge wanted", "unknown", erasure.Purge, func(*fake) {}, "", "[]", ErrNoMethod},
		{"disk, overwrite", "hdd", erasure.Clear, func(*fake) {}, "overwrite", "[]", nil},
		{"virtual disk, overwrite", "unknown", erasure.Clear, func(*fake) {}, "overwrite", "[]", nil},
		{"overwrite lies", "ssd", erasure.Clear, func(f *fake) { f.lies = true }, "", "[]", ErrCanary},
		{"overwrite hits a bad block", "hdd", erasure.Clear, func(f *fake) { f.writeErr = 17<<20 + 1 }, "", "[]", errMedium},
		{"overwrite keeps nothing", "hdd", erasure.Clear, func(f *fake) { f.ignores = true }, "", "[]", ErrIgnored},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				c.set(f)
				j := job(f, c.media, c.want)
				err := j.Run(t.Context(), noProgress)
				if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
					t.Fatalf("Run: %v, want %v", err, c.err)
				}
				if got := fmt.Sprint(f.log); got != c.log {
					t.Errorf("commands %s, want %s", got, c.log)
				}
				if c.err != nil {
					if again := j.Run(t.Context(), noProgress); !errors.Is(again, c.err) {
						t.Errorf("a second Run: %v, want the same error", again)
					}
					return
				}
				d := j.Drive()
				if d.Method != c.method {
					t.Errorf("method %s, want %s", d.Method, c.method)
				}
				if err := d.Check(c.want); err != nil {
					t.Error(err)
				}
				for i, x := range f.data {
					if x != 0 {
						t.Fatalf("octet %d is %#x", i, x)
					}
				}
			})
		})
	}
}

// A job whose context ended goes on where it was, and does nothing twice.
func TestGoesOn(t *testing.T) {
	f := newFake()
	j := job(f, "hdd", erasure.Clear)
	ctx, cancel := context.WithCancel(t.Context())
	writes := map[int64]int{}
	f.onWrite = func(off int64) {
		if j.stage == stageErase {
			if writes[off]++; off == 12<<20 {
				cancel()
			}
		}
	}
	if err := j.Run(ctx, noProgress); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if err := j.Run(t.Context(), noProgress); err != nil {
		t.Fatal(err)
	}
	for off, n := range writes {
		if n != 1 {
			t.Errorf("offset %d was overwritten %d times", off, n)
		}
	}
	if len(writes) != 8 {
		t.Errorf("%d pieces were overwritten, want 8", len(writes))
	}
}

// A sanitize that an earlier boot began is waited for, and then another one is proven: nobody marked the disk for the first.
func TestWaitsForAnEarlierSanitize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.sanicap, f.state = sanCapBlock, sanRunning
		at := time.Now()
		j := job(f, "nvme", erasure.Purge)
		if err := j.Run(t.Context(), noProgress); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(f.log) != "[sanitize 2]" || time.Since(at) < 6*pollEvery {
			t.Errorf("%v after %v", f.log, time.Since(at))
		}
	})
}

// The kernel's own block layer under the overwrite: a file opened past the page cache would need a block device, so Open refuses files
// that are none, and the job is proven on the fake.
func TestOpenRefusesFiles(t *testing.T) {
	p := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(p, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := Open(p); err == nil {
		d.Close()
		t.Error("a plain file is taken for a disk")
	}
}

// A canary covers the first and the last block, no block twice, on any size.
func TestPlaces(t *testing.T) {
	for _, size := range []int64{block, 2 * block, 3 * block, 64*block + 512, 66 * block, 67 * block, 1 << 30, 1<<30 + 512} {
		ps := places(size, [32]byte{1})
		last := int64(-1)
		for i, p := range ps[:len(ps)-1] {
			if p <= last || p%block != 0 {
				t.Errorf("size %d: place %d is %d after %d", size, i, p, last)
			}
			last = p
		}
		if ps[0] != 0 || (len(ps) > 1 && ps[len(ps)-1] != size-block) || len(ps) < int(min(erasure.MinCanary, size/block)) {
			t.Errorf("size %d: %d places, from %d to %d", size, len(ps), ps[0], ps[len(ps)-1])
		}
	}
}
