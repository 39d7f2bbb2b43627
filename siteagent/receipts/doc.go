// Package receipts signs for erased disks, and shows what was signed.
//
// Holds: Desk: Issue (every field of an installer's proof against permission, accepted inventory and release; then the next receipt of
// this agent's chain), Receipts (all that the site's agents signed, with the rosters that name their keys).
//
// Imported by: siteagent, siteagent/bootnet.
//
// Promises: 5 (no receipt without the permission that the journal has, nor for another disk, serial, generation or level than it names),
// 11 (a receipt is on disk, and sent to every live peer, before its installer hears of it), 12.
//
// Concurrency: Issue is serialised, so that the chain has no gap and no fork.
//
// Tests: siteagent/bootnet has them, with the permission before: each field wrong in turn, the chain, what is told twice.
package receipts
