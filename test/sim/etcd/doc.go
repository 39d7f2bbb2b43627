// Package etcd runs a cluster of real etcd members on loopback for tests: each can be killed, started again, and cut off from
// the others.
//
// Holds: Cluster (New, Start, Endpoints, Kill, Restart, Cut).
//
// Imported by: tests only.
//
// Promises: own data directories below t.TempDir, ports that the kernel chose, children killed by pid at the end of the test.
//
// Concurrency: a Cluster belongs to one test; Cut may be called while members run.
//
// Tests: coordinator/store's, which need every part of it.
package etcd
