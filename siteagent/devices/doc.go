// Package devices asks the SNMP agents of a site's switches and machines what they count and measure.
//
// Holds: Poller: which devices this agent asks, how to log in, what becomes series, the newest readings for /metrics.
//
// Imported by: siteagent/history, which keeps the series; their tombstones are its business.
//
// Promises: 10 (what does not answer is unknown), 12 (a device that lies costs its own readings; secrets are in no log and no error). A
// switch is asked by one agent: of those that live, the one with the highest hash.
//
// Concurrency: a Poller is safe for concurrent use. Run owns its workers.
//
// Tests: here, in bubbles, with devices that are functions; telemetry/snmp has real ones.
package devices
