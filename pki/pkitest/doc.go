// Package pkitest makes a whole domain for tests: roots, coordinator CA, writer, coordinators, agents and users with real
// certificates and real signed documents.
//
// Holds: Domain and Node. Nothing of it is faked: a test that passes with it passes with what `coordinator init` makes.
//
// Imported by: tests of any room; never by the product.
//
// Promises: none to users. Every domain has fresh keys.
//
// Concurrency: a Domain belongs to one test; Node.TLS may be used concurrently.
//
// Tests: used by pki/trust, pki/join, mesh/transport, mesh/gossip, mesh/uplink.
package pkitest
