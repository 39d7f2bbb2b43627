// Package document signs and verifies the documents that decide everything: DSSE envelopes and the chains they form.
//
// Holds: Sign and Open (one envelope), Encode and Decode (its wire form), receipts of erasure (receipt.go: signed, verified offline), and three pure chain verifiers: TrustChain,
// RevocationChain, IntentChain. No I/O, no clock.
//
// Imported by: pki/*, coordinator, siteagent, cmd/skerry/cli. It is the one room that imports go-securesystemslib, and only
// its pre-authentication encoding: counting signatures per key is done here, because the library prints and tolerates more.
//
// Promises: 3 (a chain only moves forward; a fork stops it), 12 (an envelope is at most intent.MaxEnvelope octets with at
// most intent.MaxSignatures signatures; nothing of a payload is parsed before its signature was verified, but for a trust document
// that names its own signers: the pinned one, and one that the announced roots sign alone). A verifier that returns an error has
// not changed.
//
// Concurrency: functions are pure; a chain value is owned by one goroutine, snapshots are plain structs.
//
// Tests: tables, rapid properties (rolled back, forked, truncated, other-site, bit-flipped are never accepted), FuzzDecode
// and FuzzChain with committed corpora.
package document
