// Package bmclogin knows which login works at which BMC, and changes passwords.
//
// Holds: Logins: Dial (a session with a machine's BMC, by the secret that is sealed to this agent and the TLS key first seen), Chore
// (prove a new version of a secret at a BMC, and set the new password where the version carries the one before); Sessions: one session with
// each BMC for all who work with it, control before sensors.
//
// Imported by: siteagent only, which gives them to reconcile and history.
//
// Promises: 5 and 6 (a password is set under the machine's claim); a crash at any step leaves a password that works among the two that
// the site was told: which one is found by login, and is journaled when it was seen to work. At most two wrong logins in a quarter
// of an hour at one BMC, also over restarts: controllers lock accounts. No password is journaled, logged or told.
//
// Concurrency: safe for concurrent use; no goroutines but Sessions.Run, which its caller owns. Two agents may both log in; only the holder of the claim sets a password.
//
// Tests: against test/sim/bmc, with a crash at every step and each of its faults.
package bmclogin
