// Package proposals decides on what sites changed by themselves while they were cut off.
//
// Holds: Desk: takes overrides that agents bring, adopts those that fit, keeps the rest for a person with the reason, and settles
// them at a person's word; charge.go tells when the halves of a site took more than its offline quota.
//
// Imported by: coordinator only.
//
// Promises: 3 and 4: an answer stands in the site's chain as an ack, once, behind the object that it is about; until then the site's
// value stands there. A crash between object and ack leaves a decision that the next telling finishes.
//
// Concurrency: a Desk is safe for concurrent use: every step is one guarded commit.
//
// Tests: coordinator's, over a whole coordinator; a table of overdrafts here.
package proposals
