package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skerry-metal/skerry/test/sim/netlab"
)

// TestRungs: the rungs below the first two say what they see, and see it.
func TestRungs(t *testing.T) {
	w := newWire(t)
	w.segments("off")
	group := ownGroup(t)
	const frames, octets, l3 = 500, 500 * (14 + 20 + 8 + 500 + 4), 500 * (20 + 8 + 500)
	f := func(m Method, in, out bool, want map[string]Totals) {
		t.Helper()
		w := &wire{t, w.host, w.machine, w.dir + "-" + string(m)}
		cfg := w.config(m)
		cfg.Cgroup = group
		plan := facing()
		if m == Counters {
			plan.Links[0].Whole, plan.Links[0].Label = true, "all"
		}
		p := w.start(cfg, plan)
		if s := p.States()[0]; s.Method != m || s.In != in || s.Out != out {
			t.Errorf("%+v", s)
		}
		w.udp(hostAddr, 1, 1, 0) // neighbours know each other
		before := w.still(func() { p.Read() })
		w.udp(hostAddr, frames, 500, 0)
		w.reply(frames, 500)
		var rows []Row
		now := w.still(func() { rows = append(rows, p.Read().Rows...) })
		if m == Counters { // a host says something now and then
			in, out := now.inFrames-before.inFrames, now.outFrames-before.outFrames
			want = map[string]Totals{"all out": {now.inBytes - before.inBytes + 4*in, in, 0}, "all in": {now.outBytes - before.outBytes + 4*out, out, 0}}
		}
		for k, v := range want {
			if g := sums(rows)[k]; g != v {
				t.Errorf("%s: %s: %+v, want %+v", m, k, g, v)
			}
		}
		if m == XDP || m == Cgroup { // both are pinned: the next life goes on
			k := newKeeper()
			k.Life, k.Slots = p.Life(), []Saved{p.slots.saved(1)}
			w.in(func() { must(t, p.Close()) })
			w.udp(hostAddr, frames, 500, 0)
			w.reply(frames, 500)
			cfg.Memory = k.Memory
			p = w.start(cfg, plan)
			w.in(func() { k.read(p) })
			for l, v := range want {
				if g := k.total[l]; g != v {
					t.Errorf("%s, after a restart: %s: %+v, want %+v", m, l, g, v)
				}
			}
		}
		w.in(func() { p.Attach(nil); must(t, p.Close()) })
		if files, _ := filepath.Glob(w.dir + "/link*"); len(files) > 0 {
			t.Errorf("%s left %v", m, files)
		}
	}
	all := Totals{octets, frames, l3}
	f(XDP, true, false, map[string]Totals{"m1 out": all, "m1 in": {}})
	f(Cgroup, false, false, map[string]Totals{"m1 in": all, "m1 out": {}})
	f(Counters, false, false, nil)
}

// TestCgroupGoes: the group's one attachment counts for every interface, until the last of them goes.
func TestCgroupGoes(t *testing.T) {
	w := newWire(t)
	w.segments("off")
	for _, names := range [][]string{{"lo", "e0"}, {"e0", "lo"}} {
		w := &wire{t, w.host, w.machine, ""} // nothing is pinned: an attachment is who holds it
		cfg := w.config(Cgroup)
		cfg.Cgroup = ownGroup(t)
		p := New(cfg)
		w.in(func() {
			must(t, exec.Command("ip", "link", "set", "lo", "up").Run())
			for _, s := range p.Attach(names) {
				if s.Method != Cgroup {
					t.Fatalf("%+v", s)
				}
			}
			p.Attach([]string{"e0"})
			_, err := p.SetPlan(facing())
			must(t, err)
			p.Read()
		})
		w.reply(50, 500)
		w.in(func() {
			if g := sums(p.Read().Rows)["m1 in"]; g.Frames != 50 {
				t.Errorf("%v, then lo goes: %+v", names, g)
			}
			p.Attach(nil)
		})
		w.reply(50, 500)
		w.in(func() {
			if g := sums(p.Read().Rows)["m1 in"]; g.Frames != 0 {
				t.Errorf("%v: it counts on: %+v", names, g)
			}
			must(t, p.Close())
		})
	}
}

