// Package explain says why a machine is as it is: packets, identity, intent, permission, octets and times, in words for people.
//
// Holds: Machines, which reads them from the journal and the active intent.
//
// Imported by: siteagent.
//
// Promises: it changes nothing and asks nobody; what it says is what this agent has.
//
// Concurrency: safe for concurrent use.
//
// Tests: test/e2e and the demo read a whole explanation of a machine that was really installed.
package explain
