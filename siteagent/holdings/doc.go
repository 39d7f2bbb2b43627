// Package holdings decides which assets an agent keeps, fetches, relays and gives up, and looks after those that it has.
//
// Holds: MakePlan (pure: who keeps what, and what may go, in which order), Keeper (fetches what is kept here, makes room, scrubs,
// says what is held and why, reads from a peer what it does not keep), Report (what an agent tells of its assets).
//
// Imported by: siteagent (the wiring) and bootnet, through what it declares. storage/blob does the deleting, mesh/swarm the fetching.
//
// Promises: 4 (nothing goes while the store is on hold or recovering; who is not heard has nothing; an asset of the previous and of
// the next intent is kept as one of the current), 7 (what is read from a peer is hashed before its first octet is handed out), 11
// (what does not fit is refused whole, with a name, before its octets come), 12 (answers of peers are bounded).
//
// Concurrency: Run owns its goroutines: one fetches, one looks at space, peers and damage, one scrubs. The rest is safe for
// concurrent use. Nothing is read, written or waited for under the mutex.
//
// Tests: plan_test.go (tables, and laws over random sites), keeper_test.go (sites of real stores in virtual time), FuzzReport.
package holdings
