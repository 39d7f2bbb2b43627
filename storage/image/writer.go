package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// BlockSize is the unit of writing: large enough for HDDs and RAID stripes, small enough to hold several in memory.
const BlockSize = 4 * mib

// ErrFormat says that the image is not raw: known by its first octets, never by its name.
var ErrFormat = errors.New("image is not a raw disk")

// ErrReadback says that the disk gave back other octets than were written.
var ErrReadback = errors.New("disk reads back other data than was written")

// ChunkError names a chunk whose octets are not those of the manifest. Nothing of its block was written.
type ChunkError struct{ Chunk int }

// Error names the chunk.
func (e *ChunkError) Error() string { return fmt.Sprintf("chunk %d is not the manifest's", e.Chunk) }

// BadChunk returns the chunk's index; boot/install looks for this method.
func (e *ChunkError) BadChunk() int { return e.Chunk }

// Writer writes one image to one disk. The order: Start with block 0, Put all others, Verify, Finish; Abort at any failure.
type Writer struct {
	dev    Device
	m      *chunk.Manifest
	per    int // chunks in a block
	zero   intent.Digest
	head   []byte // first MiB of the image, from Start on
	table  *gpt
	have   []atomic.Bool // by block
	begun  bool
	blocks atomic.Uint64 // written so far

	hashing, writing, reading atomic.Int64 // busy nanoseconds
}

// NewWriter checks that the image fits the disk. Nothing is written. Errors: ErrTooSmall, ErrFormat (shorter than a MiB).
func NewWriter(dev Device, m *chunk.Manifest) (*Writer, error) {
	if m.Size < headBytes || m.Size%sector != 0 {
		return nil, fmt.Errorf("cannot write an image of %d octets: %w", m.Size, ErrFormat)
	}
	if int64(m.Size) > dev.Size()-seedBytes-2*mib {
		return nil, fmt.Errorf("cannot write %d octets to a disk of %d: %w", m.Size, dev.Size(), ErrTooSmall)
	}
	w := &Writer{dev: dev, m: m, per: BlockSize / int(m.ChunkSize), zero: intent.DigestOf(make([]byte, m.ChunkSize))}
	w.have = make([]atomic.Bool, (int64(m.Size)+BlockSize-1)/BlockSize)
	return w, nil
}

// Blocks returns the number of blocks, at least 1.
func (w *Writer) Blocks() int { return len(w.have) }

// Block returns offset and length in octets of block i; only the last one is shorter than BlockSize.
func (w *Writer) Block(i int) (off int64, n int) {
	off = int64(i) * BlockSize
	return off, int(min(BlockSize, int64(w.m.Size)-off))
}

// Buffer returns a buffer that Put takes: BlockSize octets, aligned.
func (w *Writer) Buffer() []byte { return alignedBuffer(BlockSize) }

// Have tells whether block i is on the disk.
func (w *Writer) Have(i int) bool { return w.have[i].Load() }

// Written returns how many blocks were written; no block is written twice.
func (w *Writer) Written() uint64 { return w.blocks.Load() }

// Begun tells whether anything on the disk was changed.
func (w *Writer) Begun() bool { return w.begun }

// IsZero tells from the manifest alone whether block i holds only zeros.
func (w *Writer) IsZero(i int) bool {
	off, n := w.Block(i)
	if n%int(w.m.ChunkSize) != 0 {
		return false
	}
	first := int(off / int64(w.m.ChunkSize))
	for c := first; c < first+n/int(w.m.ChunkSize); c++ {
		if w.m.Chunks[c] != w.zero {
			return false
		}
	}
	return true
}

// Busy returns how long the stages hash, write and read-back were at work, summed over all callers.
func (w *Writer) Busy() map[string]time.Duration {
	return map[string]time.Duration{
		"hash": time.Duration(w.hashing.Load()), "write": time.Duration(w.writing.Load()),
		"readback": time.Duration(w.reading.Load()),
	}
}

