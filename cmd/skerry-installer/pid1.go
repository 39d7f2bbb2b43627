package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/boot/install/ramdisk"
)

// mountAll gives the ramdisk its file systems. One that is there already, or that the kernel lacks, is no error.
func mountAll() error {
	var errs []error
	for _, m := range []struct {
		kind, dir string
		optional  bool
	}{
		{"proc", "/proc", false}, {"sysfs", "/sys", false}, {"devtmpfs", "/dev", false}, {"tmpfs", "/run", false}, {"tmpfs", "/tmp", false},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			errs = append(errs, fmt.Errorf("cannot mount %s: %w", m.dir, err))
			continue
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) && !m.optional {
			errs = append(errs, fmt.Errorf("cannot mount %s: %w", m.dir, err))
		}
	}
	return errors.Join(errs...)
}

// mountEFI shows the firmware's variables, read only; its module is loaded by then.
func mountEFI() error {
	if _, err := os.Stat("/sys/firmware/efi"); err != nil {
		return nil
	}
	if err := unix.Mount("efivarfs", "/sys/firmware/efi/efivars", "efivarfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("cannot mount efivarfs: %w", err)
	}
	return nil
}

// loadModules loads the ramdisk's modules in the order of its list and returns how many are in the kernel. One that fails
// does not keep the others out: its device may be absent.
func loadModules() (int, error) {
	b, err := os.ReadFile(ramdisk.OrderFile)
	if err != nil {
		return 0, fmt.Errorf("cannot load modules: %w", err)
	}
	n := 0
	var errs []error
	for path := range strings.FieldsSeq(string(b)) {
		if err := loadModule(path); err != nil {
			errs = append(errs, err)
			continue
		}
		n++
	}
	return n, errors.Join(errs...)
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot load module: %w", err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	// ENODEV: the machine has nothing for this driver, efivarfs on BIOS for one. EEXIST: built in.
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cannot load module %s: %w", path, err)
	}
	return nil
}
