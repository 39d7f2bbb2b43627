// Package auditlog is the coordinator's audit chain, and the sites' chains that joined it.
//
// Holds: Log, which puts a record into the same commit as the write that it describes, bounds refusals, signs the chain's head, and
// takes over what agents bring of their sites' chains, verified against the keys of the roster.
//
// Imported by: coordinator.
//
// Promises: 11 (no write without its record, no record without its write). Growth: one record of some 400 octets per change, at most
// 1,440 refusals a day and identity (api.AuditBound), a signed head of 600 octets per 5 minutes in which the chain moved; and what
// the sites bring, which is bounded likewise. A chain that forked or has a gap is closed and shown, never continued.
//
// Concurrency: Log is safe for concurrent use. Several coordinators of one id on one store write one chain: each record is guarded by
// the one before, and who was slower writes again. Run starts nothing.
//
// Tests: with a founded coordinator, in coordinator (audit_test.go); FuzzAuditBundle here.
package auditlog
