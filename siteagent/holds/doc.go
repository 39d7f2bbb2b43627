// Package holds counts how long what is held has waited, over restarts and by no clock that can be set.
//
// Holds: Ledger, this agent's count of the time that it ran while something waited (trust.md section 12, F13: what was deleted at the
// site is held for 24 hours).
//
// Imported by: siteagent.
//
// Promises: 2 (a clock that leaps while the agent is down shortens no wait, and an agent that is restarted every day ends one), 5 (what
// is not on disk has to be waited for again).
//
// Concurrency: safe for concurrent use. Run writes every ten minutes.
//
// Tests: beside the file: restarts, leaps of the clock, damage.
package holds
