package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keeper is what an agent keeps of a probe's readings on disk.
type keeper struct {
	Memory
	total map[string]Totals
}

func newKeeper() *keeper { return &keeper{total: map[string]Totals{}} }

func (k *keeper) keep(p *Probe, saved []Saved) {
	k.Life = p.Life()
	for _, s := range saved {
		k.Slots = append(deleteSlot(k.Slots, s.Slot), s)
	}
}

func deleteSlot(in []Saved, n uint32) (out []Saved) {
	for _, s := range in {
		if s.Slot != n {
			out = append(out, s)
		}
	}
	return out
}

// read takes a reading and keeps all of it.
func (k *keeper) read(p *Probe) (anew bool) {
	r := p.Read()
	k.keep(p, r.Keep)
	for l, v := range sums(r.Rows) {
		t := k.total[l]
		k.total[l] = Totals{t.Bytes + v.Bytes, t.Frames + v.Frames, t.L3 + v.L3}
	}
	return r.Anew
}

// TestRestart: an agent that ends, and one that is killed, lose no frame and count none twice; nothing else holds what was attached.
func TestRestart(t *testing.T) {
	w := newWire(t)
	w.segments("off")
	for _, m := range []Method{TCX, Clsact} {
		t.Run(string(m), func(t *testing.T) {
			w := &wire{t, w.host, w.machine, w.dir + "-" + string(m)}
			k := newKeeper()
			p := New(w.config(m))
			w.in(func() {
				if s := p.Attach([]string{"e0"}); s[0].Method != m {
					t.Fatalf("%+v", s)
				}
				fresh, err := p.SetPlan(own())
				must(t, err)
				k.keep(p, fresh)
			})
			before := w.still(func() { k.keep(p, p.Read().Keep) })
			again := func() {
				cfg := w.config(m)
				cfg.Memory = k.Memory
				p = New(cfg)
				w.in(func() {
					if s := p.Attach([]string{"e0"}); s[0].Method != m {
						t.Fatalf("%+v", s)
					}
					fresh, err := p.SetPlan(own())
					must(t, err)
					if len(fresh) > 0 {
						t.Errorf("the label has a new slot: %+v", fresh)
					}
					k.keep(p, fresh)
				})
			}
			w.udp(hostAddr, 100, 700, 0)
			w.in(func() { k.read(p) })
			w.udp(hostAddr, 100, 700, 0)
			w.in(func() { must(t, p.Close()) }) // not read: the next one does
			w.udp(hostAddr, 100, 700, 0)        // nobody is there
			again()
			w.udp(hostAddr, 100, 700, 0)
			w.in(func() {
				if k.read(p) {
					t.Error("it began anew")
				}
				p.Read() // killed before this reached the disk
			})
			w.udp(hostAddr, 100, 700, 0)
			again() // over what the killed one holds
			now := w.still(func() { k.read(p) })
			in, out := now.inFrames-before.inFrames, now.outFrames-before.outFrames
			if g := k.total["me in"]; g.Frames != in || g.Bytes != now.inBytes-before.inBytes+4*in || in < 500 {
				t.Errorf("in: %+v, %d frames, %d octets", g, in, now.inBytes-before.inBytes)
			}
			if g := k.total["me out"]; g.Frames != out || g.Bytes != now.outBytes-before.outBytes+4*out {
				t.Errorf("out: %+v, %d frames, %d octets", g, out, now.outBytes-before.outBytes)
			}

			// An agent that has lost its disk begins anew, and counts nothing of before.
			k = newKeeper()
			k.Life = 1
			again2 := New(Config{Dir: w.dir, Method: m, Memory: k.Memory, Log: p.cfg.Log})
			w.in(func() {
				again2.Attach([]string{"e0"})
				fresh, err := again2.SetPlan(own())
				must(t, err)
				k.keep(again2, fresh)
				if !k.read(again2) {
					t.Error("it did not begin anew")
				}
				must(t, again2.Close())
				must(t, p.Close())
			})
			if g := k.total["me in"]; g.Frames > 10 {
				t.Errorf("it counted what was before: %+v", g)
			}

			// Switched off, nothing is left.
			w.in(func() { New(Config{Dir: w.dir, Method: Off, Log: p.cfg.Log}).Attach([]string{"e0"}) })
			if files, _ := filepath.Glob(w.dir + "/*"); len(files) > 0 {
				t.Errorf("left: %v", files)
			}
		})
	}
	// Nothing looks at e0 any more.
	out, err := w.host.Exec(t.Context(), "tc", "filter", "show", "dev", "e0", "ingress")
	must(t, err)
	if strings.Contains(string(out), "skerry") {
		t.Errorf("a filter is left: %s", out)
	}
}

// TestUnpinned: without a bpffs it counts all the same, and says that it ends with the agent.
func TestUnpinned(t *testing.T) {
	w := newWire(t)
	w.dir = filepath.Join(t.TempDir(), "v1", "x")
	for _, m := range []Method{TCX, Clsact} {
		p := New(w.config(m))
		w.in(func() {
			s := p.Attach([]string{"e0"})
			if s[0].Method != m || !strings.Contains(s[0].Why, "not pinned") {
				t.Fatalf("%+v", s)
			}
			_, err := p.SetPlan(facing())
			must(t, err)
		})
		w.udp(hostAddr, 10, 100, 0)
		w.in(func() {
			if g := sums(p.Read().Rows)["m1 out"]; g.Frames < 10 {
				t.Errorf("%s: %+v", m, g)
			}
			must(t, p.Close())
		})
		if _, err := os.Stat(w.dir); !os.IsNotExist(err) {
			t.Errorf("it made %s", w.dir)
		}
	}
	out, err := w.host.Exec(t.Context(), "tc", "filter", "show", "dev", "e0", "ingress")
	must(t, err)
	if strings.Contains(string(out), "skerry") {
		t.Errorf("a filter is left: %s", out)
	}
}
