// Package documents is the verbs about the signed streams: how far they are, and the files that carry them where no line reaches.
//
// Holds: Intent (`skerry intent status|export|import`), Site (`skerry site export|import`).
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: a stick is written whole under its name or not at all; it is sent as it is read, never held in memory.
//
// Concurrency: none; one command runs.
//
// Tests: documents_test.go; test/script (sticks.txtar) runs the verbs against a coordinator; the help texts are goldens of
// cmd/skerry/cli.
package documents
