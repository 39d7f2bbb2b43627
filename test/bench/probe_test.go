package bench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	ebpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/telemetry/probe"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// link is a host and a machine on a veth, and iperf3 between them.
type link struct {
	*testing.B
	host, machine *netlab.Namespace
	probe         *probe.Probe
	plan          probe.Plan
	dir           string // of pins
}

func newLink(b *testing.B) *link {
	b.Helper()
	lab.Need(b, lab.Root, lab.Tool("ip", "iproute2"), lab.Tool("iperf3", "iperf3"))
	l := lab.New(b)
	k := &link{B: b}
	var err error
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	k.host, err = l.Namespace("bh")
	check(err)
	k.machine, err = l.Namespace("bm")
	check(err)
	check(l.Veth(k.host, "e0", k.machine, "e0"))
	check(k.host.Addr("e0", "10.77.0.1/16"))
	check(k.machine.Addr("e0", "10.77.0.2/16"))
	dir := b.TempDir()
	check(unix.Mount("bpf", dir, "bpf", 0, "mode=0700"))
	b.Cleanup(func() { check(unix.Unmount(dir, unix.MNT_DETACH)) })
	k.dir = dir + "/v1"
	k.probe = probe.New(probe.Config{Dir: k.dir, Log: slog.New(slog.DiscardHandler)})
	k.plan = probe.Plan{Links: []probe.Link{{Interface: "e0"}}}
	for i := range 1000 { // the machine is one of a thousand
		a := netip.AddrFrom4([4]byte{10, 77, byte((i + 2) >> 8), byte(i + 2)})
		k.plan.Prefixes = append(k.plan.Prefixes, probe.Prefix{Prefix: netip.PrefixFrom(a, 32), Label: fmt.Sprint("m", i), Group: 1})
	}
	_, err = l.Start(netlab.Command{NS: k.host, Path: "iperf3", Args: []string{"-s"}})
	check(err)
	k.run("-n", "1M") // the server is up, and neighbours know each other
	return k
}

// in runs fn inside the host.
func (k *link) in(fn func() error) {
	k.Helper()
	if err := k.host.Do(fn); err != nil {
		k.Fatal(err)
	}
}

// count switches the probe on or off.
func (k *link) count(on bool) {
	k.Helper()
	k.in(func() error {
		if !on {
			k.probe.Attach(nil)
			return nil
		}
		if s := k.probe.Attach([]string{"e0"}); s[0].Method == probe.Off {
			return fmt.Errorf("%s", s[0].String())
		}
		_, err := k.probe.SetPlan(k.plan)
		k.probe.Read()
		return err
	})
}

// ran is what one run of iperf3 came to.
type ran struct {
	octets, datagrams float64 // received, and sent, in a second
	cpu               float64 // seconds of CPU of both ends, in a second
}

// run runs iperf3.
func (k *link) run(args ...string) ran {
	k.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out []byte
	var err error
	for range 50 {
		if out, err = k.machine.Exec(ctx, append([]string{"iperf3", "-J", "-c", "10.77.0.1"}, args...)...); err == nil {
			break
		}
	}
	if err != nil {
		k.Fatal(err)
	}
	type sum struct {
		Bits    float64 `json:"bits_per_second"`
		Seconds float64
		Packets float64
	}
	var said struct {
		End struct {
			Received sum `json:"sum_received"`
			Sum      sum
			CPU      struct {
				Host   float64 `json:"host_total"`
				Remote float64 `json:"remote_total"`
			} `json:"cpu_utilization_percent"`
		}
	}
	if err := json.Unmarshal(out, &said); err != nil {
		k.Fatalf("%v: %s", err, out)
	}
	e := said.End
	return ran{e.Received.Bits / 8, e.Sum.Packets / max(e.Sum.Seconds, 1), (e.CPU.Host + e.CPU.Remote) / 100}
}

// segments returns how many TCP segments the machine sent, the repeated ones too, by its own count. Source: RFC 4022, tcpOutSegs.
func (k *link) segments() (n uint64) {
	k.Helper()
	if err := k.machine.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if f[0] != "Tcp:" {
				continue
			}
			if names == nil {
				names = f
				continue
			}
			for _, c := range []string{"OutSegs", "RetransSegs"} {
				v, err := strconv.ParseUint(f[slices.Index(names, c)], 10, 64)
				if err != nil {
					return err
				}
				n += v
			}
		}
		return nil
	}); err != nil {
		k.Fatal(err)
	}
	return n
}

