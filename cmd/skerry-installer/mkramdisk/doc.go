// Command mkramdisk builds kernel and ramdisk from an unpacked Debian kernel package and a static program.
//
// Holds: flags only; boot/install/ramdisk does the work.
//
// Imported by: nobody; `make ramdisk` and deploy/images call it.
//
// Promises: files appear under their names only when complete.
//
// Concurrency: none.
//
// Tests: boot/install/ramdisk.
package main
