// Package traffic is the verb that says who had how much traffic.
//
// Holds: Command (`skerry traffic`): a table with each figure's bound, CSV and JSON for billing.
//
// Imported by: cmd/skerry/cli, which gives it a Shell.
//
// Promises: a figure is never shown without its bound, its samples and its coverage; what is unusual about one is explained below.
//
// Concurrency: none; one command runs.
//
// Tests: traffic_test.go (a golden table, times as people write them); test/script (traffic.txtar) runs the verb against a coordinator; the
// help text is a golden of cmd/skerry/cli.
package traffic
