// Package upkeep keeps an agent's store sound: it scrubs, repairs from the signed chain and from peers, keeps the ballast, clears
// up when space runs out, and says whether a destructive step may be permitted on what the store says.
//
// Holds: Keeper (Run, Fit, Status), and the commands on a stopped agent's directory: Scrub, Backup, Restore, Recover.
//
// Imported by: siteagent (the wiring) and cmd/skerry/cli (the commands). It knows no network: the wiring hands in who has what.
//
// Promises: 4 (a bucket whose sums do not fit is on hold: reads are served, nothing in it is deleted), 5 (no permission before the
// first scrub of a process life has ended well, on a hold, or while recovering), 11 (a full disk refuses by class and comes
// back). A crash in a repair leaves what was repaired so far; the next start scrubs again.
//
// Concurrency: Run owns no other goroutine; one scrub or repair at a time. Fit and Status are safe for concurrent use.
//
// Tests: upkeep_test.go over real stores; kills, bit flips and full disks in test/fault.
package upkeep
