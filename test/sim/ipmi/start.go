package ipmi

import (
	"context"
	"net"
	"testing"
)

// Start serves a controller on loopback until the test ends, and returns its address.
func Start(tb testing.TB, cfg Config, p Power, faults ...Fault) (b *BMC, addr string) {
	tb.Helper()
	b, err := New(cfg, p, faults...)
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, conn) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	return b, conn.LocalAddr().String()
}
