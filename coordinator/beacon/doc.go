// Package beacon answers agents that ask whether somebody above is there: by a signed word over the agent's own nonce.
//
// Holds: Giver (the handler of POST /u/1/beacon).
//
// Imported by: coordinator only.
//
// Promises: 5 (dangerous acts at sites hang on it: a coordinator that is held, because it may be an older copy, gives none), 12 (a
// question is bounded and strict).
//
// Concurrency: a Giver is safe for concurrent use. No goroutines.
//
// Tests: with a founded coordinator, in coordinator (beacon_test.go); real agents in test/fault.TestSiteBySticks.
package beacon
