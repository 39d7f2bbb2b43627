// Package demo runs the main job from an empty site to running machines, with real processes, network namespaces, firmware
// and kernels on one host, and shows each step with its time.
//
// Holds: the wiring of the simulated site (lab.go), the walk (walk.go), the table of steps and figures (report.go),
// what the switch counted (traffic.go).
//
// Imported by: cmd/skerry/cli. It is the only code outside tests that may import test/sim.
//
// Promises: everything that it starts is stopped by its own pid when the context ends, and its namespaces go; nothing is sent
// outside them.
//
// Concurrency: Run owns every goroutine.
//
// Tests: `make demo` itself; test/e2e runs the same walk.
package demo
