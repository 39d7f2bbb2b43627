// Package operate is what an operator does to one machine of the site: power, release, clear, quarantine, approve.
//
// Holds: Operator, that part of api.Backend.
//
// Imported by: siteagent, whose backend it is a part of.
//
// Promises: 5 (approve asks for a registered key: siteagent/freshness); each act stands in the audit log, with who asked.
//
// Concurrency: safe for concurrent use. No state of its own.
//
// Tests: siteagent (every route as every identity), siteagent/reconcile (what becomes of it), test/e2e.
package operate
