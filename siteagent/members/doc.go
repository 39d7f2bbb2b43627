// Package members keeps what a site decides by itself about its own agents while nobody above may be there: who is cut off, who
// is let back, which spare takes a place, and the boot key that such a decision makes necessary.
//
// Holds: Keeper (quarantine orders, signed and journaled; admissions and kits of spares, the site's own boot keys).
//
// Imported by: siteagent only.
//
// Promises: 1 (needs no coordinator); 6 (each decision raises the generation of the effective roster, so that new claims outrank
// those of whom it cut off). A crash leaves an order in the journal or none: Obey takes it up at the next start.
//
// Concurrency: a Keeper is safe for concurrent use. Run is its one goroutine, owned by who calls it.
//
// Tests: beside the files, two agents over one author; siteagent/replica holds the rules of the effective roster.
package members
