// Package ipmi is a management controller in software that speaks IPMI 2.0 over LAN and no Redfish. It switches a simulated machine on and
// off, remembers a boot override, and misbehaves on demand.
//
// Holds: BMC, Config, Faults, Start (for a test); the protocol is go-ipmi's server, an implementation that is not ours; the commands that it
// lacks, sensor reading and system GUID, are here.
//
// Imported by: tests of boot/bmc, siteagent and test/e2e. Never by product rooms.
//
// Promises: an override `once` is consumed by exactly one start; state lives in memory only.
//
// Concurrency: BMC is safe for concurrent use. Serve runs until its context ends.
//
// Tests: the conformance suite of boot/bmc/ipmi; ipmitool as the judge, with cipher suites 3 and 17.
package ipmi
