// Package transport is the one way by which Skerry processes talk: an endpoint with one UDP and one TCP socket on the same
// port, mutually authenticated, told apart by ALPN.
//
// Holds: Endpoint (listen, dial, cache one mesh session per peer), Conn (a session: a QUIC connection, or a set of TLS/TCP
// connections where UDP is blocked), streams by kind, HTTP/1.1 over streams both ways, packets, and the listener that hands
// *tls.Conn to net/http.
//
// Imported by: mesh/gossip, mesh/uplink, mesh/swarm, coordinator, siteagent. It is the one room that imports quic-go, and
// it gives it the bare *net.UDPConn: a wrapped one silently loses segmentation offload.
//
// Promises: 12 (every handshake, preamble, queue, window and stream count is bounded; see limits.go). Who may speak is
// decided by pki/trust; a peer that is no longer admitted is cut within a second of CloseIf.
//
// Concurrency: New binds and starts nothing; Run owns every goroutine, also those of sessions that Dial opens, and returns
// when all are gone. All methods are safe for concurrent use. Handlers are set before Run.
//
// Tests: real loopback sockets with goleak; both lanes run the same table; floods of half-open handshakes over test/sim/memnet; FuzzFrames.
package transport
