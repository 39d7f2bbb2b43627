// Package account is the verbs about who may do what: users, their keys, groups, roles, projects and quotas.
//
// Holds: Commands, conveniences that build one object and put it, if nobody was faster, over the same API as `skerry apply`; and the
// key files with which users authenticate (Certificate).
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: a private key is written to its file only, mode 0600, and never over another; a passphrase is printed once and never taken
// from the environment.
//
// Concurrency: none; one command runs.
//
// Tests: test/script (users.txtar) runs the verbs against a coordinator; the help texts are goldens of cmd/skerry/cli.
package account
