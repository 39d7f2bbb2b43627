// Package image puts an operating system image onto a disk so that it is either whole or not bootable.
//
// Holds: Writer (blocks in any order, each hashed before it is written, read back afterwards), the GPT fix-up, the FAT
// volume with the NoCloud seed, OpenDisk (O_DIRECT, exclusive).
//
// Imported by: cmd/skerry-installer, which hands it to boot/install. It imports mesh/intent and x/sys.
//
// Promises: 7 (every chunk is checked before the write and in the read-back). The first and the last MiB of the disk are
// zeroed before anything else is written, and the first MiB is written last, after everything was read back: a crash, a
// power cut or an error at any moment leaves a disk without boot sector and partition table. Memory: one block of 4 MiB
// per caller and 18 MiB more.
//
// Concurrency: Writer.Put and PutZero may be called from several goroutines for different blocks; the other methods not.
//
// Tests: a disk in memory with faults; sfdisk and mtools judge what was written; rapid over crash points; FuzzGPT.
package image
