package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is a disk that is being written. Offsets and lengths are multiples of 512, buffers come from alignedBuffer.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when everything written survives a power cut.
	Sync() error
	Size() int64
	Close() error
}

// ErrInUse says that the kernel holds the disk: mounted, part of an array, or open exclusively elsewhere.
var ErrInUse = errors.New("disk is in use")

// ErrGeometry says that the disk is not the one that was permitted, or one we cannot write.
var ErrGeometry = errors.New("disk geometry does not fit")

// Disk is a block device, open with O_DIRECT and exclusively.
type Disk struct {
	f    *os.File
	size int64
}

// OpenDisk opens a block device for writing past the page cache. sizeBytes is the permitted size: another one is
// ErrGeometry, and so are logical blocks other than 512 octets. Errors: ErrInUse, ErrGeometry.
func OpenDisk(path string, sizeBytes int64) (*Disk, error) {
	// O_EXCL without O_CREAT on a block device: the kernel refuses when anything holds it (open(2)).
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("cannot open %s: %w", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	d := &Disk{f: f}
	var n uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); e != 0 {
		f.Close()
		return nil, fmt.Errorf("cannot get size of %s: %w", path, e)
	}
	block, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil || block != sector || int64(n) != sizeBytes {
		f.Close()
		return nil, fmt.Errorf("cannot use %s with %d octets in blocks of %d, wanted %d in blocks of %d: %w", path, n, block, sizeBytes, sector, ErrGeometry)
	}
	d.size = int64(n)
	return d, nil
}

// ReadAt reads from the medium, not from the page cache.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) { return d.f.ReadAt(b, off) }

// WriteAt writes to the device; Sync makes it last.
func (d *Disk) WriteAt(b []byte, off int64) (int, error) { return d.f.WriteAt(b, off) }

// Sync flushes the device's own cache.
func (d *Disk) Sync() error {
	if err := unix.Fdatasync(int(d.f.Fd())); err != nil {
		return fmt.Errorf("cannot sync %s: %w", d.f.Name(), err)
	}
	return nil
}

// Size returns octets.
func (d *Disk) Size() int64 { return d.size }

// Close releases the disk.
func (d *Disk) Close() error { return d.f.Close() }

// directAlign is the alignment of buffers for O_DIRECT: the page size satisfies every driver.
const directAlign = 4096

// alignedBuffer returns n zeroed octets that begin at a multiple of 4096.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+directAlign)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % directAlign)
	return b[skip : skip+n : skip+n]
}
