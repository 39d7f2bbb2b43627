package demo

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// broadcast lets a socket send to 255.255.255.255, out of the rack's bridge.
func broadcast(_, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		if serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1); serr == nil {
			serr = unix.BindToDevice(int(fd), "br0")
		}
	})
	if err != nil {
		return err
	}
	return serr
}
