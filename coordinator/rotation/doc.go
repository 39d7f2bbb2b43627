// Package rotation is the coordinator's side of who may speak: the trust stream, how old keys are, and who was heard when.
//
// Holds: Rotation. It turns agents' keys (agents.go, offers.go), by a ledger in the store (ledger.go), yearly or at an operator's word
// (rotate.go), and brings agents under the CA that is to be used, also those that return from a long absence (returns.go). It gives
// the trust stream out and takes what the roots signed; it takes the end of the stream back from agents when this store is an older copy. KeyStatus and Gauges show ages and contacts.
//
// Imported by: coordinator alone.
//
// Promises: 3 (trust only moves forward; a fork is refused and kept). A crash leaves a document in the store or nothing, and
// a rotation at a step that is done again.
//
// Concurrency: a Rotation is safe for concurrent use; Run owns its goroutine.
//
// Tests: the coordinator's, on real stores; test/fault, with agents on loopback.
package rotation
