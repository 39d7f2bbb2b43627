// Package client speaks the API /v1 to a coordinator or a site agent.
//
// Holds: Client with one method per route, streams as callbacks, RFC 9457 answers as *Problem.
//
// Imported by: cmd/skerry/cli, cmd/skerry-demo/demo, coordinator (over an agent's session) and tests.
//
// Promises: every answer is bounded; a stream that ends early is an error, never a short success.
//
// Concurrency: a Client is safe for concurrent use and starts no goroutine of its own.
//
// Tests: client_test.go: every request line, refusals, torn streams. test/script drives it against a real coordinator.
package client
