// Package sflow hears sFlow version 5: the walker through a datagram, the state of each exporter's stream, the socket.
//
// Holds: Parse and Datagram.Next (validate whole, then read sample by sample, without allocation), Packet (what a sampled
// header says), Streams (duplicates, loss, restarts, pools, per exporter), Receiver (the socket, the source check, the counters).
//
// Imported by: telemetry/account and siteagent/traffic. It knows neither projects nor stores.
//
// Promises: 12 (every length is checked in its parent before anything is counted, no count sizes an allocation, at most
// MaxStreams streams of MaxSources sources; a bad datagram costs one count by reason).
//
// Concurrency: a Datagram and a Sample belong to one goroutine; a Receiver owns its reader until Run returns. Streams is not
// safe for concurrent use: its caller is the one reader.
//
// Tests: walk_test.go (goldens of recorded captures, the gopacket fork as second opinion), fuzz_test.go, stream_test.go; real
// exporters and pmacct's collector in test/e2e.
//
// Source: sFlow version 5 memo (sflow.org/sflow_version_5.txt), sections 4 and 5; sFlow VXLAN structures 1029 and 1030; sFlow
// discarded packet notification structures.
package sflow
