// Package cli holds the verbs of the skerry command.
//
// Holds: one constructor per verb, contexts (which server, which token), YAML reading with positions, output as table, JSON
// or YAML, the doors of coordinator and agent.
//
// Imported by: cmd/skerry only. Only this package imports cobra and the YAML library.
//
// Promises: exit codes 0 done, 1 error, 2 usage, 3 partial, 4 stale. Errors say what to do next. No secret is printed but
// the tokens that a command was asked to make.
//
// Concurrency: one command per process; progress bars own one goroutine, which ends with the command.
//
// Tests: test/script/*.txtar run the real main; cli_test.go: every help text and the fields of every kind as goldens, places in
// YAML, a fuzz target for documents.
package cli
