// Package repository keeps the assets of a coordinator and serves them to agents: uploaded whole, uploaded in pieces that go on after
// a cut, or read from a URL.
//
// Holds: Import (stream to blob, manifest, digest), Repository (the sessions of uploads that resume, and what reads URLs), Policy (which
// addresses may be dialled for a URL), Collect (octets of deleted assets).
//
// Imported by: coordinator only.
//
// Promises: 4 (a blob goes by the mark of a deletion alone), 7 (what is served was verified first: storage/blob; nothing is published
// before its digest matched), 11 (an offset that was told is on disk: first the octets, then the record), 12 (sessions, octets of a body
// and of a URL, redirects and waiting are bounded).
// A crash leaves of a session what its record says; what lies behind it in the file is thrown away.
//
// Concurrency: safe for concurrent use. One request at a time holds a session; a newer one stops the older. Run owns the goroutines
// that read URLs and remove what is idle.
//
// Tests: repository_test.go: import; session_test.go: cuts, kills, bad bodies; fetch_test.go: bad servers; policy_test.go: addresses;
// collect_test.go.
package repository
