// Package gossip knows which agents are alive, and spreads which heads they hold: Serf over mesh/transport.
//
// Holds: Pool (that of a site, and that of the gateways of sites that reach each other), its memberlist transport and what that lets in
// (vet.go), the roster filter, endless rejoin, and tags.
//
// Imported by: siteagent. It is the one room that imports serf and memberlist.
//
// Promises: 10 (a member that nobody hears is absent, never removed: timeouts are ten years). In gossip go heads and
// versions, never payload, secrets or roles: an agent can lie about another, so what is heard is a hint. 12: mutual TLS
// below, the roster decides who is a member, queues of 512 packets, no compression (no bombs), no gossip key;
// each packet and each stream is read before memberlist allocates for it, of Serf only what members here send goes on (no events,
// queries, leaving, nor names that the roster does not list), and each peer has a rate.
//
// Concurrency: Register sets handlers on an endpoint that does not run yet, New and Register start nothing; Run owns the goroutines of
// Serf and of the pool. Methods are safe for concurrent use at any time.
//
// Tests: pools of 2-4 agents on loopback with goleak; a member killed, restarted, removed from the roster, forged; tags
// below 400 octets; a site in two for an hour and more, in a bubble (days with the tag soak); FuzzParseHint; FuzzVet,
// FuzzVetPacket; a peer that announces a million members, or
// sends events, names and farewells that are none.
package gossip
