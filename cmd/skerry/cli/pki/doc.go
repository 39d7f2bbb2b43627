// Package pki is the verbs that make roots, sign with them, and rotate keys.
//
// Holds: InitCmd and SignCmd, which holders of the roots run offline; RotateCmd, which begins rotations at a coordinator, follows them
// and shows their ledger.
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: the same command goes on with what is under way; it begins nothing new where a rotation is done unless it was asked to.
// Exit code 3 when somebody is waited for.
//
// Concurrency: none; one command runs.
//
// Tests: tables over what is printed; test/fault runs rotations through the API; the help texts are goldens of cmd/skerry/cli.
package pki
