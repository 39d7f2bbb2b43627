// Command copy is the least that an image writer can do, in one loop: copy SOURCE TARGET OCTETS reads blocks of 4 MiB past
// the page cache, sums and writes them, syncs, reads all back and sums again. Its hash is the installer's, so that the two
// compare what is around it.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cannot copy:", err)
		os.Exit(1)
	}
}

func run() error {
	from, err := os.OpenFile(os.Args[1], os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	to, err := os.OpenFile(os.Args[2], os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	size, err := strconv.ParseInt(os.Args[3], 10, 64)
	if err != nil {
		return err
	}
	in, back := sha256.New(), sha256.New()
	err = blocks(from, size, in, func(b []byte, off int64) error {
		_, err := to.WriteAt(b, off)
		return err
	})
	if err != nil {
		return err
	}
	if err := to.Sync(); err != nil {
		return err
	}
	if err := blocks(to, size, back, func([]byte, int64) error { return nil }); err != nil {
		return err
	}
	if [32]byte(in.Sum(nil)) != [32]byte(back.Sum(nil)) {
		return errors.New("it reads back wrong")
	}
	return nil
}

func blocks(f *os.File, size int64, h hash.Hash, fn func([]byte, int64) error) error {
	const block, align = 4 << 20, 4096
	b := make([]byte, block+align)
	b = b[-uintptr(unsafe.Pointer(&b[0]))%align:][:block]
	for off := int64(0); off < size; off += block {
		n := min(block, size-off)
		if _, err := f.ReadAt(b[:n], off); err != nil {
			return err
		}
		h.Write(b[:n])
		if err := fn(b[:n], off); err != nil {
			return err
		}
	}
	return nil
}
