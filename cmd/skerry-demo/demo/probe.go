package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// probe asks for an address as a machine would, to see when the site first answers. It speaks DHCP by hand: 240 octets of
// BOOTP and two options (RFC 2131).
type probe struct {
	conn net.PacketConn
	mac  net.HardwareAddr
	xid  uint32
}

const probeEvery = 100 * time.Millisecond // how often the DISCOVER is repeated

func newProbe(ns *netlab.Namespace, mac string) (*probe, error) {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return nil, fmt.Errorf("cannot probe: %w", err)
	}
	p := &probe{mac: hw, xid: 0x5ca1ab1e}
	err = ns.Do(func() error {
		lc := net.ListenConfig{Control: broadcast}
		var err error
		p.conn, err = lc.ListenPacket(context.Background(), "udp4", "0.0.0.0:68")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot probe: %w", err)
	}
	return p, nil
}

func (p *probe) close() { _ = p.conn.Close() }

func (p *probe) discover() []byte {
	b := make([]byte, 300)
	b[0], b[1], b[2] = 1, 1, 6 // BOOTREQUEST, Ethernet
	binary.BigEndian.PutUint32(b[4:], p.xid)
	b[10] = 0x80 // broadcast flag
	copy(b[28:], p.mac)
	copy(b[236:], []byte{99, 130, 83, 99, 53, 1, 1, 255}) // cookie, DHCPDISCOVER, end
	return b
}

// offer repeats the DISCOVER until an OFFER comes, and returns how long that took since began.
func (p *probe) offer(ctx context.Context, began time.Time) (time.Duration, error) {
	deadline := time.Now().Add(quick)
	buf := make([]byte, 1500)
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: 67}
	for ctx.Err() == nil && time.Now().Before(deadline) {
		if _, err := p.conn.WriteTo(p.discover(), to); err != nil {
			return 0, fmt.Errorf("cannot probe: %w", err)
		}
		if err := p.conn.SetReadDeadline(time.Now().Add(probeEvery)); err != nil {
			return 0, fmt.Errorf("cannot probe: %w", err)
		}
		for {
			n, _, err := p.conn.ReadFrom(buf)
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				break
			}
			if err != nil {
				return 0, fmt.Errorf("cannot probe: %w", err)
			}
			if n >= 240 && buf[0] == 2 && binary.BigEndian.Uint32(buf[4:]) == p.xid {
				return time.Since(began), nil
			}
		}
	}
	return 0, errors.New("no DHCP answer")
}
