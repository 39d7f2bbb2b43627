// Package rrd keeps history: rrdtool's round-robin archives for many series, in one directory of its own.
//
// Holds: Def (a series), Profile (its archives), Store (samples in, ticks to disk, rows out), Match. The words and rules are rrdtool's:
// data source types, heartbeat, primary and consolidated data points, xff. Differences: integers are exact (rrdtool adds 2^32-1 where
// a counter wraps, and loses low bits at 2^64), and an answer says by how much it was made coarser.
//
// Imported by: siteagent, which wires collectors and the API. telemetry/rrd/graph draws, and knows nothing of this package.
//
// Promises: 11 (what a Tick that returned nil completed is on disk: one transaction, one fsync; a full disk refuses the tick and reads
// go on), 4 (a series goes by Remove alone, for a tombstone; what cannot be read is unknown and nothing of it is deleted), 12 (series,
// labels, queries are bounded; a sample that cannot be taken costs its sender an error). A kill loses the points since the last tick,
// and of each counter the point that was open. A damaged value is unknown rows, counted.
//
// On disk, all values with a version and a CRC-32C: rows of one tick for 4,096 series (w, 120 slots), and every 60 ticks, spread over the
// 50 that follow, blocks of 60 rows of one archive of one series (b), which are rewritten in place as they fill; what is open at that
// boundary (h), and how far ticks (m t) and closes (m c) are. Keys do not grow in number: a row is old by the number in it.
//
// Concurrency: a Store is safe for concurrent use. Run owns two goroutines, the tick and the scrub.
//
// Tests: tables; rrdtool itself on the same random samples (TestPeer, package rrdtool); a process that is killed while it ticks,
// and whose power is cut; fuzzed decoders; rings turned five times.
package rrd
