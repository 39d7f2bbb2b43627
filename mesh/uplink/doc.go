// Package uplink is the session between an agent and a coordinator: dialled by the agent, used both ways.
//
// Holds: Client (agent: dial one of the coordinators, say hello, follow heads, serve reverse requests, reconnect, rest while others of
// the site hold sessions), Server (coordinator: sessions by site and agent, push of heads, requests down a session), and their
// JSON lines; Envelopes (signed documents over any session).
//
// Imported by: siteagent, coordinator. No workshop: they neither know nor wait for a coordinator.
//
// Promises: 1 (nothing waits for Run to connect; without a session every call fails at once), 12 (lines of 16 KiB, 32
// reverse requests at once, sessions counted). No port is open from the coordinator to the site.
//
// Concurrency: NewClient and NewServer register handlers on an endpoint that does not run yet and start nothing; Client.Run
// owns the client's goroutines; the server's belong to the endpoint's Run. Callbacks come from one goroutine per session.
//
// Tests: both lanes on loopback with goleak; a coordinator that restarts, that is busy, that lies about its name; back-off
// and rest in a synctest bubble; FuzzLine.
package uplink
