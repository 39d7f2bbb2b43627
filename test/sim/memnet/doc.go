// Package memnet is a network in memory: hosts with one address each, streams and packets between them, and what goes wrong on wires.
//
// Holds: Net (Host, Cut, Unplug, Mute, Storm, Sent, OnSend) and Host, which is a transport.Network. A cut loses packets and holds streams up, as
// a retransmitting TCP would; a host that is unplugged is gone without a word, and its streams are reset when it is back.
//
// Imported by: tests.
//
// Promises: everything waits on channels and timers only, so that the clock of a testing/synctest bubble moves on.
//
// Concurrency: safe for concurrent use. Packets take a moment; streams deliver at once where the weather is fine (Storm).
//
// Tests: beside the files; test/fault runs whole domains over it.
package memnet
