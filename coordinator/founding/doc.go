// Package founding makes the keys of a new domain and its first trust document, and knows which keys of the roots lie on this host.
//
// Holds: Keys, the key directory of a coordinator that is being founded: Offer (every key of its own, and the document for the holders),
// Finish (what they signed, made into certificates); Again, the same for a domain whose coordinators were all lost; MakeHolder and
// Holder, for a domain whose one holder is the coordinator's host; Issuer, the CA in use and the one that takes over.
//
// Imported by: coordinator, coordinator/rebuild, coordinator/rotation, coordinator/succession.
//
// Promises: a crash leaves keys and the offer, or nothing; both calls go on with what is there and make no key twice.
//
// Concurrency: none; one command runs.
//
// Tests: founding_test.go, with the directory as a crash leaves it after each file; test/script/testdata/ceremony.txtar.
package founding
