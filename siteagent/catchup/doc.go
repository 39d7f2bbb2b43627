// Package catchup brings an agent back that was away until nobody knew it by its certificate any more: its CA was retired, or
// its peers changed their keys.
//
// Holds: Keeper. It asks whoever of the roster it cannot hear, and a coordinator that it has no session with, for what it missed, by
// pki/join; and it tells others of its site what they missed.
//
// Imported by: siteagent.
//
// Promises: 1 (nothing waits for it), 3 (what is told goes through intake: signed documents that follow our own, or nothing).
//
// Concurrency: a Keeper is safe for concurrent use; Run owns its goroutine.
//
// Tests: test/fault.TestAwayWhilePeersRotated and TestAwayWhileCARetired, with real agents and a coordinator; the conversation's own
// are in pki/join.
package catchup
