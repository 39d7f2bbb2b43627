// Package ca issues the certificates of a domain: the root R, the coordinator CA C, and leaves of coordinators, agents and
// their web servers.
//
// Holds: CA (certificate and key), NewRoot, Sub, the three Issue methods, NewRequest, Save and Load.
//
// Imported by: coordinator, pki/join (server side of the answer), cmd/skerry, tests. It is the one room that imports cfssl,
// and of it only config and signer/local: its revoke fails open and its whitelist, when nil, lets the request choose a name.
//
// Promises: 2 (everything runs to 9999-12-31T23:59:59Z). A certificate is released only after the standard library parsed
// it and its profile, names, dates and chain were compared with what was asked. The identity is the caller's argument;
// of a request only the key is used.
//
// Concurrency: a CA is read-only after it was made and safe for concurrent use.
//
// Tests: goldens of every profile's text form, a rapid law (whatever a request asks for, the names are ours), openssl as a
// second judge where installed, trust.VerifyPeer with own and foreign names.
package ca
