// Package strict reads one JSON value and says in which place what does not fit.
//
// Holds: Decode, Problem and Problems, which mesh/intent gives out under its own names.
//
// Imported by: mesh/intent, and nobody else: everybody decodes by intent.DecodeStrict.
//
// Promises: 12 (nesting is bounded, no panic; unknown, duplicate and wrong-case fields are refused).
//
// Concurrency: none; functions only.
//
// Tests: those of mesh/intent (TestDecodeStrict, FuzzDecodeObject), which were there first.
package strict
