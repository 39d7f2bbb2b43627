package probe

import (
	"net/netip"
	"testing"
)

// exactly compares everything that a probe counted at its own machine's interface with the interface's own counters, which lack the FCS.
func exactly(w *wire, p *Probe, before counters) {
	w.Helper()
	var got map[string]Totals
	total := map[string]Totals{}
	now := w.still(func() {
		got = sums(p.Read().Rows)
		for k, v := range got {
			t := total[k]
			total[k] = Totals{t.Bytes + v.Bytes, t.Frames + v.Frames, t.L3 + v.L3}
		}
	})
	in, out := now.inFrames-before.inFrames, now.outFrames-before.outFrames
	if g := total["me in"]; g.Frames != in || g.Bytes != now.inBytes-before.inBytes+4*in {
		w.Errorf("in: %+v; the interface has %d frames, %d octets", g, in, now.inBytes-before.inBytes)
	}
	if g := total["me out"]; g.Frames != out || g.Bytes != now.outBytes-before.outBytes+4*out {
		w.Errorf("out: %+v; the interface has %d frames, %d octets", g, out, now.outBytes-before.outBytes)
	}
}

// TestExact: frame by frame, what the probe counts is what the interface counts, at both rungs that see everything.
func TestExact(t *testing.T) {
	w := newWire(t)
	w.segments("off")
	for _, m := range []Method{TCX, Clsact} {
		t.Run(string(m), func(t *testing.T) {
			w := &wire{t, w.host, w.machine, w.dir + "-" + string(m)}
			p := New(w.config(m))
			w.in(func() {
				s := p.Attach([]string{"e0"})
				if len(s) != 1 || s[0].Method != m || !s[0].In || !s[0].Out || s[0].Why != "" {
					t.Fatalf("%+v", s)
				}
				_, err := p.SetPlan(own())
				must(t, err)
			})
			before := w.still(func() { p.Read() })
			w.tcp(hostAddr, 3<<20)
			w.tcp(hostAddr6, 1<<20)
			w.udp(hostAddr, 200, 700, 0)
			w.udp(hostAddr6, 200, 40, 0)
			exactly(w, p, before)
			w.in(func() { p.Attach(nil); must(t, p.Close()) })
		})
	}
}

// TestSegments: a super-packet counts as the frames that it stands for, each with its headers: TCP's own count of its segments says so.
func TestSegments(t *testing.T) {
	w := newWire(t)
	const octets = 8 << 20
	for _, m := range []Method{TCX, Clsact} {
		t.Run(string(m), func(t *testing.T) {
			w := &wire{t, w.host, w.machine, w.dir + "-" + string(m)}
			w.segments("on")
			p := w.start(w.config(m), facing())
			w.udp(hostAddr, 1, 1, 0) // neighbours know each other now
			w.udp(hostAddr6, 1, 1, 0)
			w.still(func() { p.Read() })
			var rows []Row
			// Header of each: Ethernet 14, IP, TCP 32 with timestamps (40 in the first of each side), FCS 4.
			f := func(host netip.Addr, ip uint64) {
				t.Helper()
				said := talk{twice: true}
				for tries := 0; said.twice; tries++ {
					if tries == 10 {
						t.Fatal("a segment was sent twice, ten times running")
					}
					said, rows = w.tcp(host, octets), nil
					w.still(func() { rows = append(rows, p.Read().Rows...) })
				}
				g := sums(rows)
				for k, n := range map[string]uint32{"m1 out": said.fromMachine, "m1 in": said.fromHost} {
					want := Totals{octets + uint64(n)*(14+ip+32+4) + 8, uint64(n), octets + uint64(n)*(ip+32) + 8}
					if g[k] != want {
						t.Errorf("%s %s: %+v, want %+v", host, k, g[k], want)
					}
				}
			}
			f(hostAddr, 20)
			f(hostAddr6, 40)
			w.big("180000")
			f(hostAddr, 20)
			f(hostAddr6, 40)
			w.big("65536")
			w.udp(hostAddr, 100, 50_000, 1000)
			rows = nil
			w.still(func() { rows = append(rows, p.Read().Rows...) })
			if g, want := sums(rows)["m1 out"], (Totals{5000 * (14 + 20 + 8 + 1000 + 4), 5000, 5000 * (20 + 8 + 1000)}); g != want {
				t.Errorf("UDP: %+v, want %+v", g, want)
			}
			w.in(func() { p.Attach(nil); must(t, p.Close()) })
		})
	}
}

// TestSegmentsXDP: a program that sees a super-packet without what was in it takes its segments to have filled their frames: exact for TCP in
// bulk, and of shorter ones it counts fewer frames than there were.
func TestSegmentsXDP(t *testing.T) {
	w := newWire(t)
	const octets = 4 << 20
	w.segments("on")
	p := w.start(w.config(XDP), facing())
	w.udp(hostAddr, 1, 1, 0) // neighbours know each other now
	w.udp(hostAddr6, 1, 1, 0)
	w.still(func() { p.Read() })
	var rows []Row
	for host, ip := range map[netip.Addr]uint64{hostAddr: 20, hostAddr6: 40} {
		said := talk{twice: true}
		for tries := 0; said.twice; tries++ {
			if tries == 10 {
				t.Fatal("a segment was sent twice, ten times running")
			}
			said, rows = w.tcp(host, octets), nil
			w.still(func() { rows = append(rows, p.Read().Rows...) })
		}
		n := uint64(said.fromMachine)
		if g, want := sums(rows)["m1 out"], (Totals{octets + n*(14+ip+32+4) + 8, n, octets + n*(ip+32) + 8}); g != want {
			t.Errorf("%s: %+v, want %+v", host, g, want)
		}
	}
	w.udp(hostAddr, 100, 50_000, 1000)
	rows = nil
	w.still(func() { rows = append(rows, p.Read().Rows...) })
	const full = (50_000 + 1471) / 1472 // frames of 1,500 octets of IP, where there are fifty of 1,028
	if g, want := sums(rows)["m1 out"], (Totals{100 * (50_000 + full*(14+20+8+4)), 100 * full, 100 * (50_000 + full*(20+8))}); g != want {
		t.Errorf("UDP: %+v, want %+v", g, want)
	}
	w.in(func() { p.Attach(nil); must(t, p.Close()) })
}
