// Package doctor examines a stranger's management controller and says in plain words what will work with it and what will not.
//
// Holds: Examine, Report.
//
// Imported by: cmd/skerry/cli/doctor; it stands here because it works with the drivers of boot/bmc and with telemetry/sensors.
//
// Promises: nothing is written unless Config.Write says so, and then the boot override alone, which is put back, and what shows whether the
// fence holds; at most one login by each protocol; no password is told.
//
// Concurrency: none; an Examine is one caller's.
//
// Tests: the simulators of both protocols with their faults.
package doctor
