// Package bmc is a Redfish management controller in software. It switches a simulated machine on and off, remembers a boot
// override, and misbehaves on demand the way real controllers do.
//
// Holds: BMC (an http.Handler), Config, Faults (names of quirks, boot.md section 4), a self-made certificate, a request log.
//
// Imported by: tests of boot/bmc, test/e2e, cmd/skerry-demo/demo. Never by product rooms.
//
// Promises: anonymous clients see the service root and may log in, nothing else; an override `Once` is consumed by exactly
// one start; a stale If-Match is 412; bodies are bounded at 64 KiB and strict; state lives in memory only, as one mutex
// guards it, and is gone with the process.
//
// Concurrency: BMC is safe for concurrent use. It starts no goroutine but in Serve, which returns after they are gone.
//
// Tests: tables over HTTP; gofish as the judge; each fault has its case.
package bmc
