// Package sticks is the coordinator's end of the two-way air gap: it writes what goes down to a site, and takes what comes up; and
// it tells how far the signed streams are everywhere.
//
// Holds: Desk (ExportStick, ImportStick, IntentStatus, and the events that came by stick, of which it keeps the newest).
//
// Imported by: coordinator only.
//
// Promises: 12 (one line is in memory at a time; a file that breaks off counts as far as it verified, and the answer says so). What
// is brought counts by the signatures of agents of the site's roster: who carries a stick can leave out, and do no more. Taking a
// stick twice changes nothing; a crash leaves what was taken, and the same stick goes on.
//
// Concurrency: a Desk is safe for concurrent use. No goroutines.
//
// Tests: with a founded coordinator, in coordinator (sticks_test.go); a site that lives by sticks alone in
// test/fault.TestSiteBySticks.
package sticks
