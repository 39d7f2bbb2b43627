// Package machine is the verbs about one machine of a site.
//
// Holds: Command (`skerry machine discovered|accept|ignore|power|explain|release|clear|approve|quarantine|maintenance|resume`).
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: maintenance and resume change spec.maintenance only, under the revision that was read; --dry-run changes nothing.
//
// Concurrency: none; one command runs.
//
// Tests: test/script (machine.txtar) runs the verbs against a coordinator, test/e2e against a site; help texts are goldens of
// cmd/skerry/cli.
package machine
