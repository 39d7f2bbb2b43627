// Package rotation is the coordinator's side of who may speak: the trust stream, how old keys are, and who was heard when.
//
// Holds: Rotation. It gives the trust stream out and takes what the roots signed; it takes the end of the stream back from agents
// when this store is an older copy. KeyStatus and Gauges show ages and contacts.
//
// Imported by: coordinator alone.
//
// Promises: 3 (trust only moves forward; a fork is refused and kept). A crash leaves a document in the store or nothing.
//
// Concurrency: a Rotation is safe for concurrent use; it has no goroutine of its own.
//
// Tests: the coordinator's, on real stores; test/fault, with agents on loopback.
package rotation
