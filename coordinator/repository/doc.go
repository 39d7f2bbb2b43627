// Package repository keeps the assets that were uploaded to a coordinator and serves them to agents.
//
// Holds: Import (stream to blob, manifest, digest) and the documents made from it.
//
// Imported by: coordinator only.
//
// Promises: 7 (what is served was verified first: storage/blob), 12 (an upload is bounded and never kept half).
//
// Concurrency: safe for concurrent use; starts no goroutine.
//
// Tests: repository_test.go: import, the same bytes twice, an upload that breaks off.
package repository
