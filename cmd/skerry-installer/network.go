package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// nicWait bounds the wait for the card that booted: slow firmware of 25G cards takes about 20 s to probe.
	nicWait = 60 * time.Second
	// carrierWait bounds the wait for its link; a switch port without portfast forwards after 30 s.
	carrierWait = 40 * time.Second
	// lookEvery is the pause between two looks at sysfs, which tells nobody when a card appears.
	lookEvery = 50 * time.Millisecond
)

// upNetwork configures the card with the given MAC: address, default route, and waits for its link. It returns the name.
func upNetwork(ctx context.Context, s settings) (string, error) {
	var name string
	err := poll(ctx, nicWait, func() bool {
		ifs, err := net.Interfaces()
		for _, i := range ifs {
			if err == nil && bytes.Equal(i.HardwareAddr, s.mac) {
				name = i.Name
			}
		}
		return name != ""
	})
	if err != nil {
		return "", fmt.Errorf("cannot find network card %s: %w", s.mac, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return name, fmt.Errorf("cannot configure %s: %w", name, err)
	}
	defer unix.Close(fd)
	for _, i := range []string{"lo", name} {
		if err := setFlagsUp(fd, i); err != nil {
			return name, err
		}
	}
	mask := net.CIDRMask(s.addr.Bits(), 32)
	if err := setInet4(fd, name, unix.SIOCSIFADDR, s.addr.Addr().AsSlice()); err != nil {
		return name, err
	}
	if err := setInet4(fd, name, unix.SIOCSIFNETMASK, mask); err != nil {
		return name, err
	}
	err = poll(ctx, carrierWait, func() bool {
		b, err := os.ReadFile("/sys/class/net/" + name + "/carrier")
		return err == nil && strings.TrimSpace(string(b)) == "1"
	})
	if err != nil {
		return name, fmt.Errorf("cannot wait for the link of %s: %w", name, err)
	}
	if s.gw.Is4() {
		return name, addDefaultRoute(name, s.gw)
	}
	return name, nil
}

// poll calls done every 50 ms until it is true, d passed, or ctx ended.
func poll(ctx context.Context, d time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

func setFlagsUp(fd int, name string) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("cannot configure %s: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r); err != nil {
		return fmt.Errorf("cannot read flags of %s: %w", name, err)
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("cannot set %s up: %w", name, err)
	}
	return nil
}

func setInet4(fd int, name string, req uint, addr []byte) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("cannot configure %s: %w", name, err)
	}
	if err := r.SetInet4Addr(addr); err != nil {
		return fmt.Errorf("cannot configure %s: %w", name, err)
	}
	if err := unix.IoctlIfreq(fd, req, r); err != nil {
		return fmt.Errorf("cannot give %v to %s: %w", addr, name, err)
	}
	return nil
}

// addDefaultRoute sends one RTM_NEWROUTE. Source: rtnetlink(7). A route that is there already is no error.
func addDefaultRoute(name string, gw netip.Addr) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("cannot add route: %w", err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot add route: %w", err)
	}
	defer unix.Close(fd)
	ne := binary.NativeEndian
	m := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg+16)
	ne.PutUint32(m[0:], uint32(len(m)))
	ne.PutUint16(m[4:], unix.RTM_NEWROUTE)
	ne.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_ACK)
	rt := m[unix.SizeofNlMsghdr:]
	rt[0], rt[4], rt[5], rt[6], rt[7] = unix.AF_INET, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	attr := rt[unix.SizeofRtMsg:]
	ne.PutUint16(attr[0:], 8)
	ne.PutUint16(attr[2:], unix.RTA_GATEWAY)
	copy(attr[4:], gw.AsSlice())
	ne.PutUint16(attr[8:], 8)
	ne.PutUint16(attr[10:], unix.RTA_OIF)
	ne.PutUint32(attr[12:], uint32(i.Index))
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("cannot add route: %w", err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("cannot add route: %d octets of answer: %w", n, err)
	}
	if e := -int32(ne.Uint32(b[unix.SizeofNlMsghdr:])); e != 0 && unix.Errno(e) != unix.EEXIST {
		return fmt.Errorf("cannot add route by %s: %w", gw, unix.Errno(e))
	}
	return nil
}
