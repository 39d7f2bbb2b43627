// Package store is where a coordinator keeps everything: an ordered key space with compare-and-commit, ranges and a wake-up.
//
// Holds: the Store interface, its embedded Badger backend, and the shared one over etcd for several coordinators.
//
// Imported by: coordinator and coordinator/publish, coordinator/repository.
//
// Promises: 11 (Commit returns after the fsync, of a majority with etcd); 3 (a commit whose guards do not hold changes nothing, so two writers never
// append to one head).
//
// Concurrency: a Store is safe for concurrent use. Etcd owns one goroutine, which follows the store's revision and ends in
// Close; its commits go one after another, so that the outcome of each is known before the next begins.
//
// Tests: one table in store_test.go over every backend, etcd as a real cluster of three (Debian: etcd-server); members killed
// and cut off under concurrent appends; answers lost on the way (etcd_test.go).
package store
