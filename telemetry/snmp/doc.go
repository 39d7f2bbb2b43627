// Package snmp reads switches and hosts by SNMP: interfaces, sensors, processors, memory. It never writes.
//
// Holds: Reader (what is remembered of each device, and one Read of it), Target (where it is and how to log in), Reading. The walk over
// GetBulk is ours; encoding, authentication and encryption are gosnmp's.
//
// Imported by: siteagent/devices, which says whom to read, and keeps what they say.
//
// Promises: 10 (no such object, text for a number, a sensor that is not ok: unknown, never 0), 12 (object names strictly rise and stay in
// their subtree, a column has at most 10,000 variables, a reading takes 20 s with one request in flight, names are clipped and made printable; what
// breaks this costs that part of the reading, never the rest).
//
// Versions: 2c, and 3 with SHA-256 and AES-128 (RFC 7860, RFC 3826), both mandatory.
//
// Concurrency: a Reader is safe for concurrent use; one Read of a device at a time, the second waits for the first.
//
// Tests: recorded walks (testdata, from the repositories and licences that MANIFEST.md names) replayed over UDP, goldens of what comes
// out; devices that lie, by table and fuzzed; Debian's snmpd as a peer (PKG_PEERS).
package snmp
