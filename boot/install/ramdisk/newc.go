package ramdisk

import (
	"fmt"
	"io"
)

// File modes of the archive. Source: Linux include/uapi/linux/stat.h.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

// maxFile is the largest file that the format's 32-bit size can say, less a margin for readers that use signed numbers.
const maxFile = 1<<31 - 1

// newc writes the archive format that the kernel unpacks: Documentation/driver-api/early-userspace/buffer-format.rst.
type newc struct {
	w   io.Writer
	ino uint32
	n   int64 // octets written so far
	err error
}

func (c *newc) write(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.err = err
}

func (c *newc) pad() { c.write(make([]byte, (4-c.n%4)%4)) }

func (c *newc) entry(name string, mode uint32, data []byte, major, minor uint32) {
	if len(data) > maxFile {
		c.err = fmt.Errorf("cannot archive %s: %d octets", name, len(data))
		return
	}
	c.ino++
	nlink := uint32(1)
	if mode&modeDir != 0 {
		nlink = 2
	}
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, mode, 0, 0, nlink, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	c.write([]byte(h + name + "\x00"))
	c.pad()
	c.write(data)
	c.pad()
}

// close writes the trailer. The kernel reads archives in blocks of 512.
func (c *newc) close() error {
	c.entry("TRAILER!!!", 0, nil, 0, 0)
	c.write(make([]byte, (512-c.n%512)%512))
	if c.err != nil {
		return fmt.Errorf("cannot write archive: %w", c.err)
	}
	return nil
}
