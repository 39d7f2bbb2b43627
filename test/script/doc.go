// Package script runs the command line as a user does: the real main, a real coordinator on loopback, whole texts, exit codes.
//
// Holds: tests only: testdata/*.txtar and the commands that they have beside testscript's: `coordinator DATA CONTEXT` starts a
// coordinator on a free port and points the context at it, `coordinator-stop` ends it, `exits N COMMAND` wants one exit code,
// `context-as NAME FILE` makes a context with another token.
//
// Imported by: nobody.
//
// Promises: tests 11 and 12 at the door: what was answered is there after a restart, what was refused left nothing.
//
// Concurrency: scripts run in parallel, each with a home and data of its own.
//
// Tests: go test ./test/script -run TestScript/apply -v shows one script; -update rewrites the texts that `cmp` compares.
package script