func timed(to *atomic.Int64, fn func() error) error {
	at := time.Now()
	err := fn()
	to.Add(int64(time.Since(at)))
	return err
}

// check hashes the chunks of block i. Errors: *ChunkError.
func (w *Writer) check(i int, b []byte) error {
	return timed(&w.hashing, func() error {
		off, _ := w.Block(i)
		size := int(w.m.ChunkSize)
		for c := int(off / int64(size)); len(b) > 0; c++ {
			n := min(size, len(b))
			if !w.m.VerifyChunk(c, b[:n]) {
				return &ChunkError{c}
			}
			b = b[n:]
		}
		return nil
	})
}

// Start takes block 0, checks it and its partition table, zeroes the first and the last MiB of the disk, and writes what of
// block 0 lies behind the first MiB. Errors: *ChunkError, ErrFormat, ErrNoGPT (and then nothing was written).
func (w *Writer) Start(b []byte) error {
	_, n := w.Block(0)
	if len(b) != n {
		return fmt.Errorf("cannot start with %d octets, want %d", len(b), n)
	}
	if err := w.check(0, b); err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	if f := foreignFormat(b); f != "" {
		return fmt.Errorf("cannot start: %w: it is %s", ErrFormat, f)
	}
	var err error
	if w.table, err = parseGPT(b[:headBytes], w.m.Size); err != nil {
		return err
	}
	w.head = bytes.Clone(b[:headBytes])
	w.begun = true
	if err := w.blank(); err != nil {
		return err
	}
	if n > headBytes {
		if err := w.write(b[headBytes:], headBytes); err != nil {
			return err
		}
	}
	w.have[0].Store(true)
	w.blocks.Add(1)
	return nil
}

// foreignFormat names a container or compression format by its magic.
func foreignFormat(b []byte) string {
	for _, f := range []struct{ magic, name string }{
		{"QFI\xfb", "qcow2"},
		{"KDMV", "vmdk"},
		{"vhdxfile", "vhdx"},
		{"\x1f\x8b", "gzip"},
		{"\xfd7zXZ", "xz"},
		{"\x28\xb5\x2f\xfd", "zstd"},
		{"BZh", "bzip2"},
		{"PK\x03\x04", "zip"},
	} {
		if bytes.HasPrefix(b, []byte(f.magic)) {
			return f.name
		}
	}
	return ""
}

// blank zeroes the first MiB and the last and makes that durable.
func (w *Writer) blank() error {
	z := alignedBuffer(mib)
	tail := (w.dev.Size() - mib) &^ 4095
	if err := w.write(z, 0); err != nil {
		return err
	}
	if err := w.write(alignedBuffer(int(w.dev.Size()-tail)), tail); err != nil {
		return err
	}
	return w.dev.Sync()
}

// write pads b with zeros to a multiple of 4096; b has the capacity for it or is copied.
func (w *Writer) write(b []byte, off int64) error {
	if len(b)%directAlign != 0 {
		p := alignedBuffer((len(b) + directAlign - 1) / directAlign * directAlign)
		copy(p, b)
		b = p[:min(int64(len(p)), w.dev.Size()-off)]
	}
	return timed(&w.writing, func() error {
		n, err := w.dev.WriteAt(b, off)
		if err == nil && n != len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("cannot write %d octets at %d: %w", len(b), off, err)
		}
		return nil
	})
}

// Put checks block i > 0 and writes it. b has exactly the block's length and should come from Buffer. A block that is
// there already is left alone. Errors: *ChunkError (nothing was written), the device's.
func (w *Writer) Put(i int, b []byte) error {
	if w.Have(i) {
		return nil
	}
	off, n := w.Block(i)
	if len(b) != n {
		return fmt.Errorf("cannot put %d octets as block %d of %d", len(b), i, n)
	}
	if err := w.check(i, b); err != nil {
		return fmt.Errorf("cannot put block %d: %w", i, err)
	}
	return w.store(i, off, b)
}

