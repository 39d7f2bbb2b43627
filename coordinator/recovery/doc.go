// Package recovery brings a coordinator's store that is, or may be, an older copy level with its sites.
//
// Holds: Recovery (holds a site, asks its agents for the entries beyond ours, takes them over, ends the hold), the adoption of
// entries into chain, catalog, rosters and secrets, and which of two objects of one name the catalog shows (rivals.go).
//
// Imported by: coordinator, coordinator/backup (Mark).
//
// Promises: 3 (a held site is not published to, by a guard of every append; what is taken over was signed by our own writer and
// follows our head), 4 (what left one site may still be another's: it stays until all were heard).
//
// Concurrency: safe for concurrent use; one agent of a site is asked at a time. No goroutine of its own.
//
// Tests: coordinator's and test/fault's: a real coordinator restored from a backup, with agents.
package recovery
