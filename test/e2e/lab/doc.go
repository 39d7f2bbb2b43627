// Package lab is what tests begin with that need root, a program or QEMU.
//
// Holds: Need (skips in one line that names the Debian package; with SKERRY_LAB_STRICT=1 it fails), and New, a netlab.Lab that ends
// with the test.
//
// Imported by: tests only.
//
// Promises: a test that was skipped says how to run it; CI sets SKERRY_LAB_STRICT=1, so a skip cannot hide there.
//
// Concurrency: none of its own.
//
// Tests: Need against a recording testing.TB.
package lab
