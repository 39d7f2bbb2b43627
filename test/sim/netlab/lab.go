package netlab

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
)

// Lab owns namespaces and processes. The zero Lab is not usable; New makes one.
type Lab struct {
	prefix string

	mu     sync.Mutex // guards what follows
	undo   []func() error
	closed bool
}

var errClosed = errors.New("lab is closed")

// New returns a lab whose namespaces are called sk<pid><suffix>. It does nothing yet.
func New() *Lab { return &Lab{prefix: fmt.Sprintf("sk%d", os.Getpid())} }

// Defer adds fn to what Close undoes, before everything that was added earlier.
func (l *Lab) Defer(fn func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undo = append(l.undo, fn)
}

// Close undoes everything in reverse order and returns all errors together. A second call does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	undo := l.undo
	l.undo, l.closed = nil, true
	l.mu.Unlock()
	var errs []error
	for i := len(undo) - 1; i >= 0; i-- {
		errs = append(errs, undo[i]())
	}
	return errors.Join(errs...)
}

// Namespace makes the namespace sk<pid><suffix> with its loopback up. The suffix has 1 to 6 of [a-z0-9] and begins with a letter.
func (l *Lab) Namespace(suffix string) (*Namespace, error) {
	if ok, _ := regexp.MatchString(`^[a-z][a-z0-9]{0,5}$`, suffix); !ok {
		return nil, fmt.Errorf("cannot make namespace: bad suffix %q", suffix)
	}
	n := &Namespace{Name: l.prefix + suffix}
	if err := l.open(); err != nil {
		return nil, err
	}
	if err := ip("netns", "add", n.Name); err != nil {
		return nil, err
	}
	l.Defer(func() error { return ip("netns", "del", n.Name) })
	return n, n.IP("link", "set", "lo", "up")
}

// Start starts a process which Close stops.
func (l *Lab) Start(c Command) (*Proc, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	p, err := StartProc(c)
	if err != nil {
		return nil, err
	}
	l.Defer(p.Stop)
	return p, nil
}

func (l *Lab) open() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	return nil
}

// Veth joins two different namespaces by a veth pair, both ends up. Its ends go with the namespaces. Two ends in one
// namespace are refused: the kernel drops such IP packets as martians.
func (l *Lab) Veth(a *Namespace, aName string, b *Namespace, bName string) error {
	if a.Name == b.Name {
		return fmt.Errorf("cannot join %s to itself: use two namespaces", a.Name)
	}
	if err := ip("link", "add", aName, "netns", a.Name, "type", "veth", "peer", "name", bName, "netns", b.Name); err != nil {
		return err
	}
	if err := a.IP("link", "set", aName, "up"); err != nil {
		return err
	}
	return b.IP("link", "set", bName, "up")
}

// Bridge makes a plain bridge which forwards at once: no STP, no forward delay, no multicast snooping.
func (n *Namespace) Bridge(name string) error {
	if err := n.IP("link", "add", name, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"); err != nil {
		return err
	}
	return n.IP("link", "set", name, "up")
}

// Attach puts an existing link into a bridge of the same namespace.
func (n *Namespace) Attach(bridge, link string) error {
	return n.IP("link", "set", link, "master", bridge)
}

// Tap makes a tap device for a QEMU that runs in this namespace, up, and in bridge unless that is "".
func (n *Namespace) Tap(name, bridge string) error {
	if err := n.IP("tuntap", "add", "dev", name, "mode", "tap"); err != nil {
		return err
	}
	if bridge != "" {
		if err := n.Attach(bridge, name); err != nil {
			return err
		}
	}
	return n.IP("link", "set", name, "up")
}

// Addr gives prefix (CIDR) to a link. IPv6 addresses skip duplicate detection, so that they are usable at once.
func (n *Namespace) Addr(link, prefix string) error {
	return n.IP("addr", "add", prefix, "dev", link, "nodad")
}

// Sweep removes namespaces sk<pid>... whose process is gone and returns their names. Links and taps go with them.
func Sweep() ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list namespaces: %w", err)
	}
	re := regexp.MustCompile(`^sk(\d+)[a-z][a-z0-9]{0,5}$`)
	var removed []string
	var errs []error
	for _, e := range entries {
		m := re.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		pid, err := strconv.Atoi(m[1])
		if err != nil || pid < 2 || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		if err := ip("netns", "del", e.Name()); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, e.Name())
	}
	return removed, errors.Join(errs...)
}
