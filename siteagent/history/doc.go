// Package history keeps what a site's machines measure: it polls the BMCs of the machines that this agent owns, has
// siteagent/devices ask what speaks SNMP, and answers for the site.
//
// Holds: Keeper: polling (spread over the minute, backing off from BMCs that do not answer), samples into telemetry/rrd, the newest
// readings for /metrics, answers to questions, joined with what the other agents keep.
//
// Imported by: siteagent only, which wires sessions with BMCs, ownership and peers.
//
// Promises: 4 (series go by the tombstone of their machine or switch alone), 10 (a BMC that does not answer makes its sensors unknown, never 0; an agent that
// does not answer is named), 11 (telemetry/rrd). Telemetry never stops an agent from starting or serving: where its directory does not
// open, questions are answered 503 and the rest goes on.
//
// Concurrency: a Keeper is safe for concurrent use. Run owns the poller, its workers, and the store's own Run.
//
// Tests: bubbles with a recorded controller; two keepers that answer for one site; test/e2e runs agents.
package history
