// Package asset is the verbs of `skerry asset` that bring assets to the coordinator, and take deleted ones away.
//
// Holds: Commands (upload, register, uploads, drop, collect).
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: a file is never held in memory; an upload that was cut goes on where the coordinator has it, whoever runs it again.
//
// Concurrency: none; one command runs.
//
// Tests: asset_test.go against a server that cuts; test/script (rights.txtar) runs the verbs against a coordinator; the help texts are
// goldens of cmd/skerry/cli.
package asset
