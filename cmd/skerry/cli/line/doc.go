// Package line is the verb about what a site's line to the coordinator may carry.
//
// Holds: Wan (`skerry site wan`), which shows and changes spec.wan of a Site.
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: only what a flag names is changed, under the revision that was read; --dry-run changes nothing.
//
// Concurrency: none; one command runs.
//
// Tests: wan_test.go: windows as people write them; test/script (wan.txtar) runs the verb against a coordinator; the help text is a golden
// of cmd/skerry/cli.
package line
