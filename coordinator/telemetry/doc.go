// Package telemetry asks sites what they measure. A coordinator keeps none of it.
//
// Holds: Asker, which answers the API by the sessions that agents dialled.
//
// Imported by: coordinator only.
//
// Promises: 10 (a site that is not heard is a 503 that says since when, never an empty answer).
//
// Concurrency: an Asker is safe for concurrent use; no goroutines.
//
// Tests: here, against an agent's own handler.
package telemetry
