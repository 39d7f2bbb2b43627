// Package fault breaks things on purpose: kills processes in the middle of writes, cuts the power under a file system, flips
// bits on disk, and looks whether the promises hold.
//
// Holds: tests only. F1 (SIGKILL), F3 (power cut), F4 (bit flips) of trust.md section 12, as far as storage/state goes.
//
// Imported by: nobody.
//
// Promises: tests 11 (an acknowledged write survives), 4 (damage is never absence, and never a wrong value).
//
// Concurrency: the test binary starts itself as the process that is hurt.
//
// Tests: -fault.seed replays a run; -fault.runs sets how often, nightly more. The power cut needs root and e2fsprogs.
package fault