// ownGroup moves this process into a control group of its own until the test ends: that of the host has every namespace's traffic.
func ownGroup(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	must(t, unix.Mount("none", root, "cgroup2", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(root, unix.MNT_DETACH)) })
	b, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	_, home, _ := strings.Cut(string(b), "0::")
	home, _, _ = strings.Cut(home, "\n")
	group := filepath.Join(root, home, fmt.Sprintf("sk%d", os.Getpid()))
	must(t, os.Mkdir(group, 0o755))
	must(t, os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0o644))
	t.Cleanup(func() {
		must(t, os.WriteFile(filepath.Join(root, home, "cgroup.procs"), []byte("0"), 0o644))
		must(t, os.Remove(group))
	})
	return group
}

// reply sends datagrams from the host to the machine.
func (w *wire) reply(n, size int) {
	w.Helper()
	to, err := w.machine.ListenPacket("udp", "10.77.0.2:0") // so that nothing is refused
	must(w, err)
	defer to.Close()
	c, err := w.host.ListenPacket("udp", "10.77.0.1:0")
	must(w, err)
	defer c.Close()
	for range n {
		_, err := c.WriteTo(make([]byte, size), to.LocalAddr())
		must(w, err)
	}
}

// TestPacket: 1 in 64 frames, by chance, stand for all of them within the bound that their number gives; super-packets too.
func TestPacket(t *testing.T) {
	w := newWire(t)
	for _, on := range []string{"off", "on"} {
		w.segments(on)
		p := w.start(w.config(Packet), facing())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		const n, size, cut = 1200, 20_000, 1000
		w.udp(hostAddr, n, size, cut)
		const frames = n * size / cut
		looked, stands := float64(frames), float64(n*20) // with segmentation a sample is of 20 frames
		if on == "on" {
			looked = n
		}
		st := socketStats(t, p.at["e0"].held[0].(*os.File))
		if st.Drops > 0 {
			t.Fatalf("%s: the kernel dropped %d samples", on, st.Drops)
		}
		var samples, got, square uint64
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && samples < uint64(st.Packets); runtime.Gosched() { // its reader may be late
			w.in(func() {
				for _, r := range p.Read().Rows {
					if r.Label == "m1" && !r.To {
						samples += r.Samples
						got += uint64(float64(r.Frames) * r.Rate)
						square += uint64(r.Squares)
					}
				}
			})
		}
		// Six standard deviations of a binomial.
		sigma := math.Sqrt(looked*PacketRate) * stands / looked
		if off := math.Abs(float64(got) - frames); off > 6*sigma {
			t.Errorf("%s: %d frames by %d samples, want %d ± %.0f", on, got, samples, frames, 6*sigma)
		}
		if samples == 0 || square == 0 {
			t.Errorf("%s: %d samples, squares %d", on, samples, square)
		}
		cancel()
		must(t, <-ended)
		w.in(func() { p.Attach(nil); must(t, p.Close()) })
	}
}

// TestPacketLost: samples that found no room are counted, and the others stand for their frames.
func TestPacketLost(t *testing.T) {
	w := newWire(t)
	w.segments("off")
	p := w.start(w.config(Packet), facing())
	raw, err := p.at["e0"].held[0].(*os.File).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { // room for half of them, and nobody who reads
		must(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 80_000))
	}))
	const n, size, cut = 1200, 20_000, 1000
	w.udp(hostAddr, n, size, cut)
	var lost, samples uint64
	var frames float64
	var r Reading
	w.in(func() { r = p.Read() })
	if lost = r.Lost; lost == 0 || len(r.Rows) > 0 {
		t.Fatalf("%+v", r)
	}
	w.udp(hostAddr, n, size, cut) // and so again, now that the place is taken
	w.in(func() { r = p.Read() })
	if r.Lost == 0 {
		t.Fatalf("%+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	w.udp(hostAddr, 300, 1000, 0)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && samples < 20; runtime.Gosched() {
		w.in(func() {
			r = p.Read()
			samples += r.Samples
			for _, row := range r.Rows {
				frames += float64(row.Frames) * row.Rate
			}
		})
	}
	if samples < 20 || frames < 20*PacketRate {
		t.Errorf("%d samples for %.0f frames", samples, frames)
	}
	cancel()
	must(t, <-ended)
	w.in(func() { p.Attach(nil); must(t, p.Close()) })
}

