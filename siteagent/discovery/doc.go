// Package discovery keeps what machines that nobody declared told about themselves, until somebody declares them.
//
// Holds: Strangers, which takes sightings of the boot network into the journal, lists them for the API and keeps who is ignored; the pure
// decisions: which place a new one takes (place.go), who it is or contradicts (identity.go), which machine type suits (suggest.go).
//
// Imported by: siteagent, which gives the Strangers to siteagent/bootnet and to the API's backend. Nobody that decides about machines may: what is here gives
// no right to anything.
//
// Promises: 4 (a machine is no longer listed because it was declared, or because a newer one took its place; never by time), 12 (at most
// MaxKept records of at most maxReport octets each at a site, maxPort of one switch port; what an agent writes has a budget: 16 MiB at once, 256 KiB an hour).
//
// Concurrency: safe for concurrent use. Two agents may take one place at the same time: the newer record stays, the other machine takes
// another place when it tells again, a minute later.
//
// Tests: goldens of the decisions; a flood; two agents that hear the same; test/e2e with real firmware and the real ramdisk.
package discovery
