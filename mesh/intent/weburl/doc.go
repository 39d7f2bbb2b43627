// Package weburl says which text may be the URL of an asset.
//
// Holds: Check, CheckParsed and Host.
//
// Imported by: mesh/intent (documents) and mesh/origin (what is dialled, and where a redirect leads). Standard library only.
//
// Promises: 12 (2048 octets at most, no panic). Who may be dialled for it is mesh/origin's.
//
// Concurrency: none; functions only.
//
// Tests: weburl_test.go, FuzzCheck.
package weburl
