// Package tally adds up what a chain of intent leaves, as a snapshot entry says it.
//
// Holds: Sum.
//
// Imported by: coordinator/publish (what it signs) and siteagent/replica (what it compares). It imports mesh/intent only.
//
// Promises: 3 (whoever replayed the same entries, in whatever order it adds them up, has the same sum).
//
// Concurrency: none; a Sum belongs to its caller.
//
// Tests: those of coordinator/publish and siteagent/replica, which add up whole chains.
package tally
