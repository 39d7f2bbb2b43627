// Package rotate knows the keys of a domain by age: what signed documents, rosters and certificates say about when each was made.
//
// Holds: Key, and the functions that find the keys in trust documents, rosters and certificates.
//
// Imported by: coordinator/rotation, siteagent.
//
// Promises: pure: no clock, no I/O, no key material. Ages are for showing and for alerts; no certificate ends by them (promise 2).
//
// Concurrency: functions only.
//
// Tests: tables over documents made by pki/ca.
package rotate
