// Package security is the verbs of who answers for trust: identities taken away, agents cut off, secrets set and made anew.
//
// Holds: Commands (`revoke`, `secret`) and AgentCommands (what hangs below `agent`).
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: no value of a secret is taken from the command line or printed; what is not finished ends with exit code 3.
//
// Concurrency: none; one command runs.
//
// Tests: tables here; test/script runs the verbs against a coordinator; the help texts are goldens of cmd/skerry/cli.
package security
