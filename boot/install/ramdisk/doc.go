// Package ramdisk builds the ramdisk that a machine boots into to be inventoried and installed: kernel modules of a Debian
// kernel package and one static program as /init.
//
// Holds: a writer of newc cpio archives, the resolver of kernel module dependencies (from the modules' own .modinfo, so
// that no depmod is needed), Build.
//
// Imported by: cmd/skerry-installer/mkramdisk. It imports the standard library only.
//
// Promises: the same inputs give the same bytes (no times, owners or inode numbers of the host get in), so that the
// digest of a ramdisk says what is in it.
//
// Concurrency: none.
//
// Tests: cpio reads our archives back; module order on made-up ELF files; the same build twice is byte-equal.
package ramdisk
