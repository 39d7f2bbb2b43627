// Package replica keeps the signed state of a site as one agent has it: trust, roster, intent, acknowledgements, sealed secrets.
//
// Holds: Replica (receive: verify and stage, then activate a run of entries in one transaction with its head), State (the
// active intent at one moment), the high-water marks, the view of who may speak, and the trust document that waits for a person.
//
// Imported by: siteagent and its rooms effective and bootnet. It knows no network: who has envelopes hands them in.
//
// Promises: 2 (the floor rises with every verified document), 3 (heads only move forward, kept in the store and in the marks, but
// for trust where a person puts documents out of force; a run is active whole or not at all), 4 (only tombstones remove), 11 (what Receive counted as new is on disk).
//
// Concurrency: one mutex, held over the store's write so that heads and objects move together. State hands out shared maps
// that nobody changes. No goroutines.
//
// Tests: replica_test.go against entries signed by siteagent/sitetest; kills and power cuts in test/fault.
package replica
