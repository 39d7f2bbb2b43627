// Package traffic is the verbs that say who had how much traffic, and who has it now.
//
// Holds: Command (`skerry traffic`): a table with each figure's bound, CSV and JSON for billing. Top (`skerry top`): rates, every ten
// seconds.
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
