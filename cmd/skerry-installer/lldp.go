package main

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/boot/inventory"
)

// ear hears what the switch says about the port that a card is plugged into. The kernel keeps what came since the last look.
type ear struct {
	fd   int
	nic  string
	last *inventory.Neighbour
}

// maxFrames bounds one look: a switch sends one in 30 s.
const maxFrames = 64

// listen opens the ear; it stays open until the machine boots anew.
func listen(nic string) (*ear, error) {
	i, err := net.InterfaceByName(nic)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for LLDP: %w", err)
	}
	const proto = inventory.EtherLLDP>>8 | inventory.EtherLLDP&0xff<<8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("cannot listen for LLDP: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: i.Index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot listen for LLDP on %s: %w", nic, err)
	}
	// 01:80:c2:00:00:0e, nearest bridge: IEEE 802.1AB-2016, section 7.1.
	group := unix.PacketMreq{Ifindex: int32(i.Index), Type: unix.PACKET_MR_MULTICAST, Alen: 6, Address: [8]byte{0x01, 0x80, 0xc2, 0, 0, 0x0e}}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &group); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot listen for LLDP on %s: %w", nic, err)
	}
	return &ear{fd: fd, nic: nic}, nil
}

// collect is c.Collect with what was heard.
func (e *ear) collect(c *inventory.Collector) func(context.Context) (*inventory.Report, error) {
	return func(ctx context.Context) (*inventory.Report, error) {
		r, err := c.Collect(ctx)
		if err != nil {
			return nil, err
		}
		b := make([]byte, 2048)
		for range maxFrames {
			n, _, err := unix.Recvfrom(e.fd, b, 0)
			if err != nil {
				break // nothing more is there
			}
			if at, ok := inventory.ParseLLDP(b[:n]); ok {
				e.last = &at
			}
		}
		for i := range r.NICs {
			if r.NICs[i].Name == e.nic {
				r.NICs[i].Neighbour = e.last
			}
		}
		return r, nil
	}
}
