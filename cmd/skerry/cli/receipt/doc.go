// Package receipt is the verbs about proofs of erasure.
//
// Holds: Command (`skerry receipt list|show|verify`).
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: verify of a file asks nobody: it needs the file and a trust document of the domain.
//
// Concurrency: none; one command runs.
//
// Tests: receipt_test.go (a file with each fault; the page is a golden); the help texts are goldens of cmd/skerry/cli.
package receipt
