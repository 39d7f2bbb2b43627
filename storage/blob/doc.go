// Package blob keeps assets as files: <digest>.blob (sparse) and <digest>.manifest, with a state record that says which
// chunks are there.
//
// Holds: Store (Put, WriteChunk, ReadChunk, Open, Import, Take, List, SetPins, Delete, Scrub, Space).
//
// Imported by: siteagent, coordinator/repository and the doors; boot/httpboot and mesh/swarm declare what they need of it.
//
// Promises: 7 (a chunk is hashed before it is written, and once per process life before it is first read out; a chunk without
// its bit cannot be read), 11 (space is checked and allocated before a write; ENOSPC is ErrFull and stops the fetch), 12.
// A crash loses at most the chunks since the last checkpoint (64 MiB or 5 s): bits are recorded only after fdatasync. What the
// last checkpoint of an unfinished blob wrote is hashed again at Open.
//
// Concurrency: a Store is safe for concurrent use and starts no goroutine.
//
// Tests: tables, a random writer killed between operations, damage on disk, a scrub that goes on after restarts.
package blob
