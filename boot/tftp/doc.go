// Package tftp gives loaders to firmware that cannot do better, and nothing else.
//
// Holds: Server over pin/tftp, read only (no write handler is registered), with caps; Clean, which maps what firmware asks
// for to the name of a loader.
//
// Imported by: siteagent.
//
// Promises: 12 (transfers are capped in all and per client, dead after five seconds; a name is looked up, never joined to a
// path). Not built: windowsize (RFC 7440), which the library lacks; so nothing larger than a loader goes over TFTP.
//
// Concurrency: goroutines live inside Serve.
//
// Tests: the library's client and atftp as judges; recorded captures; FuzzClean, FuzzServe.
package tftp
