// Package ipmi drives management controllers that speak IPMI 2.0 over LAN (RMCP+) and no Redfish.
//
// Holds: Controller, which implements bmc.Controller and bmc.SensorReader, and Config.
//
// Imported by: siteagent/bmclogin and cmd/skerry/cli (doctor), through boot/bmc's interfaces.
//
// Promises: 6 as far as IPMI can: there is no device fence, so the strength is none and only the site's majority decides; 10 (what cannot
// be read is unknown); 12 (packets, strings, FRU areas and SDRs are bounded and fuzzed; what is not encrypted and authentic is
// passed over). Cipher suite 17, then 3; an answer with less is refused. The password is proven to the controller and never sent, but in
// SetPassword, encrypted.
//
// The protocol is written here and not taken from go-ipmi, whose client does not check the integrity of answers, takes
// whatever algorithms a controller answers with, and links a table writer. Its server is what the tests run against.
//
// Concurrency: a Controller is safe for concurrent use; requests go out one at a time; it has no goroutines. Its session ends on the
// device after a minute of silence, and the next request logs in anew.
//
// Tests: boot/bmc/bmctest against test/sim/ipmi with each of its faults and against Debian's ipmi_sim; ipmitool as the judge; fuzzed.
package ipmi
