// Package override holds the changes that a site takes by itself while it is cut off, and their way up.
//
// Holds: the overlay of unsettled overrides over the active intent, the offline quota, the making of signed override
// documents, and the states local, pending, adopted, discarded, conflict.
//
// Imported by: siteagent.
//
// Promises: 4 (an override deletes by a tombstone of its own), 11 (an override is fsynced and copied to every live peer
// before it is answered). An override is never merged per field nor by time: until the coordinator acknowledges it, the
// site's value stands whole.
//
// Concurrency: pure functions over values; Overrides is safe for concurrent use through the journal's own locking.
//
// Tests: tables over Effective and Charge, a rapid law (an acknowledged override leaves no trace in the overlay).
package override