// TestStand: of an interface that lost samples each of the others stands for more frames, of another for as many as before.
func TestStand(t *testing.T) {
	s := newSoft()
	for _, index := range []int{1, 2} {
		s.row(softKey{4, index, PacketRate, false}).Samples = 10
	}
	s.row(softKey{4, 1, 1, true}).Samples = 10
	got := map[string]int{}
	for _, r := range s.drain(func(uint32) string { return "x" }, map[int]float64{1: 1.5}) {
		got[fmt.Sprintf("%v %v %v", r.Rate, r.Lost, r.Total)]++
	}
	if got["96 true false"] != 1 || got["64 false false"] != 1 || got["1 false true"] != 1 {
		t.Errorf("%v", got)
	}
}

// socketStats returns what the kernel gave to a packet socket.
func socketStats(t *testing.T, f *os.File) (st *unix.TpacketStats) {
	t.Helper()
	raw, err := f.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		st, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}))
	must(t, err)
	return st
}

// TestPermission: who may not is told what is missing, at every rung; no rung below is tried, and the probe is off.
func TestPermission(t *testing.T) {
	w := newWire(t)
	type said struct{ auto, packet []State }
	got := make(chan said, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with what it lost
		ns, err := os.Open("/run/netns/" + w.host.Name)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var none [2]unix.CapUserData
			err = unix.Capset(&hdr, &none[0])
		}
		var s said
		if err == nil {
			s.auto = New(w.config(Auto)).Attach([]string{"e0", "nowhere"})
			s.packet = New(w.config(Packet)).Attach([]string{"e0"})
		}
		got <- s
	}()
	s := <-got
	if len(s.auto) != 2 || s.auto[0].Method != Off || !strings.Contains(s.auto[0].Why, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON is missing") {
		t.Errorf("%+v", s.auto)
	}
	if len(s.auto) == 2 && s.auto[1].String() != "nowhere: off (there is no such interface)" {
		t.Errorf("%q", s.auto[1].String())
	}
	if len(s.packet) != 1 || s.packet[0].Method != Off || !strings.Contains(s.packet[0].Why, "CAP_NET_RAW is missing") {
		t.Errorf("%+v", s.packet)
	}
}

// TestKilled: a process with a probe is killed; what it left counts on, and the next one goes on from there.
func TestKilled(t *testing.T) {
	w := newWire(t)
	exe, err := os.Executable()
	must(t, err)
	for _, m := range []Method{TCX, Clsact} {
		w := &wire{t, w.host, w.machine, w.dir + "-" + string(m)}
		out := &lines{seen: make(chan string, 64)}
		p, err := netlab.StartProc(netlab.Command{NS: w.host, Path: exe, Args: []string{"-test.run", "^TestChild$", "-test.v"}, Env: append(os.Environ(), "SKERRY_PROBE_DIR="+w.dir, "SKERRY_PROBE_METHOD="+string(m)), Output: out})
		must(t, err)
		for deadline := time.After(20 * time.Second); ; {
			select {
			case s := <-out.seen:
				if strings.Contains(s, "counting") {
					break
				}
				continue
			case <-deadline:
				t.Fatal("the child does not count")
			}
			break
		}
		must(t, p.Kill())
		w.udp(hostAddr, 300, 400, 0)
		k := newKeeper()
		k.Slots = []Saved{{Slot: 1, Label: "m1"}}
		w.in(func() { // its life, as the agent would have kept it
			kern, _, err := openKernel(w.dir)
			must(t, err)
			k.Life = kern.life
			must(t, kern.close())
		})
		cfg := w.config(m)
		cfg.Memory = k.Memory
		next := w.start(cfg, facing())
		w.in(func() {
			k.read(next)
			next.Attach(nil)
			must(t, next.Close())
		})
		if g := k.total["m1 out"]; g.Frames != 300 {
			t.Errorf("%s: %+v, want 300 frames", m, g)
		}
	}
}

