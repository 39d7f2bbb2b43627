// Package stick is the file that carries signed documents where no line reaches: down from a coordinator to a site, and up again.
//
// Holds: Writer and Reader of JSON Lines, one document a line: a header, the documents, an end that counts and hashes what came
// before it.
//
// Imported by: coordinator/sticks, siteagent/sticks. It verifies no signature: the carrier needs no trust, and who takes a document
// from a stick verifies it as if a session had brought it. The end tells an accident from a whole file, not a forger.
//
// Promises: 12 (one line of at most MaxLine octets is in memory, unknown fields are refused; a file that breaks off is told from a
// whole one).
//
// Concurrency: none; a Reader or Writer belongs to one goroutine.
//
// Tests: stick_test.go cuts a file at each octet; FuzzReader.
package stick
