// Package abroad is what an agent has to do with other sites: which of their agents have an asset, and what those may take from here.
//
// Holds: Keeper: who is asked (the agents of the sites that Site.spec.peers names), what they said, the sources that mesh/swarm gets of
// it, and the handler that answers agents of other sites.
//
// Imported by: siteagent.
//
// Promises: 7 (another site is a carrier: what it gives is checked against the signed manifest by who asked), 8 (it is asked over the
// site's line, so once for all agents), 12 (answers of 64 KiB, 8 at once are served, at the rate of spec.wan.rateOut). Another site gets
// manifests, chunks and the names of who holds them, by digest; nothing else of this one.
// A crash loses nothing: all of it is asked for again.
//
// Concurrency: safe for concurrent use. Run owns the goroutines that ask; Sources answers at once.
//
// Tests: keeper_test.go: sites in memory that answer, lie and are silent, in a bubble; FuzzParseHolders; test/fault.TestOtherSite runs two
// sites and no coordinator.
package abroad
