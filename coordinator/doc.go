// Package coordinator signs certificates and publishes signed intent. It does nothing else, and it may be gone for ever.
//
// Holds: Config, Init and Run (the one wiring list), the catalog with its checks, secrets at rest, joining, the sessions
// that agents dial, and the API backend.
//
// Imported by: cmd/skerry only. It never imports siteagent.
//
// Promises: 3 and 4 (by publish), 11 (an applied batch is one fsynced commit, all or nothing), 12. It keeps no per-machine
// state: it shows what sites last reported, with its age.
//
// Concurrency: Run owns every goroutine and returns when all are gone. Objects are changed under one mutex, read from an
// immutable snapshot.
//
// Tests: coordinator_test.go drives Init, Apply and publication over a real store; the demo and test/e2e do the rest.
package coordinator
