// Package sensors reads the sensors of management controllers: temperatures, fans, power, voltages.
//
// Holds: Reader (which resources of a controller hold sensors, remembered per machine, and what they say now; or what a controller without
// resources says), Reading, Source.
//
// Imported by: siteagent/history, which serves Source on the one session that a controller gets, polls and keeps.
//
// Promises: 10 (null, missing or no number, or a state that is not Enabled: unknown, never 0; Absent: no reading at all), 12 (what a
// controller says is bounded: chassis, sensors, octets of a name, requests; a part that makes no sense is left out and the rest read).
//
// Concurrency: a Reader is safe for concurrent use; one Read of a machine at a time, the second waits for the first.
//
// Tests: goldens of recorded trees (testdata, from the repositories and licences that MANIFEST.md names); broken readings by table; fuzzed.
package sensors
