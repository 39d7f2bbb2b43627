// Package measured asks sites what they measured, and what they discovered. The coordinator keeps nothing of it.
//
// Holds: Desk, and ask: one question over the session that a site's agent dialled.
//
// Imported by: coordinator only.
//
// Promises: 10 (a site without a session is answered with how long ago it was heard, never with old figures).
//
// Concurrency: a Desk is safe for concurrent use; it starts nothing.
//
// Tests: measured_test.go against a site of functions.
package measured
