// Package state is the only place that opens Badger: small durable records in buckets, each with its own MAC, and the marks
// that tell a restored copy from the real thing.
//
// Holds: DB (profile Records: intent, roster, bindings, claims, journal, leases), Raw (profile Raw: telemetry, in a directory of
// its own, without MACs or counts), Tx, Scrub, Repair and Rebuild, Backup and Restore, the free-space watermarks and the ballast,
// the schema version (schema.go: where migrations go), and Marks (two alternating 4 KiB files outside Badger).
//
// Imported by: siteagent, coordinator/store, storage/blob and the doors. Workshops take small interfaces instead.
//
// Promises: 11 (Update returns only after fsync; a full disk refuses writes by class and keeps serving), 4 (a damaged record
// is ErrDamaged, never ErrAbsent; a bucket whose sums do not fit, or where a read finds damage, goes on hold, and then
// nothing in it can be deleted).
// A crash leaves the state of the last Update that returned, or of the one in flight, whole. A directory that fails to open
// three times is moved to <dir>.bad-<n> and an empty one is started with Recovering set; of a Raw, at once, to <dir>.bad.
//
// What detects damage: the record MAC covers bucket, key, version and value. Badger can make a key of a damaged block vanish
// without an error, so each bucket also keeps, in the transaction of every write, a header and 256 slots (first octet of
// SHA-256 of the key) with a count and the sum modulo 2^128 of the record MACs. The sum does not depend on order, so a write
// costs two small extra records instead of rehashing the slot; it is keyed because its terms are. Scrub recomputes them all.
//
// Concurrency: a DB is safe for concurrent use; Updates run one after another. So is a Raw; its Writes may overlap. Badger's
// goroutines belong to the DB or Raw and end in Close. A Tx belongs to the function it was given to.
//
// Tests: tables and rapid beside each file; kill, power-cut and bit-flip runs in test/fault.
package state
