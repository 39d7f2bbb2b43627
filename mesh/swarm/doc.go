// Package swarm moves assets between agents, and from coordinator to agents, as verified chunks.
//
// Holds: Fetch (from one source at a time), Source, HTTPSource (a peer over any http.RoundTripper) and Handler (its other
// end), the frames of mesh.md section 5.
//
// Imported by: siteagent, coordinator.
//
// Promises: 7 (a chunk counts only after the consumer's Write verified it; a bad one is a strike, three strikes end a source
// for this asset), 8 (Fetch asks one source at a time and only for what is missing), 12 (frames, runs and times are bounded;
// whoever stops sending for five seconds is left).
//
// Not built: HAVE, WHO and PLAN frames, stripes, several sources at once, WAN budget.
//
// Concurrency: Fetch runs in its caller's goroutine; a Handler is safe for concurrent use.
//
// Tests: tables with lying, slow and dying sources; FuzzFrames.
package swarm
