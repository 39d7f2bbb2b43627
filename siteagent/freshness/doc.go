// Package freshness decides whether a dangerous act may be permitted now: whether somebody who may say no was heard lately.
//
// Holds: Keeper (asks the coordinator for beacons over nonces of its own, keeps the newest, takes operators' approvals) and Fresh, the
// one decision: by quota, beacon or operator.
//
// Imported by: siteagent and siteagent/bootnet.
//
// Promises: 5 (erasing and writing disks is the only thing that age stops), 2 (ages are taken from max(wall clock, floor); after a
// restart a beacon counts only if the wall clock is believed), 11 (beacons and approvals are journaled).
//
// Concurrency: a Keeper is safe for concurrent use. Run is its one goroutine, owned by who calls it.
//
// Tests: freshness_test.go (F13: time and heads); siteagent/bootnet holds that nothing is permitted without it.
package freshness
