// Package doctor is the verb that examines what Skerry shall work with before it does.
//
// Holds: Command (`skerry doctor bmc`).
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: a password comes from the terminal, a file or the environment, never from the arguments; nothing is written without --write
// and a yes.
//
// Concurrency: none; one command runs.
//
// Tests: doctor_test.go: the whole verb against simulators; the help text is a golden of cmd/skerry/cli.
package doctor
