// Package erase takes what a disk holds away by the medium's own method, and proves it by a canary.
//
// Holds: Job, the state machine of one disk (choose, mark, erase, look); nvme.go (Sanitize, Format); scsi.go
// (SANITIZE); ata.go (SANITIZE DEVICE, SECURITY ERASE UNIT, through SCSI); overwrite.go; Device, which a fake can stand in for, and Open, a
// block device of Linux.
//
// Imported by: cmd/skerry-installer, which hands it to boot/install. It imports mesh/intent, its erasure and x/sys.
//
// Promises: 5 (the caller has a permission; a method is chosen once, and after the first error nothing weaker is tried), 10 (a device that
// does not say that it is done has failed). A disk of which one sector of the canary is read back is not erased whatever the device says.
// A Job whose context ended goes on where it was; a sanitize that a reboot interrupted is waited for, and a disk that
// our password locks, because the power was cut, is unlocked.
//
// Concurrency: a Job serves one caller. It starts nothing.
//
// Tests: a fake device under each medium, times its faults: unsupported, refusing, stuck, lying, ignoring writes, erroring, slow,
// frozen, locked, hiding a part. FuzzSense: sense data.
package erase
