// Package sticks is an agent's end of the two-way air gap: it takes what a coordinator exported for the site, and writes what the
// site has to bring up.
//
// Holds: Desk (ImportStick, ExportStick, and Take, with which a spare begins).
//
// Imported by: siteagent only.
//
// Promises: 3 (a stick's documents go through the same verification as a session's), 12 (one line is in memory at a time; a file
// that breaks off counts as far as it verified, and the answer says so). Taking a stick twice changes nothing; a crash leaves what
// was taken, and the same stick goes on.
//
// Concurrency: a Desk is safe for concurrent use. No goroutines.
//
// Tests: sticks_test.go over real replicas; F14 in test/fault; a site that lives by sticks alone in test/fault.TestSiteBySticks.
package sticks
