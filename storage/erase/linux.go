package erase

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrInUse says that the kernel holds the disk.
var ErrInUse = errors.New("disk is in use")

// linuxDisk is a block device of Linux.
type linuxDisk struct {
	f    *os.File
	size int64
}

// Open opens a block device past the page cache; the kernel refuses it while anything holds it. Errors: ErrInUse.
func Open(path string) (Device, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_EXCL, 0) // O_EXCL: see open(2), of a block device
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("cannot open %s: %w", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	var n uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&n))); e != 0 {
		f.Close()
		return nil, fmt.Errorf("cannot get size of %s: %w", path, e)
	}
	return &linuxDisk{f: f, size: int64(n)}, nil
}

func (d *linuxDisk) ReadAt(b []byte, off int64) (int, error)  { return d.f.ReadAt(b, off) }
func (d *linuxDisk) WriteAt(b []byte, off int64) (int, error) { return d.f.WriteAt(b, off) }
func (d *linuxDisk) Size() int64                              { return d.size }
func (d *linuxDisk) Close() error                             { return d.f.Close() }

// Sync flushes the device's own cache.
func (d *linuxDisk) Sync() error {
	if err := unix.Fdatasync(int(d.f.Fd())); err != nil {
		return fmt.Errorf("cannot sync %s: %w", d.f.Name(), err)
	}
	return nil
}

// adminCmd is struct nvme_passthru_cmd of linux/nvme_ioctl.h, 72 octets.
type adminCmd struct {
	opcode, flags  uint8
	rsvd1          uint16
	nsid           uint32
	cdw2, cdw3     uint32
	metadata, addr uint64
	metaLen, len   uint32
	cdw10, cdw11   uint32
	cdw12, cdw13   uint32
	cdw14, cdw15   uint32
	timeoutMs      uint32
	result         uint32
}

// ioctlAdmin is NVME_IOCTL_ADMIN_CMD: _IOWR('N', 0x41, struct nvme_admin_cmd).
const ioctlAdmin = 0xc0484e41

// Admin implements Device.
func (d *linuxDisk) Admin(c Command, data []byte) (uint32, error) {
	cmd := adminCmd{opcode: c.Opcode, nsid: c.NSID, cdw10: c.CDW10, cdw11: c.CDW11, timeoutMs: uint32(c.Timeout / time.Millisecond)}
	if len(data) > 0 {
		cmd.addr, cmd.len = uint64(uintptr(unsafe.Pointer(&data[0]))), uint32(len(data))
	}
	status, _, e := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), ioctlAdmin, uintptr(unsafe.Pointer(&cmd)))
	runtime.KeepAlive(data)
	switch {
	case errors.Is(e, unix.ENOTTY), errors.Is(e, unix.EINVAL):
		return 0, fmt.Errorf("cannot send NVMe command %#x to %s: %w", c.Opcode, d.f.Name(), ErrUnsupported)
	case e != 0:
		return 0, fmt.Errorf("cannot send NVMe command %#x to %s: %w", c.Opcode, d.f.Name(), e)
	case status != 0:
		return 0, fmt.Errorf("cannot do NVMe command %#x on %s: status %#x: %w", c.Opcode, d.f.Name(), status, ErrDevice)
	}
	return cmd.result, nil
}

// sgHeader is struct sg_io_hdr of scsi/sg.h on 64 bits, 88 octets.
type sgHeader struct {
	id, direction         int32
	cmdLen, senseMax      uint8
	iovecs                uint16
	dataLen               uint32
	data, cmd, sense      uintptr
	timeoutMs, flags      uint32
	packID                int32
	_                     uint32
	user                  uintptr
	status, masked, msg   uint8
	senseLen              uint8
	hostStatus, drvStatus uint16
	resid                 int32
	duration, info        uint32
}

const (
	ioctlSG   = 0x2285 // SG_IO
	sgNone    = -1
	sgWrite   = -2
	sgRead    = -3
	sgChecked = 0x02 // status CHECK CONDITION
)

// SCSI implements Device.
func (d *linuxDisk) SCSI(c CDB, data []byte) (Sense, error) {
	var pin runtime.Pinner // the header holds addresses that the collector does not see
	defer pin.Unpin()
	sense := make([]byte, 252)
	pin.Pin(&sense[0])
	pin.Pin(&c.Bytes[0])
	h := sgHeader{
		id: 'S', direction: sgNone, cmdLen: uint8(len(c.Bytes)), senseMax: uint8(len(sense)), timeoutMs: uint32(min(c.Timeout/time.Millisecond, math.MaxUint32)),
		cmd: uintptr(unsafe.Pointer(&c.Bytes[0])), sense: uintptr(unsafe.Pointer(&sense[0])),
	}
	if len(data) > 0 {
		pin.Pin(&data[0])
		h.direction, h.data, h.dataLen = sgRead, uintptr(unsafe.Pointer(&data[0])), uint32(len(data))
		if c.Write {
			h.direction = sgWrite
		}
	}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), ioctlSG, uintptr(unsafe.Pointer(&h)))
	switch {
	case errors.Is(e, unix.ENOTTY), errors.Is(e, unix.EINVAL):
		return nil, fmt.Errorf("cannot send SCSI command %#x to %s: %w", c.Bytes[0], d.f.Name(), ErrUnsupported)
	case e != 0:
		return nil, fmt.Errorf("cannot send SCSI command %#x to %s: %w", c.Bytes[0], d.f.Name(), e)
	case h.hostStatus != 0:
		return nil, fmt.Errorf("cannot send SCSI command %#x to %s: host status %#x: %w", c.Bytes[0], d.f.Name(), h.hostStatus, ErrDevice)
	case h.status == 0 && h.senseLen == 0:
		if c.Whole && h.resid != 0 {
			return nil, fmt.Errorf("cannot send SCSI command %#x to %s: %d octets are missing: %w", c.Bytes[0], d.f.Name(), h.resid, ErrDevice)
		}
		return nil, nil
	case h.status != 0 && h.status != sgChecked:
		return nil, fmt.Errorf("cannot do SCSI command %#x on %s: status %#x: %w", c.Bytes[0], d.f.Name(), h.status, ErrDevice)
	}
	return sense[:h.senseLen], nil
}

// Aligned returns n zeroed octets that begin at a multiple of 4096, which satisfies every driver's O_DIRECT.
func Aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % 4096)
	return b[skip : skip+n : skip+n]
}
