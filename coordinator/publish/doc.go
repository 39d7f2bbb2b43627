// Package publish turns what is wanted of a site into its signed chain.
//
// Holds: Compile (which objects a site gets), Diff against what was published, the signing of entries and their append to
// the site's head, acknowledgements of overrides, rosters, sealed secrets.
//
// Imported by: coordinator only.
//
// Promises: 3 (an entry is appended only onto the head that it names, in one commit with the record of what was published),
// 4 (what vanished from the catalog becomes an explicit tombstone, and only if it had been published).
//
// Concurrency: a Publisher serves one site at a time per call; the store's guard refuses a second writer.
//
// Tests: tables over Compile and Diff, a rapid law: replaying the chain gives the compiled set.
package publish
