// Package rota decides when each of many devices is asked: once a minute, each at its own place in the minute, and ever less often while
// it does not answer.
//
// Holds: Rota.
//
// Imported by: siteagent/history (sensors of BMCs), siteagent/devices (SNMP).
//
// Promises: 12 (devices at once and the time of each are bounded; one that hangs holds up nobody but itself).
//
// Concurrency: a Rota is safe for concurrent use. Run owns the workers; Look, Poll and Left are called from them, Poll for one device once at
// a time.
//
// Tests: here, in bubbles; and with those that use it.
package rota
