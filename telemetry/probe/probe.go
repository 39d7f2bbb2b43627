package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// Config says how a Probe counts.
type Config struct {
	// Dir is where maps and attachments are pinned, of this Probe alone, like /sys/fs/bpf/skerry/v1/lon1-a1. Where it lies on no bpffs,
	// nothing is pinned.
	Dir string
	// Method is the only rung that is tried; Auto: each in turn. Off: none, and what an earlier life left is taken away.
	Method Method
	// Cgroup is the directory of the control group (version 2) whose traffic the rung Cgroup counts; empty: that of this process.
	Cgroup string
	// Memory is what an earlier life kept of its readings.
	Memory Memory
	Log    *slog.Logger
}

// Reading is what came since the reading before.
type Reading struct {
	Rows []Row
	// Keep is to be kept together with Rows, all or nothing, for the Memory of the next life.
	Keep []Saved
	// Anew tells that the kernel's maps are not those that Memory was of: what they counted between is lost.
	Anew bool
	// Samples are the frames that rung Packet looked at, and Lost those that it would have, had there been room: Rows stand for them too.
	Samples, Lost uint64
}

// Row is what one label counted in one direction.
type Row struct {
	Label   string
	To      bool    // to the machine, else from it
	Inside  bool    // the other end is of the same group
	Total   bool    // nobody looked at addresses: Inside says nothing, and L3 is 0
	Rate    float64 // frames that each sample stands for
	Lost    bool    // some of them because samples were lost
	Samples uint64  // frames that were looked at; with Rate 1 every frame
	Bytes   uint64  // of them, with FCS
	L3      uint64  // IP packets in them
	Frames  uint64  // of them: more than Samples where one stood for many
	Squares float64 // sum of the squares of bytes; 0 with Rate 1
}

// Probe counts frames. It never fails: States tells what does not work.
type Probe struct {
	cfg    Config
	kernel *kernel // nil: not loaded
	broken error   // why it is not
	try    func(*attached) error
	slots  *slots
	soft   *soft
	anew   bool
	at     map[string]*attached // by interface
	loaded *rules               // that are in force; nil: not known

	states  atomic.Pointer[[]State]
	sockets chan packetSocket
	names   []string // of the interfaces that it is to stand at
	swept   []string // the interfaces for which what is left of others was taken away

	stats atomic.Pointer[ebpf.Map] // of the kernel, once there is one
}

// maxSockets bounds the packet sockets that wait for Run.
const maxSockets = 256

// New returns a Probe that counts nothing before Attach and SetPlan.
func New(cfg Config) *Probe {
	if cfg.Method == "" {
		cfg.Method = Auto
	}
	p := &Probe{cfg: cfg, slots: newSlots(nil), soft: newSoft(), at: map[string]*attached{}, sockets: make(chan packetSocket, maxSockets)}
	p.states.Store(&[]State{})
	p.try = p.rung
	return p
}

// Life names the kernel's maps; 0 where there are none.
func (p *Probe) Life() uint64 {
	if p.kernel == nil {
		return 0
	}
	return p.kernel.life
}

// SetPlan makes plan count from now on. fresh is what is to be kept before anything else: the labels that got a slot.
func (p *Probe) SetPlan(plan Plan) (fresh []Saved, err error) {
	for _, n := range p.slots.set(plan.labels(), p.totals) {
		fresh = append(fresh, p.slots.saved(n))
	}
	r := compile(&plan, p.slots.of, func(name string) (index, mtu int) {
		if a := p.at[name]; a != nil {
			return a.index, mtuOf(name)
		}
		return 0, 0
	})
	if p.loaded == nil || !maps.Equal(p.loaded.ifaces, r.ifaces) || !maps.Equal(p.loaded.subnets, r.subnets) {
		p.soft.set(r)
		if p.kernel != nil {
			err = r.load(&p.kernel.maps)
		}
		if p.loaded = r; err != nil {
			p.loaded = nil
		}
	}
	if err == nil && r.left+p.slots.refused > 0 {
		err = fmt.Errorf("cannot count apart all that there is: %d prefixes or interfaces and %d labels are too many (at most %d and %d)", r.left, p.slots.refused, maxPrefixes, maxSlots-1)
	}
	return fresh, err
}

// Read returns what was counted since the last Read, of this life or the one before.
func (p *Probe) Read() Reading {
	r := Reading{Anew: p.anew}
	p.anew = false
	if p.kernel != nil {
		for n := range p.slots.list {
			if !p.slots.list[n].used {
				continue
			}
			d, ok := p.slots.since(uint32(n), p.totals(uint32(n)))
			if !ok {
				continue
			}
			for w := range d {
				if d[w].Frames > 0 {
					r.Rows = append(r.Rows, Row{
						Label: p.slots.list[n].label, To: w&wayTo != 0, Inside: w&wayInside != 0, Rate: 1,
						Samples: d[w].Frames, Bytes: d[w].Bytes, L3: d[w].L3, Frames: d[w].Frames,
					})
				}
			}
			r.Keep = append(r.Keep, p.slots.saved(uint32(n)))
		}
	}
	stand := map[int]float64{}
	for _, a := range p.at {
		p.readCounters(a)
		if got, lost := a.readLost(); lost > 0 {
			stand[a.index] = float64(got+lost) / float64(max(got, 1))
			r.Lost += lost
		}
	}
	r.Rows = append(r.Rows, p.soft.drain(func(n uint32) string { return p.slots.list[n].label }, stand)...)
	for i := range r.Rows {
		if r.Rows[i].Rate > 1 {
			r.Samples += r.Rows[i].Samples
		}
	}
	p.slots.rest()
	return r
}

// totals reads a slot of the kernel.
func (p *Probe) totals(n uint32) (t [ways]Totals) {
	if p.kernel == nil {
		return t
	}
	for w := range t {
		var cpus []countCount
		if err := p.kernel.maps.Counts.Lookup(n*ways+uint32(w), &cpus); err != nil {
			p.cfg.Log.Warn("a count of the probe does not read", "slot", n, "err", err)
			continue
		}
		for i := range cpus {
			t[w].Bytes += cpus[i].Bytes
			t[w].Frames += cpus[i].Frames
			t[w].L3 += cpus[i].L3
		}
	}
	return t
}

// Stats are what a Probe did with frames, since its maps were made.
type Stats struct {
	Seen   uint64 // frames that came by
	Nobody uint64 // of no known address
	Crowd  uint64 // to everybody on the segment, so that each agent hears them: not counted
	Short  uint64 // without a whole Ethernet header
}

// Stats returns the totals. The kernel's are zero where it is not what counts.
func (p *Probe) Stats() Stats {
	m := p.stats.Load()
	if m == nil {
		return Stats{}
	}
	var s Stats
	for i, to := range []*uint64{&s.Seen, &s.Nobody, &s.Crowd, &s.Short} {
		var cpus []uint64
		if m.Lookup(uint32(i), &cpus) == nil {
			for _, n := range cpus {
				*to += n
			}
		}
	}
	return s
}

// Run reads packet sockets until ctx ends.
func (p *Probe) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case s := <-p.sockets:
				g.Go(func() error { p.readPackets(ctx, s); return nil })
			}
		}
	})
	return g.Wait()
}

// Close lets go of everything. What is pinned goes on counting; all else is detached.
func (p *Probe) Close() error {
	var errs []error
	for _, a := range p.at {
		errs = append(errs, a.let(p))
	}
	p.at = map[string]*attached{}
	if p.kernel != nil {
		errs = append(errs, p.kernel.close())
	}
	return errors.Join(errs...)
}
