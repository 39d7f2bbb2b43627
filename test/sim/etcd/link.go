package etcd

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// link forwards one member's peer port. It can be cut for everybody, or for the connections of one process.
type link struct {
	ln     net.Listener
	target string
	pidOf  func(net.Addr) int64
	stop   chan struct{}
	all    sync.WaitGroup

	mu      sync.Mutex // guards what follows
	cut     map[int64]bool
	changed chan struct{}
}

func newLink(target string, pidOf func(net.Addr) int64) (*link, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot make link: %w", err)
	}
	l := &link{ln: ln, target: target, pidOf: pidOf, cut: map[int64]bool{}, changed: make(chan struct{}), stop: make(chan struct{})}
	l.all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.all.Go(func() { l.serve(c) })
		}
	})
	return l, nil
}

func (l *link) close() {
	close(l.stop)
	_ = l.ln.Close() // ends Accept
	l.all.Wait()
}

// set cuts or joins the connections of pid; -1 = all.
func (l *link) set(pid int64, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut[pid] = cut
	close(l.changed)
	l.changed = make(chan struct{})
}

// open waits until connections of pid pass; false: the test ends.
func (l *link) open(pid int64) bool {
	for {
		l.mu.Lock()
		cut, changed := l.cut[-1] || l.cut[pid], l.changed
		l.mu.Unlock()
		if !cut {
			return true
		}
		select {
		case <-changed:
		case <-l.stop:
			return false
		}
	}
}

func (l *link) serve(c net.Conn) {
	defer c.Close()
	pid := l.pidOf(c.RemoteAddr())
	if !l.open(pid) {
		return
	}
	t, err := net.Dial("tcp", l.target)
	if err != nil {
		return // the peer sees a reset, as of a dead member
	}
	defer t.Close()
	end := make(chan struct{})
	var both, watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-l.stop:
		case <-end:
		}
		_ = c.Close()
		_ = t.Close()
	})
	for _, d := range [][2]net.Conn{{c, t}, {t, c}} {
		both.Go(func() {
			_, _ = io.Copy(&held{l, pid, d[0]}, d[1]) // a broken connection is the members' to notice
			_ = c.Close()
			_ = t.Close()
		})
	}
	both.Wait()
	close(end)
	watch.Wait()
}

// held writes when the link is open.
type held struct {
	l   *link
	pid int64
	to  net.Conn
}

func (h *held) Write(b []byte) (int, error) {
	if !h.l.open(h.pid) {
		return 0, net.ErrClosed
	}
	return h.to.Write(b)
}

// inodeOf finds the socket that has this local port on loopback: columns of /proc/net/tcp are slot, local, remote, state, two
// queues, timer, retransmits, uid, timeout, inode (proc(5)).
func inodeOf(port int) string {
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	want := fmt.Sprintf("0100007F:%04X", port)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 9 && f[1] == want {
			return f[9]
		}
	}
	return ""
}

func holds(pid int64, inode string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && to == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
