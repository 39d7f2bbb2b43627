// Package intake takes signed documents into an agent's replica, whoever brings them: the coordinator's session, a peer, a stick.
//
// Holds: Desk (trust, revocations, intent: verified by the replica, told to gossip, refusals kept, sessions of who may not speak any
// more ended), the pulls by HTTP that bring them over a session, Chain (who of a site pulls over the WAN), and Door, at which a person brings a trust document and accepts one.
//
// Imported by: siteagent, siteagent/sticks.
//
// Promises: 3 (what the replica refuses is not taken, by no way), 12 (an answer's documents are bounded in size and number).
//
// Concurrency: a Desk and a Chain are safe for concurrent use. No goroutines; Chain.Run is the wiring's.
//
// Tests: door_test.go, pull_test.go and chain_test.go, over real replicas; siteagent/sticks takes sticks by it; test/fault.TestTrustReachesEverybody runs the pulls of real agents.
package intake
