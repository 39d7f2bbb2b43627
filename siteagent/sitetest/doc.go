// Package sitetest makes what tests of the site's rooms share: signed intent as a coordinator would publish it.
//
// Holds: Author (signs entries onto a site's chain), OpenReplica, a few documents.
//
// Imported by: tests of siteagent and its rooms; those of replica from outside the package (replica_test).
//
// Promises: none; what it signs is what coordinator/publish would.
//
// Concurrency: none; an Author belongs to one test.
//
// Tests: those of the rooms that use it.
package sitetest