// nanoseconds returns how much CPU the program at what comes in takes for a frame, and how much for one of those whose addresses nobody
// knows: a datagram of 64 octets, a million times over.
func (k *link) nanoseconds() (known, unknown float64) {
	k.Helper()
	files, _ := filepath.Glob(filepath.Join(k.dir, "link-*-in"))
	if len(files) == 0 {
		k.Fatal("nothing is pinned")
	}
	l, err := ebpflink.LoadPinnedLink(files[0], nil)
	if err != nil {
		k.Fatal(err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		k.Fatal(err)
	}
	g, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		k.Fatal(err)
	}
	defer g.Close()
	f := func(src, dst string) float64 {
		const times = 1_000_000
		b := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 92, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 72)...)
		copy(b[26:], netip.MustParseAddr(src).AsSlice())
		copy(b[30:], netip.MustParseAddr(dst).AsSlice())
		at, err := net.InterfaceByName("e0")
		if err != nil {
			k.Fatal(err)
		}
		var ctx [48]byte // of struct __sk_buff: ifindex is its eleventh word
		binary.NativeEndian.PutUint32(ctx[40:], uint32(at.Index))
		cpu := usedCPU(syscall.RUSAGE_SELF)
		if _, err := g.Run(&ebpf.RunOptions{Data: b, Repeat: times, Context: &ctx}); err != nil {
			k.Fatal(err)
		}
		return (usedCPU(syscall.RUSAGE_SELF) - cpu) / times * 1e9
	}
	k.in(func() error {
		known, unknown = f("10.77.0.2", "10.77.0.1"), f("192.0.2.1", "192.0.2.2")
		return nil
	})
	return known, unknown
}

// BenchmarkProbe: a veth with and without the probe at 1:1 counting, in turn; and whether what it counted is what TCP sent.
func BenchmarkProbe(b *testing.B) {
	k := newLink(b)
	const rounds = 9
	type measure struct {
		name, unit string
		scale      float64
		of         func(tcp, udp ran) float64
		with, bare []float64
	}
	for range b.N {
		ms := []*measure{
			{name: "iperf3 over veth, TCP", unit: "GB/s", scale: 1e9, of: func(t, _ ran) float64 { return t.octets }},
			{name: "the same, a CPU second of both ends", unit: "GB", scale: 1e9, of: func(t, _ ran) float64 { return t.octets / t.cpu }},
			{name: "datagrams of 64 octets, a CPU second of both ends", unit: "k", scale: 1e3, of: func(_, u ran) float64 { return u.datagrams / u.cpu }},
		}
		var counted, sent uint64
		for i := range 2 * rounds {
			on := (i+i/2)%2 == 1 // who goes first changes
			k.count(on)
			before := k.segments()
			tcp := k.run("-t", "2")
			if on {
				sent += k.segments() - before
				counted += k.frames()
			}
			udp := k.run("-u", "-b", "0", "-l", "64", "-t", "1")
			for _, m := range ms {
				if v := m.of(tcp, udp) / m.scale; on {
					m.with = append(m.with, v)
				} else {
					m.bare = append(m.bare, v)
				}
			}
		}
		middle := func(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }
		for i, m := range ms {
			asked := ""
			if i == 0 {
				asked = "at least 0.97"
			}
			of := fmt.Sprintf("%.3f (with %.2f to %.2f, without %.2f to %.2f)", middle(m.with)/middle(m.bare), slices.Min(m.with), slices.Max(m.with), slices.Min(m.bare), slices.Max(m.bare))
			Figure(os.Stdout, m.name, fmt.Sprintf("%.2f %s", middle(m.with), m.unit), fmt.Sprintf("%.2f %s", middle(m.bare), m.unit), of, asked)
		}
		Figure(os.Stdout, "frames counted, and segments that TCP says it sent", fmt.Sprint(counted), fmt.Sprint(sent), fmt.Sprint(int64(counted)-int64(sent)), "equal")
		k.count(true)
		known, unknown := k.nanoseconds()
		Figure(os.Stdout, "the program at what comes in, for a datagram from one of 1,000 machines, and from nobody's address", fmt.Sprintf("%.0f ns, %.0f ns of CPU", known, unknown), "", "", "")
	}
	k.in(func() error { k.probe.Attach(nil); return k.probe.Close() })
}

// frames returns how many the machine sent since the last time, as the probe counted them.
func (k *link) frames() (n uint64) {
	k.Helper()
	k.in(func() error {
		for _, row := range k.probe.Read().Rows {
			if !row.To {
				n += row.Frames
			}
		}
		return nil
	})
	return n
}
