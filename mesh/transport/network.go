package transport

import (
	"context"
	"net"
)

// Network opens the sockets of a process. Host is the one of the machine; tests give one in memory, which they cut and which stands
// still with a bubble's clock.
type Network interface {
	Listen(network, addr string) (net.Listener, error)
	ListenPacket(network, addr string) (net.PacketConn, error)
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
}

// Host is the network of this machine.
type Host struct{}

// Listen implements Network. Without keepalives a dead peer costs a descriptor.
func (Host) Listen(network, addr string) (net.Listener, error) {
	return (&net.ListenConfig{KeepAliveConfig: keepAlive()}).Listen(context.Background(), network, addr)
}

// ListenPacket implements Network. It is a bare *net.UDPConn: QUIC loses segmentation offload over a wrapped one.
func (Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	return net.ListenPacket(network, addr)
}

// DialContext implements Network.
func (Host) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive()}
	return d.DialContext(ctx, network, addr)
}
