// Package effective is the site as it should be now: signed intent with the site's own overrides over it, and the planners'
// inputs.
//
// Holds: Site (replica, journal and what installers said, put together and cached), Intent (one revision of it), Addresses (which
// boot NIC has which address).
//
// Imported by: siteagent and siteagent/bootnet.
//
// Promises: 9 (Addresses is a pure function of catalog and roster, so that all agents give the same answers).
//
// Concurrency: one mutex over the cache. No goroutines.
//
// Tests: beside the files; siteagent/bootnet.TestSameFactsEverywhere.
package effective
