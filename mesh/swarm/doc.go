// Package swarm moves assets between agents, and from a coordinator to its agents: verified chunks, over the WAN once per site.
//
// Holds: the handler that serves manifests, chunks and words (what is here, how far the line to the coordinator is), and Swarm,
// which completes an asset: from peers what one of them has, over the site's line the stripes of 16 MiB that this agent owns, from an agent of
// another site that has it or else from the coordinator. What is asked for next is in plan.go; Readers, who read while it is fetched, come
// first (reader.go); of what a peer is late with another one is asked (second.go).
//
// Imported by: coordinator, siteagent. storage/blob lies beside it and is handed in through Store.
//
// Promises: 7 (a chunk is stored, and told of, only when it has its hash), 8 (the WAN carries an asset once: plan.go), 12 (frames and
// answers are bounded before anything is allocated). What came of a chunk that broke off is kept in memory, at most 32 chunks in all,
// and continued by nobody but its source. A source that sends three bad chunks is not asked for that asset for ten minutes.
// A crash loses parts, nothing else.
//
// Concurrency: handlers and a Swarm are safe for concurrent use. Fetch owns its goroutines and waits for them: one asks
// over the line, three the peers, one whoever has what is late, one for each peer listens, and each order has one that stores what came.
// Nothing is read, written or waited for under the mutex.
//
// Tests: swarm_test.go: two stores over HTTP, liars, silence, thin lines, a full disk; site_test.go: sites on wires in memory, owners that
// die, are slow, are two, have no WAN; abroad_test.go: other sites that have it, die, lie; order_test.go: readers,
// parts, late peers; FuzzReadData, FuzzReadWord. test/fault.TestBadWires runs agents on bad wires.
package swarm
