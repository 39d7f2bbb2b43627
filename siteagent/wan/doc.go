// Package wan decides what the line of a site may carry of assets: the rates, quiet hours, the day's octets.
//
// Holds: Keeper, the agent's swarm.Budget after Site.spec.wan (mesh.md section 6), and what this agent took today, on disk.
//
// Imported by: siteagent.
//
// Promises: 8 (the day's octets outlive a restart, but for the last 16 MiB), 2 (times of the day count only while the clock is believed: no
// clock closes a line for good).
//
// Concurrency: safe for concurrent use. Took writes to disk every 16 MiB, on the goroutine that calls it.
//
// Tests: keeper_test.go: a table of times, classes and octets, midnight, a restart.
package wan
