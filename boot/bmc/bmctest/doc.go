// Package bmctest is the conformance suite of bmc.Controller: each contract sentence of boot/bmc has its case here.
//
// Holds: Run, Device.
//
// Imported by: tests of drivers only.
//
// Promises: a driver that passes under a fault reached the goal or named why not, and never claimed a success that the device
// does not show.
//
// Concurrency: none of its own.
//
// Tests: each driver calls Run for the healthy device and for each fault.
package bmctest
