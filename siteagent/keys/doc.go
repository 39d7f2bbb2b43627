// Package keys is who an agent is, on its own disk: identity and keys, and how they change while it runs.
//
// Holds: Identity (keys/identity.json), Own (the keys and certificates in use, and those of a rotation), Worker (makes new keys when the
// coordinator asks, goes over to them when the roster lists them and the peers have heard, forgets the old ones).
//
// Imported by: siteagent alone.
//
// Promises: 1 and 2: nothing here waits for a coordinator to start, and no clock decides. The change is one rename of identity.json:
// after a crash the agent is the old one or the new one, and the roster lists both. Keys are forgotten when the signed roster lists one
// newer key alone and everything that is sealed to the agent opens without them. No request fails by a change.
//
// Concurrency: Own is safe for concurrent use; Worker.Run owns its goroutine.
//
// Tests: real key directories and replicas, with a crash after each step; test/fault (F18) with a coordinator, peers and load.
package keys
