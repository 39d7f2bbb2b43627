// Package auditlog is the audit chain of one agent: who did what at the site, by which credential, and what was refused.
//
// Holds: Log, which makes records that are journaled in one transaction with the write they describe, bounds refusals, signs the
// chain's head, raises the alarm when an emergency key is used, and brings the site's chains up to the coordinator.
//
// Imported by: siteagent, siteagent/members.
//
// Promises: 11 (a record is on disk with its write, and on every peer that has the journal). Growth: one record of some 400 octets
// per change, at most 1,440 refusals a day and identity (api.AuditBound), a signed head of 600 octets per 5 minutes in which the
// chain moved. A chain that the coordinator finds forked is closed and a new one begun, which both sides record.
//
// Concurrency: Log is safe for concurrent use; Run owns its own goroutine's work and starts none.
//
// Tests: a coordinator's join in coordinator (audit_test.go); here the chain across restarts, the bounds, carrying for a dead
// peer, the fork, and heads in a synctest bubble.
package auditlog
