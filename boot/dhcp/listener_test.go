package dhcp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// slowSite has a disk that writes only when it is told to.
type slowSite struct {
	v       *View
	begun   chan MAC
	written chan struct{}
	seen    chan Event
}

func (s *slowSite) View() *View { return s.v }

func (s *slowSite) Commit(ctx context.Context, l Lease) error {
	s.begun <- l.MAC
	select {
	case <-s.written:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slowSite) Seen(e Event) { s.seen <- e }

// lane is one socket on loopback, with its two goroutines, as a Listener has it. Answers go to a relay that nobody hears.
func lane(t *testing.T, site *slowSite) (s *socket, send func([]byte)) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("udp4", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(ListenerConfig{Iface: "lo", Site: site, Logger: slog.New(slog.DiscardHandler)})
	ifi, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	s = &socket{l: l, port: 67, conn: conn, ifi: ifi, leased: make(chan arrived, maxLeased), strangers: make(chan arrived, maxStrangers)}
	l.socks = []*socket{s}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.read(ctx) })
	wg.Go(func() { _ = s.wait(ctx) })
	t.Cleanup(func() {
		cancel()
		conn.Close()
		client.Close()
		wg.Wait()
	})
	return s, func(b []byte) {
		t.Helper()
		if _, err := client.Write(b); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMachinesDoNotWait: while the disk is slow with a lease, a machine with a reservation is answered; strangers wait, at most 64 of
// them, and the rest is dropped and counted.
func TestMachinesDoNotWait(t *testing.T) {
	fa := facts()
	fa.Subnets[1].Relays = []netip.Addr{ip("127.0.0.2")}
	fa.Subnets[1].AnyClient = true
	fa.Leases = []Lease{{MAC: new1, Addr: ip("10.90.0.140"), Until: time.Now().Add(LeaseDynamic / 2), Agent: "a2"}} // at T1 or later: it is written
	site := &slowSite{v: view(t, fa), begun: make(chan MAC, 1), written: make(chan struct{}), seen: make(chan Event, 1024)}
	s, send := lane(t, site)
	relay := func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip("127.0.0.2").AsSlice() }
	send(msg(new1, 3, func(m *dhcpv4.DHCPv4) { relay(m); m.ClientIPAddr = ip("10.90.0.140").AsSlice() }))
	if mac := <-site.begun; mac != new1 {
		t.Fatalf("a lease of %s", mac)
	}
	for i := range 200 {
		send(msg(MAC{2, 9, 9, 9, 9, byte(i)}, 1, relay))
		if i%50 == 0 {
			send(msg(m1, 1, relay))
			if e := <-site.seen; e.Reason != ReasonOffer || e.MAC != m1 {
				t.Fatalf("%+v", e)
			}
		}
	}
	send(msg(m1, 1, relay))
	<-site.seen // all packets before it were sorted
	if n, dropped := s.l.Waiting(), s.l.Counts()["dropped"]; n > maxStrangers || n+int(dropped) != 200 {
		t.Errorf("%d wait, %d were dropped", n, dropped)
	}
	close(site.written)
	if e := <-site.seen; e.Reason != ReasonAck || e.MAC != new1 {
		t.Fatalf("%+v", e)
	}
}
