// Package procs is a whole site of real processes on loopback: a coordinator and agents that answer no machines.
//
// Holds: Site (start, kill, ask, wait), FreeAddr, ResidentMB.
//
// Imported by: tests and benchmarks only.
//
// Promises: nothing leaves loopback; every process is stopped by its own pid when the test ends, and what it said last is shown
// when the test failed.
//
// Concurrency: a Site belongs to one test.
//
// Tests: those that use it.
package procs
