// Package goflow2 stands goflow2's sFlow decoder beside our walker, on the same datagrams in one run. It is a module of its own, so that
// what goflow2 needs is never part of the product's.
package goflow2

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	peer "github.com/netsampler/goflow2/v2/decoders/sflow"

	"github.com/skerry-metal/skerry/telemetry/account"
	"github.com/skerry-metal/skerry/telemetry/sflow"
	"github.com/skerry-metal/skerry/telemetry/sflow/sflowtest"
)

const (
	samples = 8 // of one datagram: 1,500 octets of network hold so many
	rounds  = 9
	loops   = 20000
)

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 4, byte(i >> 8), byte(i)}) }

// datagrams are 64 of a switch with 48 ports: TCP-sized packets between machines and the world.
func datagrams() [][]byte {
	e := sflowtest.Exporter{Agent: addr(0)}
	var out [][]byte
	n := uint32(0)
	for range 64 {
		var s []sflowtest.Sample
		for range samples {
			n++
			port := n%48 + 1
			s = append(s, sflowtest.Flow{
				Seq: n / 48, Source: port, Rate: 1000, Pool: n / 48 * 1000, Input: port, Output: 49, Len: 1518,
				Header: sflowtest.Frame(addr(int(port)), netip.AddrFrom4([4]byte{203, 0, byte(n), 9}), 100, 1500),
			}.Sample())
		}
		out = append(out, e.Datagram(s...))
	}
	return out
}

// BenchmarkWalker prints samples a second of one core, each in turn, the median of nine rounds. Asked: ten times goflow2, and a million
// samples a second with accounting.
func BenchmarkWalker(t *testing.B) {
	ds := datagrams()
	var s sflow.Sample
	walk := func() {
		for _, b := range ds {
			d, err := sflow.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			for d.Next(&s) {
			}
		}
	}
	decode := func() {
		for _, b := range ds {
			var p peer.Packet
			if err := peer.DecodeMessageVersion(bytes.NewBuffer(b), &p); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := counter()
	if n := testing.AllocsPerRun(20, walk); n != 0 {
		t.Errorf("the walker allocates %v times", n)
	}
	var ours, theirs, counted []float64
	per := func(fn func(), n int) float64 {
		at := cpu(t)
		for range n {
			fn()
		}
		return float64(n*len(ds)*samples) / (cpu(t) - at)
	}
	for range rounds {
		theirs = append(theirs, per(decode, loops/640))
		ours = append(ours, per(walk, loops/64))
		counted = append(counted, per(count, loops/64))
	}
	median := func(v []float64) float64 { slices.Sort(v); return v[len(v)/2] }
	a, b, c := median(ours), median(theirs), median(counted)
	fmt.Printf("sFlow samples per CPU second: walker %.2f M, goflow2 v2.2.6 decoder %.3f M (%.1f times), walker with streams, two look-ups and counters %.2f M; walker allocates nothing\n", a/1e6, b/1e6, a/b, c/1e6)
}

// cpu returns the CPU seconds that this process used: what else runs on the machine does not count, and the peer's garbage collector does.
func cpu(t *testing.B) float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return float64(r.Utime.Sec+r.Stime.Sec) + float64(r.Utime.Usec+r.Stime.Usec)/1e6
}

// counter takes the datagrams as an agent does: source check, stream, plan, counters. Sequences go on, so that nothing is a duplicate.
func counter() func() {
	var ports []account.Port
	var prefixes []account.Prefix
	for i := 1; i <= 48; i++ {
		m := fmt.Sprint("m", i)
		p := fmt.Sprint("p", i%4)
		ports = append(ports, account.Port{Index: uint32(i), Machine: m, Project: p})
		prefixes = append(prefixes, account.Prefix{Project: p, Network: "web", Machine: m, Prefix: netip.PrefixFrom(addr(i), 32)})
	}
	for i := range 10000 {
		prefixes = append(prefixes, account.Prefix{Project: fmt.Sprint("p", i%4), Network: "net", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 0}), 24)})
	}
	e := account.NewEngine(nil, nil)
	e.SetPlan(account.NewPlan([]account.Switch{{Name: "sw", Agents: []netip.Addr{addr(0)}, Mode: account.Auto, Ports: ports}}, prefixes))
	r := sflow.New(sflow.Config{Known: e.Known, Sink: e, Log: slog.New(slog.DiscardHandler)})
	ds := datagrams()
	now := time.Now()
	seq, uptime := uint32(0), uint32(0)
	return func() {
		for _, b := range ds {
			seq++
			uptime += 2
			put(b[16:], seq)
			put(b[20:], uptime)
			r.Take(b, addr(0), now)
		}
	}
}

func put(b []byte, v uint32) { b[0], b[1], b[2], b[3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v) }