// PutZero writes zeros as block i, for which IsZero holds.
func (w *Writer) PutZero(i int) error {
	if w.Have(i) || !w.IsZero(i) {
		return nil
	}
	off, n := w.Block(i)
	return w.store(i, off, alignedBuffer(n))
}

func (w *Writer) store(i int, off int64, b []byte) error {
	if w.table == nil || i == 0 {
		return fmt.Errorf("cannot put block %d: not started", i)
	}
	if err := w.write(b, off); err != nil {
		return err
	}
	w.have[i].Store(true)
	w.blocks.Add(1)
	return nil
}

// Verify flushes the disk and reads back, past every cache, all blocks (or the first, the last and every sixteenth), and
// compares them with the manifest. The first MiB is not there yet: Finish reads it back. progress, if not nil, gets the
// octets read so far. Errors: ErrReadback, a missing block, the device's.
func (w *Writer) Verify(ctx context.Context, full bool, progress func(uint64)) error {
	for i := range w.have {
		if !w.Have(i) {
			return fmt.Errorf("cannot verify: block %d was not written", i)
		}
	}
	if err := w.dev.Sync(); err != nil {
		return err
	}
	b := w.Buffer()
	var done uint64
	for i := range w.have {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("cannot verify: %w", err)
		}
		if !full && i%16 != 0 && i != len(w.have)-1 {
			continue
		}
		off, n := w.Block(i)
		if err := w.read(b[:(n+directAlign-1)/directAlign*directAlign], off); err != nil {
			return err
		}
		if i == 0 {
			copy(b, w.head)
		}
		var bad *ChunkError
		if err := w.check(i, b[:n]); errors.As(err, &bad) {
			return fmt.Errorf("cannot verify chunk %d: %w", bad.Chunk, ErrReadback)
		}
		done += uint64(n)
		if progress != nil {
			progress(done)
		}
	}
	return nil
}

func (w *Writer) read(b []byte, off int64) error {
	b = b[:min(int64(len(b)), w.dev.Size()-off)]
	return timed(&w.reading, func() error {
		if _, err := w.dev.ReadAt(b, off); err != nil {
			return fmt.Errorf("cannot read back %d octets at %d: %w", len(b), off, err)
		}
		return nil
	})
}

// Finish fits the partition table to the disk, writes the seed volume and the backup table, reads them back, and last
// writes and reads back the first MiB: from then on the disk boots. Call it after Verify only. It returns a sentence for
// the log.
func (w *Writer) Finish(seed map[string]string) (string, error) {
	vol, err := buildSeed(seed)
	if err != nil {
		return "", err
	}
	l, err := w.table.fit(w.head, w.dev.Size(), rand.Reader)
	if err != nil {
		return "", err
	}
	head := alignedBuffer(headBytes)
	copy(head, l.head)
	if err := w.place(vol, l.seedOff); err != nil {
		return "", err
	}
	if err := w.place(l.tail, l.tailOff); err != nil {
		return "", err
	}
	if err := w.place(head, 0); err != nil {
		return "", err
	}
	return fmt.Sprintf("seed at %d MiB, partition %d grown (0 = none)", l.seedOff/mib, l.grown), nil
}

// place writes b, makes it durable and reads it back.
func (w *Writer) place(b []byte, off int64) error {
	if err := w.write(b, off); err != nil {
		return err
	}
	if err := w.dev.Sync(); err != nil {
		return err
	}
	got := alignedBuffer(len(b))
	if err := w.read(got, off); err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("cannot verify %d octets at %d: %w", len(b), off, ErrReadback)
	}
	return nil
}

// Abort makes sure that nothing on the disk boots: it zeroes the first and the last MiB, if anything was written at all.
func (w *Writer) Abort() error {
	if !w.begun {
		return nil
	}
	return w.blank()
}