// TestChild is the process that TestKilled kills.
func TestChild(t *testing.T) {
	dir := os.Getenv("SKERRY_PROBE_DIR")
	if dir == "" {
		return // there is nobody to kill it
	}
	p := New(Config{Dir: dir, Method: Method(os.Getenv("SKERRY_PROBE_METHOD")), Log: slog.New(slog.DiscardHandler)})
	s := p.Attach([]string{"e0"})
	_, err := p.SetPlan(facing())
	must(t, err)
	t.Log("counting", s)
	<-t.Context().Done()
}

// lines hands on what a child writes.
type lines struct{ seen chan string }

func (l *lines) Write(b []byte) (int, error) {
	select {
	case l.seen <- string(b):
	default:
	}
	return len(b), nil
}

// TestUnder: of a bridge and its port only the one is counted that is a port: else each frame counted twice.
func TestUnder(t *testing.T) {
	w := newWire(t)
	must(t, w.host.Bridge("br0"))
	must(t, w.host.Attach("br0", "e0"))
	p := New(w.config(Auto))
	w.in(func() {
		s := p.Attach([]string{"br0", "e0"})
		if len(s) != 2 || s[0].String() != "br0: off (its frames pass e0 too, and count there)" || s[1].Method == Off {
			t.Errorf("%+v", s)
		}
		p.Attach(nil)
		must(t, p.Close())
	})
}

// TestLadder: only a kernel that lacks a rung leads to the next one; all else ends at off, with the reason.
func TestLadder(t *testing.T) {
	no, busy := fmt.Errorf("cannot attach: %w", ebpf.ErrNotSupported), errors.New("another program is there")
	may := fmt.Errorf("%w: CAP_BPF is missing", ErrPermission)
	f := func(m Method, says map[Method]error, want string) {
		t.Helper()
		p := New(Config{Method: m, Log: slog.New(slog.DiscardHandler)})
		p.try = func(a *attached) error { a.pinned = true; return says[a.Method] }
		s := p.Attach([]string{"lo"})
		if len(s) != 1 || s[0].String() != want {
			t.Errorf("%q, want %q", s[0].String(), want)
		}
		must(t, p.Close())
	}
	f(Auto, nil, "lo: tcx")
	f(Auto, map[Method]error{TCX: no}, "lo: clsact (tcx is not supported here)")
	f(Auto, map[Method]error{TCX: no, Clsact: no, XDP: busy}, "lo: off (xdp: another program is there)")
	f(Auto, map[Method]error{TCX: no, Clsact: may}, "lo: off (clsact: not permitted: CAP_BPF is missing)")
	f(Auto, map[Method]error{TCX: no, Clsact: no, XDP: no, Cgroup: no, Packet: no}, "lo: counters (tcx is not supported here; clsact is not supported here; xdp is not supported here; cgroup is not supported here; packet is not supported here)")
	f(Clsact, map[Method]error{Clsact: no}, "lo: off (clsact is not supported here)")
	f(XDP, nil, "lo: xdp")
	for _, m := range append(Ladder(), Auto, Off, "") {
		if got, err := ParseMethod(string(m)); err != nil || got != m {
			t.Errorf("%q: %v", m, err)
		}
	}
	if _, err := ParseMethod("pcap"); err == nil {
		t.Error("pcap is no method")
	}
}
