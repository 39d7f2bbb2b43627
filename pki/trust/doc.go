// Package trust decides who the other end of a connection is and whether it may speak.
//
// Holds: View (an immutable snapshot of trust document, rosters, users and revocations), Verify (the checks of one
// connection), the makers of every tls.Config of the house, the revocation set, and the time floor.
//
// Imported by: pki/ca, pki/join, mesh/transport, mesh/uplink, coordinator, siteagent. tls.go is the only file of the
// project with InsecureSkipVerify: the standard check looks at clocks and host names, ours at signed state.
//
// Promises: 2 (no certificate is refused because of a date; a wall clock never moves the floor), 12 (at most 4 certificates
// and 16 KiB of them are looked at). TLS 1.3, exact ALPN, no tickets, no 0-RTT.
//
// Concurrency: a View is read-only after it was built; Holder and Floor are safe for concurrent use; no goroutines.
//
// Tests: tables with real handshakes over net.Pipe; each rule of trust.md section 1 has a case that breaks it;
// FuzzParseIdentity; Floor in a synctest bubble.
package trust
