package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/pki/trust"
)

const (
	packetDepth = 512 // packets waiting for memberlist; the newest is dropped when full
	streamDepth = 32
)

// carrier is memberlist's transport over the endpoint. Peers are found by name, which is the node's id; addresses are for
// memberlist's own books.
type carrier struct {
	p       *Pool
	packets chan *memberlist.Packet
	streams chan net.Conn
	meters  meters
	life    context.Context    // of the carrier itself: memberlist's interface knows no contexts
	end     context.CancelFunc // at Shutdown
}

var _ memberlist.NodeAwareTransport = (*carrier)(nil)

func newCarrier(p *Pool) *carrier {
	c := &carrier{p: p, packets: make(chan *memberlist.Packet, packetDepth), streams: make(chan net.Conn, streamDepth)}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// FinalAdvertiseAddr returns what the roster says of us, or where we listen.
func (c *carrier) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	self, _ := c.p.node(func(n Node) bool { return n.ID == c.p.cfg.Self })
	a := self.addr()
	if a == nil {
		a = tcpToUDP(c.p.cfg.Endpoint.Addr())
	}
	if a == nil || a.IP.IsUnspecified() {
		return nil, 0, errors.New("cannot advertise: the roster has no address of this agent, and it listens on all")
	}
	return a.IP, a.Port, nil
}

func tcpToUDP(a net.Addr) *net.UDPAddr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return nil
	}
	return &net.UDPAddr{IP: t.IP, Port: t.Port}
}

// WriteTo is for callers that know an address only.
func (c *carrier) WriteTo(b []byte, addr string) (time.Time, error) {
	return c.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends one packet, best effort.
func (c *carrier) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	n, err := c.who(a)
	if err != nil {
		return time.Time{}, err
	}
	frame := append(make([]byte, 0, 1+len(b)), byte(c.p.cfg.Scope))
	return time.Now(), c.p.cfg.Endpoint.SendPacket(n.Peer, append(frame, b...))
}

// PacketCh returns received packets.
func (c *carrier) PacketCh() <-chan *memberlist.Packet { return c.packets }

// DialTimeout is for callers that know an address only.
func (c *carrier) DialTimeout(addr string, d time.Duration) (net.Conn, error) {
	return c.DialAddressTimeout(memberlist.Address{Addr: addr}, d)
}

// DialAddressTimeout opens a gossip stream.
func (c *carrier) DialAddressTimeout(a memberlist.Address, d time.Duration) (net.Conn, error) {
	n, err := c.who(a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.life, d)
	defer cancel()
	s, err := c.p.cfg.Endpoint.Dial(ctx, n.Peer)
	if err != nil {
		return nil, err
	}
	st, err := s.OpenStream(ctx, transport.KindGossip)
	if err != nil {
		return nil, err
	}
	if _, err := st.Write([]byte{byte(c.p.cfg.Scope)}); err != nil {
		_ = st.Close()
		return nil, fmt.Errorf("cannot open gossip stream to %s: %w", n.ID, err)
	}
	return &vetted{Conn: st, known: c.p.knows}, nil
}

// StreamCh returns accepted streams.
func (c *carrier) StreamCh() <-chan net.Conn { return c.streams }

// Shutdown ends dials under way and refuses what still comes.
func (c *carrier) Shutdown() error {
	c.end()
	for {
		select {
		case s := <-c.streams:
			_ = s.Close()
		default:
			return nil
		}
	}
}

// who finds the node of an address.
func (c *carrier) who(a memberlist.Address) (Node, error) {
	is := func(n Node) bool { return n.ID == a.Name }
	if a.Name == "" {
		host, port, err := net.SplitHostPort(a.Addr)
		if err != nil {
			return Node{}, fmt.Errorf("cannot find agent at %q: %w", a.Addr, err)
		}
		is = func(n Node) bool {
			x := n.addr()
			return x != nil && x.IP.String() == host && strconv.Itoa(x.Port) == port
		}
	}
	if n, ok := c.p.node(is); ok {
		return n, nil
	}
	return Node{}, fmt.Errorf("cannot find agent %q at %s: not in the roster", a.Name, a.Addr)
}

// from finds the node that a peer is.
func (c *carrier) from(id trust.Identity) (Node, bool) {
	return c.p.node(func(n Node) bool { return n.Peer == transport.PeerOf(id) })
}

// onPacket takes a packet from the endpoint. It never blocks.
func (c *carrier) onPacket(from trust.Identity, b []byte) {
	n, ok := c.from(from)
	a := n.addr()
	if !ok || a == nil || !c.meters.peer(n.ID).packets.Allow() {
		return // it left the roster a moment ago, or floods
	}
	if b = vetPacket(b, c.p.knows); b == nil {
		return
	}
	select {
	case c.packets <- &memberlist.Packet{Buf: b, From: a, Timestamp: time.Now()}:
	default:
	}
}

// scopeOf reads which pool a stream is for; 0 when nothing comes.
func scopeOf(s *transport.Stream) Scope {
	const wait = 5 * time.Second // the octet follows the kind at once
	var b [1]byte
	err := s.SetReadDeadline(time.Now().Add(wait))
	if err == nil {
		_, err = s.Read(b[:])
	}
	if err == nil {
		err = s.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return 0
	}
	return Scope(b[0])
}

// onStream takes a gossip stream from the endpoint.
func (c *carrier) onStream(s *transport.Stream) {
	n, ok := c.from(s.Peer())
	if !ok || c.life.Err() != nil || !c.meters.peer(n.ID).streams.Allow() {
		_ = s.Close()
		return
	}
	select {
	case c.streams <- &vetted{Conn: s, known: c.p.knows}:
	default:
		_ = s.Close() // memberlist is behind; the peer tries again at its next push/pull
	}
}
