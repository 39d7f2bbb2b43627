// Package join brings agents in: a new one by a single-use token, and one that was away for so long that nobody knows it by its
// certificate any more by its signing key.
//
// Holds: Token (make, parse, hash), Redeemer (the coordinator's side over a small Store), Join (the agent's side), Return and
// Returner (both sides of coming back), and the wire messages between them: frames of u32 length and strict JSON over TLS with ALPN skerry-join.
//
// Imported by: coordinator, siteagent, cmd/skerry.
//
// Promises: the secret is sent only after the peer's certificate was verified under the trust chain that the token pins. A
// token is spent by exactly one key, by one compare-and-swap; the same key gets the same answer for 10 minutes. The
// coordinator chooses the identity. One error text for unknown, spent, expired and wrong serial. 12: frames, documents,
// conversations and sources are all bounded.
//
// Concurrency: Redeemer is safe for concurrent use and starts no goroutines; Join owns its connection until it returns.
//
// Tests: whole conversations over net.Pipe in synctest bubbles; 200 joins at once, one token 200 times; a man in the middle
// sees no secret; TestReturn and its refusals; FuzzParse, FuzzHandle, FuzzReadMsg.
package join
