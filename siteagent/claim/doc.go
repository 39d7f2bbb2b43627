// Package claim decides which agent may write to a device, and keeps what the agents of a site did.
//
// Holds: the journal (one hash-chained log per agent, fsynced, copied to every live peer, folded into one view that all
// agents share, and pruned of what the view no longer needs), ownership by rendezvous, claims with promises and confirmations, and the use of device fences.
//
// Imported by: siteagent and siteagent/reconcile, siteagent/override. Nothing below.
//
// Promises: 5 and 6 (Confirm before each destructive step; a lower epoch is refused), 10 (an agent that is merely silent
// keeps its claims until gossip says dead and the hold-off has passed), 11 (Append returns after the fsync; a promise is on
// disk before it is answered). A crash leaves whole records only: each append is one transaction.
//
// Concurrency: Journal and Claims are safe for concurrent use. They own no goroutine but Journal.Run, which pulls what a
// push missed.
//
// Tests: TestModel runs real Claims over real stores through seeded histories (crash, cut, pause, lost and late messages, wrong
// gossip, a changed roster; replay with -seed) and checks mesh.md's invariants 1 to 4 and 6; tables for promises, chains and
// their gaps; seeded histories of pruning agents; rapid laws for owner and view; FuzzReceive for what peers send.
package claim
