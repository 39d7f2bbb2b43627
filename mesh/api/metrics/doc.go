// Package metrics answers /metrics: one catalogue of names, and the text that Prometheus reads.
//
// Holds: Handler, which adds HELP and TYPE of the catalogue to what is written, one family after the other; Help.
//
// Imported by: coordinator and siteagent. It imports the standard library and the process metrics of VictoriaMetrics/metrics.
//
// Promises: 12 (nothing is read from a request). What is not in the catalogue is exposed, too, and fails the test.
//
// Concurrency: the handler is safe for concurrent use if what writes is.
//
// Tests: every name in the source has a row, and every row a use; promtool finds nothing to complain of; a real Prometheus scrapes.
package metrics
