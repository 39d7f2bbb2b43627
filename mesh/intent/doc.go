// Package intent is the model: the kinds that operators and users write, the entries that carry them to a site, and the
// small types (digests, epochs, claims, permissions) that every room speaks.
//
// Holds: kinds with Validate, strict JSON decoding, chain entries and heads, claim and effect types, the
// verbs of the authorisation table. No I/O, no clock, no goroutine.
//
// Imported by: every room. It imports the standard library only; test/arch refuses anything else.
//
// Promises: 3 (a head only moves forward: Head.Compare), 4 (removal is a Tombstone, never an absence), 5 (Permission names
// what it permits), 12 (every decoder is bounded and fuzzed). Decoding never panics and never allocates more than a small
// multiple of its input.
//
// Concurrency: values only; safe for concurrent reads.
//
// Tests: tables and goldens beside each file; FuzzDecodeObject, FuzzDecodeEntry, FuzzParseDigest.
package intent
