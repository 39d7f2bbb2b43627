// Package swarm moves assets between agents, and from a coordinator to its agents: verified chunks, from one peer at a time.
//
// Holds: the handler that serves manifests and chunks, the peer that asks for them, and Fetch, which completes one asset from
// a list of sources in order.
//
// Imported by: coordinator, siteagent. storage/blob lies beside it and is handed in through Store.
//
// Promises: 7 (a chunk is stored only when it has its hash), 12 (frames and answers are bounded before anything is
// allocated). A source that sends three bad chunks is not asked again for that asset.
//
// Concurrency: handler and peers are safe for concurrent use; Fetch runs in its caller's goroutine.
//
// Tests: swarm_test.go: two stores over HTTP, liars, one that breaks off, silence, a full disk, resume; FuzzReadFrame.
package swarm
