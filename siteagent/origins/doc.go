// Package origins is what an agent has to do with URLs of assets: which may be read now, and how it went.
//
// Holds: Keeper: the sources that mesh/swarm gets of an asset's URLs, the rest that one takes after a refusal, and what people are told.
//
// Imported by: siteagent. mesh/origin does the reading.
//
// Promises: 7 (what a URL gives is checked by who asked, against the signed manifest), 8 (it is asked over the site's line, so once for all
// agents, within the site's budget), 12 (one connection to a host from each of at most four agents; who does not answer, lies or
// drips rests, twice as long each time, and nobody waits for it meanwhile).
// A crash forgets who rests: it is asked again.
//
// Concurrency: safe for concurrent use. Nothing is read or waited for under the mutex. Run closes connections at its end.
//
// Tests: keeper_test.go: refusals, rests and ranks in a bubble; site_test.go: real servers that lie, a site without a coordinator.
package origins
