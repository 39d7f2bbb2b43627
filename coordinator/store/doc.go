// Package store is where a coordinator keeps everything: an ordered key space with compare-and-commit, ranges and a wake-up.
//
// Holds: the Store interface and its embedded Badger backend. Every engine that has these four calls can stand behind it
// (etcd when one host is not enough).
//
// Imported by: coordinator and coordinator/publish, coordinator/repository.
//
// Promises: 11 (Commit returns after the fsync); 3 (a commit whose guards do not hold changes nothing, so two writers never
// append to one head).
//
// Concurrency: a Store is safe for concurrent use and starts no goroutine.
//
// Tests: one table in store_test.go over every backend; many writers append to one head.
package store
