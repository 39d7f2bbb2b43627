package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// netnsDir is where iproute2 keeps named namespaces.
const netnsDir = "/run/netns"

// ipTimeout bounds one call of ip: 200 veth pairs took 8.5 s singly on a loaded VM, so one call never needs this long.
const ipTimeout = 20 * time.Second

// Namespace is a named network namespace.
type Namespace struct{ Name string }

// IP runs `ip -n NAME args...`.
func (n *Namespace) IP(args ...string) error {
	return ip(append([]string{"-n", n.Name}, args...)...)
}

// Exec runs a program in the namespace to its end and returns its output and error together.
func (n *Namespace) Exec(ctx context.Context, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name}, args...)...).CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("cannot run %s in %s: %w: %s", args[0], n.Name, err, bytes.TrimSpace(out))
	}
	return out, nil
}

// Do calls fn on a thread that is inside the namespace. Sockets which fn opens stay there for their life; goroutines
// which fn starts do not run there.
func (n *Namespace) Do(fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot open own namespace: %w", err)
	}
	defer home.Close()
	there, err := os.Open(netnsDir + "/" + n.Name)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot open namespace %s: %w", n.Name, err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot enter namespace %s: %w", n.Name, err)
	}
	fnErr := fn()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		// The thread stays locked: the runtime ends it with this goroutine instead of reusing it in the wrong place.
		return errors.Join(fnErr, fmt.Errorf("cannot leave namespace %s: %w", n.Name, err))
	}
	runtime.UnlockOSThread()
	return fnErr
}

// Listen is net.Listen inside the namespace.
func (n *Namespace) Listen(network, addr string) (ln net.Listener, err error) {
	err = n.Do(func() (err error) { ln, err = net.Listen(network, addr); return err })
	return ln, err
}

// ListenPacket is net.ListenPacket inside the namespace.
func (n *Namespace) ListenPacket(network, addr string) (pc net.PacketConn, err error) {
	err = n.Do(func() (err error) { pc, err = net.ListenPacket(network, addr); return err })
	return pc, err
}

// DialContext dials addr, whose host is an IP address, from inside the namespace. It fits http.Transport and tls.Dialer.
func (n *Namespace) DialContext(ctx context.Context, network, addr string) (c net.Conn, err error) {
	if h, _, _ := net.SplitHostPort(addr); net.ParseIP(h) == nil {
		// A name would be resolved, and its sockets made, on other goroutines, hence outside.
		return nil, fmt.Errorf("cannot dial %s from %s: not an IP address", addr, n.Name)
	}
	err = n.Do(func() (err error) { c, err = (&net.Dialer{}).DialContext(ctx, network, addr); return err })
	return c, err
}

func ip(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), ipTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot run ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
