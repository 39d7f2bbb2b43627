// Package point names where hosts count by themselves, and the access ports that do not count then.
//
// Holds: Point, Except (a machine, a direction and a time), Join and Index over them.
//
// Imported by: telemetry/account, which hands its types on.
//
// Promises: pure functions; what is given in any order comes out in one order.
//
// Concurrency: none of its own; an Index is not changed after it is made.
//
// Tests: TestPoints and TestCountedTogether of telemetry/account.
package point
