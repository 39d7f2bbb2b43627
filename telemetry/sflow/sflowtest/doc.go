// Package sflowtest writes sFlow version 5 datagrams, for tests of what reads them.
//
// Holds: Exporter (a stream of datagrams with its sequence and uptime), Flow and Interface (samples), Frame (the beginning of
// an Ethernet frame), Payloads (what a recorded file holds).
//
// Imported by: tests and benchmarks only.
//
// Promises: what it writes is what the sFlow memo says, no more: it shares no code with telemetry/sflow, whose judge it is.
//
// Concurrency: an Exporter belongs to one goroutine.
//
// Tests: the gopacket fork reads what it writes, in telemetry/sflow.
package sflowtest
