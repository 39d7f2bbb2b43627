// Package e2e walks through the product with real firmware, kernels and disks under QEMU.
//
// Holds: tests only: the install ramdisk against an install server, from a bare disk to an image that phones home.
//
// Imported by: nobody.
//
// Promises: each test names what it needs (lab.Need) and leaves nothing behind.
//
// Concurrency: one QEMU at a time.
//
// Tests: these. They need root, qemu-system-x86, and what `make ramdisk` and `make image-tiny` built in out/.
package e2e
