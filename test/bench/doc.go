// Package bench prints our figures beside those of the programs that people use instead, and beside what was asked.
//
// Holds: Figure and Pressure, which every benchmark prints with, and the benchmarks of a whole site on loopback: apply to
// active, memory, sizes, durable writes, boot HTTP against nginx. Those of firmware and of image writes stand with the rigs
// that they need: test/e2e and test/e2e/netboot.
//
// Imported by: benchmarks of test/e2e. No product room may import it.
//
// Promises: ours and the peer's run in turn in one run, on the same bytes; nothing here fails because a machine is slow.
// A figure is never a test.
//
// Concurrency: Figure may be called from one goroutine at a time.
//
// Tests: they are benchmarks, run once each by `make bench`; docs/benchmarks.md keeps what they printed.
package bench
