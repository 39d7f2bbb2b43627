package erase

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// Device is one disk, open exclusively and past the page cache. Offsets and lengths are multiples of the logical block; buffers come
// from Aligned.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when everything written survives a power cut.
	Sync() error
	Size() int64
	// Admin sends an NVMe admin command and returns dword 0 of its completion. data is read or written by opcode bits 0 and 1.
	// Errors: ErrUnsupported for what is no NVMe; a status other than 0.
	Admin(c Command, data []byte) (uint32, error)
	// SCSI sends a command; data is read, or written if c.Write. It returns what the device says where the status is not GOOD, else nil.
	// Errors: ErrUnsupported for what takes no SCSI; what kept the command from the device.
	SCSI(c CDB, data []byte) (Sense, error)
	Close() error
}

// Disk says which disk a Job is for, as the inventory has it.
type Disk struct {
	intent.DiskID
	Vendor, Model, Firmware string
	Media                   string // nvme, ssd, hdd, unknown
}

// The errors callers and tests branch on.
var (
	ErrUnsupported = errors.New("the device has no such command")
	ErrNoMethod    = errors.New("no method reaches the wanted level")
	ErrCanary      = errors.New("the canary can still be read")
	ErrIgnored     = errors.New("the disk does not keep what is written")
	ErrStuck       = errors.New("no progress")
	ErrDevice      = errors.New("the device says that it failed")
)

const (
	block = 4096    // of a canary
	chunk = 4 << 20 // of an overwrite
	// pollEvery is the pause between questions to a device that sanitizes itself.
	pollEvery = 5 * time.Second
	// stuckAfter is how long a device may make no progress (boot.md section 8).
	stuckAfter = 30 * time.Minute
)

// method is one way to erase. run may be called again after its context ended.
type method struct {
	name  string
	level erasure.Level
	run   func(ctx context.Context, j *Job) (status string, err error)
}

// stage is how far a Job is.
type stage int

const (
	stageChoose stage = iota
	stageMark
	stageErase
	stageLook
	stageDone
)

// Job erases one disk. See New.
type Job struct {
	dev    Device
	want   erasure.Level
	report func(phase string, done, total uint64)

	stage  stage
	method method
	failed error // for good
	begun  bool
	seed   [32]byte
	marks  []int64
	off    int64  // overwritten so far
	polled bool   // a sanitize of this job was started
	less   error  // why the disk has less methods than it could
	unseen string // what could not be looked at, for the receipt
	drive  erasure.Drive
}

// New returns a job that did nothing yet. want is the level that must be reached; Clear takes purge where the medium has it.
func New(dev Device, d Disk, want erasure.Level) *Job {
	return &Job{dev: dev, want: want, drive: erasure.Drive{DiskID: d.DiskID, Vendor: d.Vendor, Model: d.Model, Firmware: d.Firmware, Media: d.Media}}
}

// Begun tells whether anything on the disk was changed.
func (j *Job) Begun() bool { return j.begun }

// Drive returns what a receipt says; only after Run returned nil.
func (j *Job) Drive() erasure.Drive { return j.drive }

// Close releases the disk.
func (j *Job) Close() error { return j.dev.Close() }

// Run erases. After ctx's error it may be called again and goes on; every other error is for good, and each later call returns it.
// progress, which may not be nil, gets the phase (choose, mark, erase, look) and octets or 1/65536ths of the whole.
func (j *Job) Run(ctx context.Context, progress func(phase string, done, total uint64)) error {
	j.report = progress
	for j.failed == nil && j.stage != stageDone {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("cannot go on erasing: %w", err)
		}
		err := j.step(ctx)
		switch {
		case err == nil:
			j.stage++
		case ctx.Err() != nil:
			return fmt.Errorf("cannot go on erasing: %w", ctx.Err())
		default:
			j.failed = fmt.Errorf("cannot erase disk %s%s by %s: %w", j.drive.WWN, j.drive.Serial, j.name(), err)
		}
	}
	return j.failed
}

func (j *Job) name() string {
	if j.method.name == "" {
		return "any method"
	}
	return j.method.name
}

func (j *Job) step(ctx context.Context) error {
	switch j.stage {
	case stageChoose:
		j.report("choose", 0, 0)
		return j.choose(ctx)
	case stageMark:
		j.report("mark", 0, uint64(len(j.marks)*block))
		return j.mark()
	case stageErase:
		status, err := j.method.run(ctx, j)
		j.drive.DeviceStatus = status + j.unseen
		return err
	default:
		return j.look(ctx)
	}
}

