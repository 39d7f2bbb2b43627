// Package bmc says what a management controller can do for us, and what a driver promises.
//
// Holds: Controller with Firmware, Reader, SensorReader and Consoler, their types and errors. Drivers are in boot/bmc/redfish and boot/bmc/ipmi; what they share in
// boot/bmc/govern; the conformance suite in boot/bmc/bmctest.
//
// Imported by: siteagent and the drivers.
//
// Promises: 5 and 6 (every write carries a Claim; a driver refuses one below the fence that it knows), 10 (a state that cannot
// be read is unknown, never off).
//
// Contracts, checked by bmctest on each driver and fault: read first, and write nothing that is so already; reads never write;
// a 2xx proves nothing, so a driver claims at most EffectReadback after it read the change back; a context's deadline is kept
// within a second; nothing outlives Close, which deletes the session.
//
// Not built: media, log, single settings, volumes, erase, update; accounts are listed, never changed but for our password.
//
// Concurrency: a Controller is safe for concurrent use; its requests go out one at a time.
//
// Tests: boot/bmc/bmctest.
package bmc
