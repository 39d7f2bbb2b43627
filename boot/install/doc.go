// Package install is the protocol between a machine in its install ramdisk and the site, from both ends, and the work of
// the ramdisk itself.
//
// Holds: the wire types of /install/v1; Handler, which siteagent gives a Site; Client, which survives the loss of agents;
// Installer, which does the work that the site gives out; the guards against the wrong disk; erase.go: all disks of a released machine at once.
//
// Imported by: siteagent (Handler, types), cmd/skerry-installer (Client, Installer). It imports boot/inventory and
// mesh/intent; disks are written through the ImageWriter, and erased through the Eraser, that it declares.
//
// Promises: 5 (nothing is written before a signed permission matched the hardware, and the disk is found by identity), 7
// (each chunk is hashed before it is written and again as read back), 12 (bodies up to 1 MiB, unknown fields refused and
// counted). A disk that was begun is not bootable until everything on it was verified.
//
// Concurrency: Handler is safe for concurrent use and starts nothing. Client serves one caller. Installer.Run owns its
// goroutines and returns after them.
//
// Tests: client against handler over TLS with a fake Site; pipeline against a disk in memory, with each source fault; guard
// tables; FuzzHandler.
package install
