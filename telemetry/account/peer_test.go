package account

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/telemetry/sflow"
	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
	"github.com/skerry-metal/skerry/test/e2e/lab"
	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAgainstPmacct: pmacct's collector and we read the same datagrams, recorded and of many sizes, and come to the same octets and packets
// for each address.
func TestAgainstPmacct(t *testing.T) {
	lab.Need(t, lab.Tool("sfacctd", "pmacct"))
	ps, err := sflowtest.Payloads("../sflow/testdata/captures/pmacct_sfprobe.tar.gz")
	must(t, err)
	hosts := []string{"10.55.0.1", "10.55.0.2", "10.4.0.1", "10.4.0.2", "fd00::1"}
	e := sflowtest.Exporter{Agent: netip.MustParseAddr("10.55.0.3"), Uptime: 1000}
	for i := range uint32(400) {
		dst := netip.MustParseAddr(hosts[2+i%3])
		src := m3
		if dst.Is6() {
			src = netip.MustParseAddr("fd00::9")
		}
		size := 60 + int(i*37%1400)
		ps = append(ps, e.Datagram(sflowtest.Flow{Seq: i, Source: 1, Rate: 10, Pool: i * 10, Input: sflow.SelfPort, Output: sflow.SelfPort, Len: uint32(size) + 18, Header: sflowtest.Frame(src, dst, 0, size)}.Sample()))
	}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "in.pcap"), pcapOf(ps), 0o600))
	conf := fmt.Sprintf("daemonize: false\npcap_savefile: %[1]s/in.pcap\nplugins: print[p]\naggregate[p]: dst_host\nsfacctd_ext_sampling_rate: 10\nsfacctd_renormalize: true\nprint_output[p]: csv\nprint_output_file[p]: %[1]s/out.csv\nprint_refresh_time[p]: 10\n", dir)
	must(t, os.WriteFile(filepath.Join(dir, "c.conf"), []byte(conf), 0o600))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "sfacctd", "-f", filepath.Join(dir, "c.conf")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "out.csv"))
	must(t, err)
	rows, err := csv.NewReader(bytes.NewReader(raw)).ReadAll()
	must(t, err)
	theirs := map[string]string{}
	for _, r := range rows[1:] {
		theirs[r[0]] = r[2] + " octets in " + r[1]
	}

	var prefixes []Prefix
	agents := []netip.Addr{e.Agent, netip.MustParseAddr("10.55.0.2")}
	for _, h := range hosts {
		a := netip.MustParseAddr(h)
		prefixes = append(prefixes, Prefix{Project: "p", Machine: h, Prefix: netip.PrefixFrom(a, a.BitLen())})
	}
	a := newAgent(t, NewPlan([]Switch{{Name: "sw", Agents: agents, Mode: Host}}, prefixes), nil)
	for _, p := range ps {
		d, err := sflow.Parse(p)
		must(t, err)
		a.Take(p, d.Agent, t0)
	}
	a.end(t, t0)
	q, err := NewQuery(t0.Add(-time.Hour), t0.Add(time.Hour), 0, []Field{ByMachine, ByDirection}, nil, t0)
	must(t, err)
	seen := 0
	for _, f := range ask(t, q, t0, a) {
		if f.Direction == In {
			seen++
			if ours := fmt.Sprintf("%d octets in %d", f.Bytes, f.Packets); ours != theirs[f.Machine] {
				t.Errorf("%s: %s, pmacct says %s", f.Machine, ours, theirs[f.Machine])
			}
		}
	}
	if seen != len(hosts) {
		t.Errorf("%d addresses of %d; pmacct: %v", seen, len(hosts), theirs)
	}
}

// pcapOf puts UDP payloads into a pcap of Ethernet frames.
func pcapOf(ps [][]byte) []byte {
	le, be := binary.LittleEndian, binary.BigEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(le.AppendUint32(b, 65535), 1)
	for i, p := range ps {
		ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 55, 0, 2, 10, 55, 0, 9}
		be.PutUint16(ip[2:], uint16(28+len(p)))
		be.PutUint16(ip[4:], uint16(i))
		sum := uint32(0)
		for j := 0; j < 20; j += 2 {
			sum += uint32(be.Uint16(ip[j:]))
		}
		be.PutUint16(ip[10:], ^uint16(sum+sum>>16))
		f := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, ip...)
		f = be.AppendUint16(be.AppendUint16(f, 40000), 6343)
		f = be.AppendUint16(be.AppendUint16(f, uint16(8+len(p))), 0)
		f = append(f, p...)
		b = le.AppendUint32(le.AppendUint32(b, uint32(1700000000+i)), 0)
		b = append(le.AppendUint32(le.AppendUint32(b, uint32(len(f))), uint32(len(f))), f...)
	}
	return b
}

// fabric is a switch namespace with two hosts on it, and what its exporter sends to us.
type fabric struct {
	*testing.T
	lab      *netlab.Lab
	sw, a, b *netlab.Namespace
	dir      string
	conn     net.PacketConn
	agent    *agent
	counted  map[uint32]sflow.InterfaceCounters
	pool     uint32 // packets that the exporter's source has seen
}

