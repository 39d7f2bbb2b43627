// Package wan is a wide-area link in user space: a relay of one TCP and one UDP port that can be cut, slowed and made lossy.
//
// Holds: Relay (Run, Set, Counters) and Condition.
//
// Imported by: test/e2e, cmd/skerry-demo/demo. Never by product rooms.
//
// Promises: while cut, nothing passes in either direction, established connections included; they are not closed, for a
// real cut tells nobody. Memory is bounded: 64 KiB per direction of a TCP connection, 256 datagrams per direction of the
// UDP side, the newest dropped.
//
// Concurrency: Run owns every goroutine and both sockets. Set and Counters may be called from anywhere.
//
// Tests: echo servers on loopback, each condition; the loss pattern's seed is printed.
package wan
