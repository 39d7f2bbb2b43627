// Package succession changes the keys of the domain for new ones by trust documents: the writer, the CA of this
// coordinator, and the roots.
//
// Holds: Succession. Each rotation walks accept, use, retire: it makes the new key on its own disk, offers the next trust document to
// the holders of the roots (or signs it, where this host is the one holder), and goes on once the document is in the stream.
//
// Imported by: coordinator, coordinator/rotation.
//
// Promises: 3 (trust and chains only move forward; a writer is retired once every chain goes on under its successor). Where a rotation
// stands is read off the trust stream, the key files and the chains each time: a crash at any point leaves it where it was, and the
// same command goes on.
//
// Concurrency: a Succession is safe for concurrent use, one step at a time; it has no goroutine of its own.
//
// Tests: the coordinator's, on real stores with a crash at each step; test/fault, with agents on loopback.
package succession
