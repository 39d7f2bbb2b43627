// Package backup is the file that holds a coordinator: its keys, every record of its store, and the list of its assets.
//
// Holds: Write (one consistent walk), Read (verifies to the last octet before it says that all is well); Save and Restore of a whole
// coordinator, Serve for one that runs.
//
// Imported by: coordinator and the doors.
//
// Promises: 12 (a line is at most 2 MiB; what is cut, changed, reordered or added is an error), 11 (a backup is never quietly
// short: counts and the SHA-256 of all lines before stand at its end). Assets are listed by digest, their bytes are not in it.
//
// Concurrency: Serve answers one at a time; Write walks a store that others may write to, at one revision.
//
// Tests: a round trip, every line cut, swapped, changed; FuzzRead.
package backup