// choose takes the first method of the medium that the device says it has and that reaches the level. Once chosen it stays.
func (j *Job) choose(ctx context.Context) error {
	if j.drive.Start.IsZero() {
		j.drive.Start = time.Now().UTC()
	}
	if j.dev.Size() != int64(j.drive.SizeBytes) || j.dev.Size() < block {
		return fmt.Errorf("the disk has %d octets, permitted are %d: %w", j.dev.Size(), j.drive.SizeBytes, ErrDevice)
	}
	var methods []method
	var err error
	if j.drive.Media == "nvme" {
		methods, err = nvmeMethods(ctx, j)
	} else {
		methods, err = diskMethods(ctx, j)
	}
	if err != nil {
		return err
	}
	for _, m := range methods {
		if m.level.Reaches(j.want) {
			j.method, j.drive.Method, j.drive.Level = m, m.name, m.level
			return nil
		}
	}
	return errors.Join(fmt.Errorf("medium %s, wanted %s: %w", j.drive.Media, j.want, ErrNoMethod), j.less)
}

// mark takes the signatures away and writes the canary, and sees that it is there: a device that keeps nothing proves nothing.
func (j *Job) mark() error {
	if j.marks == nil {
		crand.Read(j.seed[:]) // never fails: Go 1.24
		j.marks = places(j.dev.Size(), j.seed)
		j.drive.Canary = erasure.Canary{Blocks: len(j.marks), SeedDigest: intent.DigestOf(j.seed[:])}
	}
	j.begun = true
	head := Aligned(int(min(1<<20, j.dev.Size())))
	for _, off := range []int64{0, j.dev.Size() - int64(len(head))} {
		if err := writeAt(j.dev, head, off); err != nil {
			return err
		}
	}
	b := Aligned(block)
	for i, off := range j.marks {
		j.fill(b, i)
		if err := writeAt(j.dev, b, off); err != nil {
			return err
		}
	}
	if err := j.dev.Sync(); err != nil {
		return err
	}
	found, err := j.found()
	if err == nil && found != len(j.marks) {
		err = fmt.Errorf("%d of %d blocks of the canary are there: %w", found, len(j.marks), ErrIgnored)
	}
	return err
}

// places spreads a canary over the disk: the first block, the last, and one at random in each of as many stripes.
func places(size int64, seed [32]byte) []int64 {
	blocks := size / block
	n := min(erasure.MinCanary+2, blocks)
	r := rand.New(rand.NewChaCha8(seed))
	out := []int64{0}
	for i := int64(1); i < n-1; i++ {
		from, to := 1+(i-1)*(blocks-2)/(n-2), 1+i*(blocks-2)/(n-2)
		out = append(out, (from+r.Int64N(to-from))*block)
	}
	if n > 1 {
		out = append(out, size-block)
	}
	return out
}

// fill makes block i of the canary.
func (j *Job) fill(b []byte, i int) {
	seed := j.seed
	seed[31] ^= byte(i)
	seed[30] ^= 0xa5
	rand.NewChaCha8(seed).Read(b)
}

// found counts the blocks of the canary of which a sector can be read back.
func (j *Job) found() (int, error) {
	want, got, n := make([]byte, block), Aligned(block), 0
	for i, off := range j.marks {
		j.fill(want, i)
		if _, err := j.dev.ReadAt(got, off); err != nil {
			return 0, fmt.Errorf("cannot read the canary at %d: %w", off, err)
		}
		for s := 0; s < block; s += 512 {
			if string(want[s:s+512]) == string(got[s:s+512]) {
				n++
				break
			}
		}
	}
	return n, nil
}

// look reads the canary back, and after an overwrite a tenth of the disk.
func (j *Job) look(ctx context.Context) error {
	j.report("look", 0, uint64(len(j.marks)*block))
	found, err := j.found()
	if err != nil {
		return err
	}
	if j.drive.Canary.Found = found; found > 0 {
		return fmt.Errorf("%d of %d blocks: %w", found, len(j.marks), ErrCanary)
	}
	if j.method.name == "overwrite" {
		if err := j.sample(ctx); err != nil {
			return err
		}
	}
	j.drive.End = time.Now().UTC()
	return nil
}

func writeAt(dev Device, b []byte, off int64) error {
	n, err := dev.WriteAt(b, off)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("cannot write %d octets at %d: %w", len(b), off, err)
	}
	return nil
}

// wait pauses, or ends with ctx.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
