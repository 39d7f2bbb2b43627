// Package graph is the verb that shows what a site measured.
//
// Holds: Command (`skerry graph`): a list of series, drawings in the terminal, pictures in files.
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: unknown is a gap; an agent that was not heard is named below the drawing.
//
// Concurrency: none; one command runs.
//
// Tests: graph_test.go: aliases, the whole verb against a server that answers; the help text is a golden of cmd/skerry/cli.
package graph
