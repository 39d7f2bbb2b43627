// Command tinyinit is PID 1 of the tiny test image: a stand-in for cloud-init on an operating system of two files.
//
// Holds: reading a NoCloud seed (meta-data, user-data, vendor-data, network-config v2), hostname, users, SSH keys, network,
// phone_home; the power button.
//
// Imported by: nobody; deploy/images/tiny puts it into an image.
//
// Promises: prints what it did on the console, in lines that begin with "skerry-tiny:"; phones home once per boot, trying
// until it was heard.
//
// Concurrency: one goroutine, one more for the power button and one for a shell on the console.
//
// Tests: tables for the seed's documents; the whole under QEMU in test/e2e.
package main
