package transport

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/skerry-metal/skerry/pki/trust"
)

// Bounds; reasons in mesh.md section 1.
const (
	handshakeTimeout = 5 * time.Second // TCP lane; a LAN needs 10 ms, a bad WAN 2 s
	preambleTimeout  = 5 * time.Second // a stream that names no kind by then is cut
	maxHalfOpen      = 512             // handshakes under way, of each socket
	retryAbove       = 64              // half-open: from here QUIC asks for proof of the source address
	retryPerAddr     = 20              // new connections a second from one address, then proof as well
	maxAddrs         = 4096            // addresses counted per second
	maxConns         = 4096            // TLS/TCP connections at once; 20,000 descriptors is the process's limit
	maxGrants        = 128 << 20       // octets of QUIC connection windows, all peers together
	simultaneous     = 10 * time.Second
	drainDuplicate   = 10 * time.Second // streams under way on the losing one of two sessions may end
	drainLeast       = time.Second      // the peer has heard of the new session by then and opens nothing on the old one
	drainMost        = 2 * time.Minute  // a request that takes longer is cut
	drainPoll        = 50 * time.Millisecond
	quicFailures     = 3         // failed QUIC dials before TCP is tried
	quicRest         = time.Hour // and how long TCP is kept before QUIC is tried again
	parkedConns      = 2         // idle TLS connections that the dialler leaves for the other side's streams
	parkWait         = 10 * time.Second
	maxPacket        = 64 << 10 // octets of one packet on a stream; a datagram holds about 1,200
	packetQueue      = 64       // packets waiting per peer; the oldest goes
	dialQueue        = 16       // packets kept while the first dial to a peer is under way
	senderIdle       = time.Minute
	stopTimeout      = 5 * time.Second // HTTP requests under way at the end of Run
)

// Close codes, on QUIC connections and, as text, in logs.
const (
	CodeDone      = 0
	CodeProtocol  = 1
	CodeRevoked   = 2
	CodeDuplicate = 3
	CodeBusy      = 4
	CodeStale     = 5
	CodeAway      = 6
)

// The kinds of streams: the first octet of each.
const (
	KindHTTP        = 1
	KindGossip      = 2
	KindPacket      = 3
	KindSwarm       = 4
	KindSwarmData   = 5
	KindUplink      = 6
	kindSession     = 0xf0 // TLS/TCP only: this connection is the session; its end is the session's end
	kindPark        = 0xf1 // TLS/TCP only: the accepting side opens a stream on it when it wants
	maxIncomingBidi = 256
)

// profile returns quic-go's settings for dialling alpn.
func (e *Endpoint) profile(alpn string) *quic.Config {
	c := &quic.Config{
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 45 * time.Second,
		KeepAlivePeriod:                15 * time.Second,
		InitialStreamReceiveWindow:     256 << 10,
		MaxStreamReceiveWindow:         1 << 20,
		InitialConnectionReceiveWindow: 512 << 10,
		MaxConnectionReceiveWindow:     4 << 20,
		MaxIncomingStreams:             maxIncomingBidi,
		MaxIncomingUniStreams:          maxIncomingBidi,
		InitialPacketSize:              1200, // a path of 1,280 octets must work; discovery raises it
		EnableDatagrams:                true,
		AllowConnectionWindowIncrease:  e.allowGrant,
	}
	switch alpn {
	case trust.ALPNBulk:
		c.MaxIdleTimeout, c.KeepAlivePeriod = 30*time.Second, 0
		c.InitialStreamReceiveWindow, c.MaxStreamReceiveWindow, c.MaxConnectionReceiveWindow = 2<<20, 16<<20, 24<<20
		c.MaxIncomingStreams, c.MaxIncomingUniStreams, c.EnableDatagrams = 64, -1, false
	case trust.ALPNUplink:
		c.HandshakeIdleTimeout, c.MaxIdleTimeout = 10*time.Second, 60*time.Second
		c.MaxStreamReceiveWindow, c.MaxConnectionReceiveWindow = 2<<20, 8<<20
		c.MaxIncomingUniStreams, c.EnableDatagrams = -1, false
	}
	return c
}

// listenProfile serves every ALPN: quic-go asks for it before the client said which. The dialler's limits decide what is
// smaller on its side.
func (e *Endpoint) listenProfile() *quic.Config {
	c := e.profile(trust.ALPNMesh)
	c.MaxIdleTimeout = 60 * time.Second
	c.MaxStreamReceiveWindow, c.MaxConnectionReceiveWindow = 2<<20, 8<<20
	return c
}

// allowGrant refuses to raise a connection window once all grants pass maxGrants. quic-go forbids calls into it here.
func (e *Endpoint) allowGrant(c *quic.Conn, delta uint64) bool {
	if e.grants.Add(int64(delta)) > maxGrants {
		e.grants.Add(-int64(delta))
		return false
	}
	n, _ := e.granted.LoadOrStore(c, &atomic.Int64{})
	n.(*atomic.Int64).Add(int64(delta))
	return true
}

// releaseGrants gives back what a closed connection held.
func (e *Endpoint) releaseGrants(c *quic.Conn) {
	if n, ok := e.granted.LoadAndDelete(c); ok {
		e.grants.Add(-n.(*atomic.Int64).Load())
	}
}

// addrCounter counts new connections per address in the current second.
type addrCounter struct {
	mu     sync.Mutex // guards what follows
	second int64
	n      map[netip.Addr]int
}

// over counts one more from a and tells whether a has passed retryPerAddr in this second. When too many addresses come it
// says yes to all: proving an address is cheap.
func (c *addrCounter) over(a netip.Addr, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := now.Unix(); s != c.second || c.n == nil {
		c.second, c.n = s, map[netip.Addr]int{}
	}
	if len(c.n) >= maxAddrs {
		return true
	}
	c.n[a]++
	return c.n[a] > retryPerAddr
}
