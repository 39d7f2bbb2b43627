// Package origin reads assets from where they lie as they are: at a URL.
//
// Holds: Policy (which addresses may be dialled for a URL) and its client; Part, which reads one part of an asset and refuses, with a name,
// whatever is not that; what of an answer's headers both readers of URLs need.
//
// Imported by: coordinator/repository, which reads a URL whole when it is registered, and siteagent/origins, which reads parts. It
// imports mesh/intent only.
//
// Promises: 7 (a part is octets from outside: who reads it checks them against the signed manifest), 12 (redirects, headers, octets and
// the time to the first of them are bounded; what leads to an address that only this host reaches is refused at the dial).
// No proxy of the environment is used, no cookie kept, no credential sent.
//
// Concurrency: safe for concurrent use; no goroutine of its own outlives a call, but those of connections that a client keeps.
//
// Tests: policy_test.go: addresses, names that move; part_test.go: servers that lie; FuzzAnswer.
package origin
