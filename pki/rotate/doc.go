// Package rotate knows the keys of a domain by age: what signed documents, rosters and certificates say about when each was made.
//
// Holds: Key, and the functions that find the keys in trust documents, rosters and certificates; Order and Offer, by which a coordinator
// asks an agent for new ones.
//
// Imported by: coordinator/rotation, siteagent/keys, siteagent/upkeep.
//
// Promises: pure: no clock, no I/O, no private keys kept. Ages are for showing and for alerts; no certificate ends by them (promise 2).
//
// Concurrency: functions only.
//
// Tests: tables over documents made by pki/ca; FuzzRead.
package rotate
