// Package clock decides what time it is for a coordinator, and whether it may put that time under a signature.
//
// Holds: Clock (Now, Leads, Sign, Lower, Run), over trust.Floor, saved in the coordinator's store.
//
// Imported by: coordinator only.
//
// Promises: 2 (no clock ends a site: what is signed raises the time floor of every agent, so a clock that leaps ahead signs nothing).
//
// Concurrency: a Clock is safe for concurrent use. Run is its one goroutine.
//
// Tests: in a synctest bubble, with a wall clock that jumps; whole coordinators and sites in test/fault (F7, F8).
package clock
