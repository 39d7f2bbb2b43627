package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// must ends the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wire is a host with a probe, and a machine on the other end of its e0.
type wire struct {
	testing.TB
	host, machine *netlab.Namespace
	dir           string // on a bpffs
}

var (
	hostAddr, machineAddr   = netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")
	hostAddr6, machineAddr6 = netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2")
)

func newWire(t testing.TB) *wire {
	t.Helper()
	lab.Need(t, lab.Root, lab.Tool("ip", "iproute2"), lab.Tool("ethtool", "ethtool"))
	l := lab.New(t)
	w := &wire{TB: t, dir: filepath.Join(bpffs(t), "v1", "lon1-a1")}
	var err error
	w.host, err = l.Namespace("ph")
	must(t, err)
	w.machine, err = l.Namespace("pm")
	must(t, err)
	for _, err := range []error{
		l.Veth(w.host, "e0", w.machine, "e0"), w.host.Addr("e0", "10.77.0.1/24"), w.machine.Addr("e0", "10.77.0.2/24"),
		w.host.Addr("e0", "fd77::1/64"), w.machine.Addr("e0", "fd77::2/64"),
	} {
		must(t, err)
	}
	return w
}

// bpffs mounts one of the test's own.
func bpffs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("bpf", dir, "bpf", 0, "mode=0700"))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// segments switches off, or on, that the kernel hands more than a frame on at once.
func (w *wire) segments(on string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, n := range []*netlab.Namespace{w.host, w.machine} {
		_, err := n.Exec(ctx, "ethtool", "-K", "e0", "tso", on, "gso", on, "gro", on, "tx-udp-segmentation", on)
		must(w, err)
		// Each acknowledgement of what came out of order would have 12 octets more, and nothing counts these.
		must(w, n.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_sack", []byte("0"), 0) }))
	}
}

// big lets what the kernel hands on at once be as long as octets: above 65,536 the length of its IP packet does not fit into it.
func (w *wire) big(octets string) {
	w.Helper()
	for _, n := range []*netlab.Namespace{w.host, w.machine} {
		must(w, n.IP("link", "set", "dev", "e0", "gso_max_size", octets, "gro_max_size", octets))
	}
}

// in runs fn inside the host.
func (w *wire) in(fn func()) {
	w.Helper()
	must(w, w.host.Do(func() error { fn(); return nil }))
}

func (w *wire) config(m Method) Config {
	return Config{Dir: w.dir, Method: m, Log: slog.New(slog.DiscardHandler)}
}

// start makes a probe stand at e0, facing the machine.
func (w *wire) start(cfg Config, plan Plan) *Probe {
	w.Helper()
	p := New(cfg)
	w.in(func() {
		if s := p.Attach([]string{"e0"}); len(s) != 1 || s[0].Method == Off {
			w.Fatalf("%+v", s)
		}
		_, err := p.SetPlan(plan)
		must(w, err)
	})
	return p
}

// facing is the plan of a host that has m1 on the other side of e0.
func facing() Plan {
	return Plan{
		Links: []Link{{Interface: "e0"}},
		Prefixes: []Prefix{
			{Prefix: netip.PrefixFrom(machineAddr, 32), Label: "m1", Group: 1}, {Prefix: netip.PrefixFrom(machineAddr6, 128), Label: "m1", Group: 1},
		},
	}
}

// own is the plan of a host that is a machine itself, and of which everything counts.
func own() Plan {
	return Plan{Links: []Link{{Interface: "e0", Own: true, Whole: true, Label: "me", Group: 1, Table: 7}}}
}

// talk is what each end of a connection says of its segments.
type talk struct {
	fromMachine, fromHost uint32
	twice                 bool // one was sent again: what was in it is not known here
}

// tcp sends octets from the machine to the host and back.
func (w *wire) tcp(host netip.Addr, octets int64) (said talk) {
	w.Helper()
	ln, err := w.host.Listen("tcp", netip.AddrPortFrom(host, 0).String())
	must(w, err)
	defer ln.Close()
	type end struct {
		n     uint32
		twice bool
	}
	sent, over := make(chan end, 1), make(chan struct{})
	go func() {
		c, err := ln.Accept()
		if err != nil {
			sent <- end{}
			return
		}
		defer c.Close()
		_, err1 := io.Copy(io.Discard, io.LimitReader(c, octets))
		_, err2 := io.Copy(c, io.LimitReader(zeros{}, octets))
		_, err3 := c.Read(make([]byte, 1)) // the end: the machine has all, and has said so
		if errors.Join(err1, err2) != nil || !errors.Is(err3, io.EOF) {
			sent <- end{}
			return
		}
		must(w, c.(*net.TCPConn).CloseWrite())
		<-over // and its last acknowledgement is out
		n, twice := segmentsOut(w, c)
		sent <- end{n + 1, twice} // the SYN, ACK is not the connection's: there was none yet
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := w.machine.DialContext(ctx, "tcp", ln.Addr().String())
	must(w, err)
	defer c.Close()
	_, err = io.Copy(c, io.LimitReader(zeros{}, octets))
	must(w, err)
	_, err = io.CopyN(io.Discard, c, octets)
	must(w, err)
	must(w, c.(*net.TCPConn).CloseWrite())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		w.Fatal(err)
	}
	close(over)
	e := <-sent
	if e.n == 0 {
		w.Fatal("the host's end failed")
	}
	n, twice := segmentsOut(w, c)
	return talk{n, e.n, twice || e.twice}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// segmentsOut asks TCP how many segments it sent. Source: linux/tcp.h, tcpi_segs_out.
func segmentsOut(t testing.TB, c net.Conn) (n uint32, twice bool) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		must(t, err)
		n, twice = info.Segs_out, info.Total_retrans > 0
	}))
	return n, twice
}

// udp sends datagrams of size octets from the machine to the host; with cut above 0 the kernel cuts each into datagrams of cut octets.
func (w *wire) udp(host netip.Addr, n, size, cut int) {
	w.Helper()
	to, err := w.host.ListenPacket("udp", netip.AddrPortFrom(host, 0).String())
	must(w, err)
	defer to.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := w.machine.DialContext(ctx, "udp", to.LocalAddr().String())
	must(w, err)
	defer c.Close()
	if cut > 0 {
		raw, err := c.(*net.UDPConn).SyscallConn()
		must(w, err)
		must(w, raw.Control(func(fd uintptr) { must(w, unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, cut)) }))
	}
	b := make([]byte, 65535)
	for range n {
		_, err := c.Write(b[:size])
		must(w, err)
		must(w, to.SetReadDeadline(time.Now().Add(10*time.Second)))
		for got := 0; got < size; {
			k, _, err := to.ReadFrom(b)
			must(w, err)
			got += k
		}
	}
}

// sums adds up rows by label and direction.
func sums(rows []Row) map[string]Totals {
	out := map[string]Totals{}
	for _, r := range rows {
		k := r.Label + " out"
		if r.To {
			k = r.Label + " in"
		}
		if r.Inside {
			k += " inside"
		}
		t := out[k]
		out[k] = Totals{t.Bytes + r.Bytes, t.Frames + r.Frames, t.L3 + r.L3}
	}
	return out
}

// still reads the counters of e0 and what fn reads between, when nothing came in between.
func (w *wire) still(fn func()) (c counters) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		var a, b counters
		w.in(func() {
			var err error
			a, err = readDev("e0")
			must(w, err)
			fn()
			b, err = readDev("e0")
			must(w, err)
		})
		if a == b {
			return a
		}
		if time.Now().After(deadline) {
			w.Fatal(fmt.Sprint("the interface is never still: ", a, b))
		}
	}
}
