// Package holder is what the holders of a domain's roots do, offline: they make their keys, look at the next trust document and
// sign it.
//
// Holds: Holder (a root signing key, the announced next one, the key of R; a file encrypted with age), Bundle (the public halves of
// all holders), Offer (a trust document on its way round the holders, with all that came before it).
//
// Imported by: coordinator, coordinator/founding, coordinator/rotation, cmd/skerry/cli. It speaks with nobody and needs no server.
//
// Promises: 3 (a holder signs what follows the newest document that he signed, and one document for a place). 12 (each file is read
// with a bound and strictly). A signature counts once per key. A file is there whole or not at all.
//
// Concurrency: none; one command runs.
//
// Tests: tables over offers that are foreign, skip, fork or were changed; FuzzDecodeOffer, FuzzDecodeBundle, FuzzDecodeHolder; the
// ceremony with files and processes is test/script/testdata/ceremony.txtar.
package holder