// newFabric joins hosts a (10.4.0.1) and b (10.4.0.2) to namespace sw by veths e0 - pa and e0 - pb.
func newFabric(t *testing.T) *fabric {
	t.Helper()
	f := &fabric{T: t, lab: lab.New(t), dir: t.TempDir(), counted: map[uint32]sflow.InterfaceCounters{}}
	for _, n := range []struct {
		to     **netlab.Namespace
		suffix string
	}{{&f.sw, "sw"}, {&f.a, "a"}, {&f.b, "b"}} {
		ns, err := f.lab.Namespace(n.suffix)
		must(t, err)
		*n.to = ns
	}
	for _, h := range []struct {
		ns   *netlab.Namespace
		port string
		addr netip.Addr
	}{{f.a, "pa", m1}, {f.b, "pb", m2}} {
		must(t, f.lab.Veth(h.ns, "e0", f.sw, h.port))
		must(t, h.ns.Addr("e0", h.addr.String()+"/24"))
		must(t, h.ns.Finish("e0"))
	}
	var err error
	f.conn, err = f.sw.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = f.conn.Close() })
	return f
}

func (f *fabric) run(ns *netlab.Namespace, args ...string) string {
	f.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := ns.Exec(ctx, args...)
	if err != nil {
		f.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// index returns the ifIndex of a link of the switch, count a counter of it.
func (f *fabric) index(link string) uint32 {
	f.Helper()
	i, err := f.sw.Index(link)
	must(f.T, err)
	return i
}

func (f *fabric) count(link, name string) uint64 {
	f.Helper()
	// ip -s: the columns of RX bytes and packets stand on the line below their names.
	for _, line := range strings.Split(f.run(f.sw, "cat", "/proc/net/dev"), "\n") {
		if c := strings.Fields(strings.Replace(line, ":", " ", 1)); len(c) > 10 && c[0] == link {
			n, err := strconv.ParseUint(c[map[string]int{"rx_bytes": 1, "rx_packets": 2, "tx_bytes": 9, "tx_packets": 10}[name]], 10, 64)
			must(f.T, err)
			return n
		}
	}
	f.Fatalf("no link %s", link)
	return 0
}

// hear takes datagrams until done says so of what was heard.
func (f *fabric) hear(what string, done func() bool) {
	f.Helper()
	end := time.Now().Add(60 * time.Second)
	b := make([]byte, 64<<10)
	for !done() {
		must(f.T, f.conn.SetReadDeadline(end))
		n, from, err := f.conn.ReadFrom(b)
		if err != nil {
			f.Fatalf("no %s: %v; %+v", what, err, f.agent.e.Streams())
		}
		at := from.(*net.UDPAddr).AddrPort().Addr().Unmap()
		f.take(b[:n], at)
	}
}

func (f *fabric) take(b []byte, from netip.Addr) {
	f.Helper()
	f.agent.Take(b, from, time.Now())
	d, err := sflow.Parse(b)
	must(f.T, err)
	var s sflow.Sample
	for d.Next(&s) {
		switch {
		case s.Kind == sflow.Counters && s.Counters.HasInterface:
			f.counted[s.Counters.Interface.Index] = s.Counters.Interface
		case s.Kind == sflow.Flow:
			f.pool = s.Pool
		}
	}
}

// send gives packets of random sizes from a to b, and a third as many back.
func (f *fabric) send(packets int) {
	f.Helper()
	for _, way := range []struct {
		from *netlab.Namespace
		to   netip.Addr
		n    int
	}{{f.a, m2, packets}, {f.b, m1, packets / 3}} {
		c, err := way.from.DialContext(context.Background(), "udp", way.to.String()+":9")
		must(f.T, err)
		buf := make([]byte, 1400)
		for i := range way.n {
			if _, err := c.Write(buf[:100+i*977%1300]); err != nil && !strings.Contains(err.Error(), "refused") {
				f.Fatal(err)
			}
			if i%100 == 99 { // the switch is a process: let it read
				f.hearNow()
			}
		}
		must(f.T, c.Close())
	}
}

// hearNow takes what has come already.
func (f *fabric) hearNow() {
	f.Helper()
	b := make([]byte, 64<<10)
	for {
		must(f.T, f.conn.SetReadDeadline(time.Now().Add(time.Millisecond)))
		n, from, err := f.conn.ReadFrom(b)
		if err != nil {
			return
		}
		f.take(b[:n], from.(*net.UDPAddr).AddrPort().Addr().Unmap())
	}
}

// compare holds the figures of each machine against the interface's own octets with FCS, within four standard deviations and 1 %: what
// the exporter had not sampled when the counters were read.
func (f *fabric) compare(truth map[string]float64) {
	f.Helper()
	now := time.Now()
	f.agent.end(f.T, now)
	q, err := NewQuery(now.Add(-time.Hour), now.Add(time.Minute), 0, []Field{ByMachine, ByDirection}, nil, now)
	must(f.T, err)
	seen := 0
	for _, g := range ask(f.T, q, now, f.agent) {
		want, ok := truth[g.Machine+" "+g.Direction]
		if !ok {
			continue
		}
		seen++
		off := math.Abs(float64(g.Bytes) - want)
		f.Logf("%s %s: %d octets ± %.0f of %.0f by the interface (off by %.2f %%), %d samples, flags %v", g.Machine, g.Direction, g.Bytes, g.Bytes95, want, 100*off/want, g.Samples, g.Flags.Names())
		if off > 4/z95*g.Bytes95+want/100 || g.Low {
			f.Errorf("%s %s is off by %.0f", g.Machine, g.Direction, off)
		}
	}
	if seen != len(truth) {
		f.Errorf("%d figures of %d", seen, len(truth))
	}
}

// TestOpenVSwitch: real traffic between namespaces through Open vSwitch, whose sFlow gives the octets that its interfaces counted.
func TestOpenVSwitch(t *testing.T) {
	lab.Need(t, lab.Root, lab.Tool("ovs-vswitchd", "openvswitch-switch"), lab.Tool("ethtool", "ethtool"))
	f := newFabric(t)
	sw, err := f.lab.Switch(f.sw, f.dir, "br0")
	must(t, err)
	must(t, f.sw.Addr("br0", "10.4.0.9/24"))
	must(t, sw.Port("pa"))
	must(t, sw.Port("pb"))
	_, port, err := net.SplitHostPort(f.conn.LocalAddr().String())
	must(t, err)
	agents := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.4.0.9")} // where it sends from, and how it calls itself
	f.agent = newAgent(t, NewPlan([]Switch{{Name: "ovs", Agents: agents, Mode: Auto, Ports: []Port{
		{Index: f.index("pa"), Machine: "m1", Project: "acme"}, {Index: f.index("pb"), Machine: "m2", Project: "acme"},
	}}}, nil), nil)
	must(t, sw.SFlow(10, "127.0.0.1:"+port))
	f.hear("counters of both ports", func() bool { return len(f.counted) >= 2 })
	// What went out is the truth: under load the kernel drops some of what comes in before the switch, a process, reads it.
	octets := func(link string) float64 { return float64(f.count(link, "tx_bytes") + 4*f.count(link, "tx_packets")) }
	toA, toB := octets("pa"), octets("pb")
	f.send(12000)
	a, b, ia, ib := f.count("pa", "rx_bytes"), f.count("pb", "rx_bytes"), f.index("pa"), f.index("pb")
	f.hear("counters after the traffic", func() bool { return f.counted[ia].InOctets >= a && f.counted[ib].InOctets >= b })
	toA, toB = octets("pa")-toA, octets("pb")-toB
	f.compare(map[string]float64{"m1 out": toB, "m2 in": toB, "m2 out": toA, "m1 in": toA})
}

// TestPmacctExporter: a host that measures its own link with pmacct's exporter, which names no ports, gives the octets of that link.
func TestPmacctExporter(t *testing.T) {
	lab.Need(t, lab.Root, lab.Tool("pmacctd", "pmacct"), lab.Tool("ethtool", "ethtool"))
	f := newFabric(t)
	must(t, f.sw.Bridge("br0"))
	must(t, f.sw.Attach("br0", "pa"))
	must(t, f.sw.Attach("br0", "pb"))
	conf := fmt.Sprintf("daemonize: false\npcap_interface: pa\nplugins: sfprobe\nsfprobe_receiver: %s\nsfprobe_agentip: 127.0.0.1\nsfprobe_agentsubid: 5\nsampling_rate: 10\n", f.conn.LocalAddr())
	must(t, os.WriteFile(filepath.Join(f.dir, "p.conf"), []byte(conf), 0o600))
	prefixes := []Prefix{{Project: "acme", Machine: "m1", Prefix: netip.PrefixFrom(m1, 32)}, {Project: "acme", Machine: "m2", Prefix: netip.PrefixFrom(m2, 32)}}
	f.agent = newAgent(t, NewPlan([]Switch{{Name: "host", Agents: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Mode: Host}}, prefixes), nil)
	_, err := f.lab.Start(netlab.Command{NS: f.sw, Path: "pmacctd", Args: []string{"-f", filepath.Join(f.dir, "p.conf")}})
	must(t, err)
	f.hear("word of the exporter", func() bool { // it has no other sign that it captures
		f.send(60)
		return f.pool > 0
	})
	octets := func(name string) float64 {
		return float64(f.count("pa", name+"_bytes") + 4*f.count("pa", name+"_packets"))
	}
	rx, tx, seen := octets("rx"), octets("tx"), f.pool
	packets := f.count("pa", "rx_packets") + f.count("pa", "tx_packets")
	f.send(12000)
	packets = f.count("pa", "rx_packets") + f.count("pa", "tx_packets") - packets
	f.hear("the last samples", func() bool { return uint64(f.pool-seen) >= packets-100 })
	rx, tx = octets("rx")-rx, octets("tx")-tx
	f.compare(map[string]float64{"m1 out": rx, "m2 in": rx, "m2 out": tx, "m1 in": tx})
}
