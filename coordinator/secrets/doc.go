// Package secrets keeps the values of secrets at the coordinator, and tells them to the agents that may read them.
//
// Holds: Secrets: values encrypted at rest under the master key, one data key per agent and epoch, the site's boot key; what an
// agent was told, and the entries that tell it what it lacks.
//
// Imported by: coordinator only.
//
// Promises: 3 (a chain never forgets, so nothing enters it but what is sealed to one agent), 11 (what was told is noted in the
// commit of the entry that tells it: a crash tells it again or not at all).
//
// Concurrency: no state beside the store; every change is one commit. Sync is called under the site's lock.
//
// Tests: coordinator's, over a whole coordinator; test/e2e greps all that is written for marked secrets.
package secrets
