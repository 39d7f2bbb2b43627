package bootnet

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	sim "github.com/skerry-metal/skerry/test/sim/bmc"
)

// quirk is a fault of the machine behind a controller, or of the wire to it.
type quirk string

const (
	orderLies   quirk = "order-lies"   // whatever the controller shows, the disk boots (infra-controller#505)
	switchDead  quirk = "switch-dead"  // a power-on is accepted, and nothing comes on
	switchStuck quirk = "switch-stuck" // a power-off is accepted, and nothing goes off
	bmcGone     quirk = "bmc-gone"     // nobody answers
	bmcAway     quirk = "bmc-away"     // nobody answers for half an hour
)

// fault is one row of the matrix. An empty word: the goal is reached all the same; else what the agent says, in an event or in the
// machine's state, instead of it.
type fault struct {
	bmc              sim.Fault
	machine          quirk
	install, release string
}

func (f fault) String() string { return string(f.bmc) + string(f.machine) }

// faults are all of the simulator, and those of the machine.
func faults() []fault {
	const silent, off, on = "did not reach the installer within", "power is off after 1m0s", "power is on after 1m0s"
	words := map[sim.Fault][2]string{sim.OnceIgnored: {silent, silent}, sim.EnableReverts: {"quirk enable-reverts", "quirk enable-reverts"}}
	out := []fault{
		{machine: orderLies, install: silent, release: silent},
		{machine: switchDead, install: off, release: off},
		{machine: switchStuck, release: on},
		{machine: bmcGone, install: "machine.stuck: cannot reach BMC", release: "machine.stuck: cannot"},
		{machine: bmcAway},
	}
	for _, b := range sim.Faults() {
		out = append(out, fault{bmc: b, install: words[b][0], release: words[b][1]})
	}
	return out
}

// suffer switches the fault on.
func (u *unit) suffer(f fault) {
	u.mu.Lock()
	u.quirk = f.machine
	u.mu.Unlock()
	if f.bmc != "" {
		u.p.must(u.bmc.SetFaults(f.bmc))
	}
	switch f.machine {
	case bmcGone:
		u.p.net.Cut(u.bmcIP, "10.99.1.11", true)
	case bmcAway:
		u.p.net.Cut(u.bmcIP, "10.99.1.11", true)
		time.AfterFunc(30*time.Minute, func() { u.p.net.Cut(u.bmcIP, "10.99.1.11", false) })
	}
}

var matrixSeed = flag.Uint64("seed", 0, "which faults TestFaultMatrix takes; 0 takes any")

const matrixPatience = 5 * time.Hour // three boots that never come, twice: to be inspected, and to be installed

// TestFaultMatrix: each fault of a controller or its machine x install and x release. The goal is reached, or the fault is named; a goal
// that is told was reached; the disk is written by a permission of its own each time, and never for another act than was asked.
func TestFaultMatrix(t *testing.T) {
	seed := *matrixSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	all := faults()
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	all = all[:min(tierFaults, len(all))]
	for _, release := range []bool{false, true} {
		t.Run(map[bool]string{false: "install", true: "release"}[release], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { matrix(t, all, release) })
		})
	}
}

func matrix(t *testing.T, faults []fault, release bool) {
	p := newPlant(t, len(faults))
	defer p.over()
	goal, word := (*unit).runs, func(f fault) string { return f.install }
	if release {
		p.until(func() bool { return p.all((*unit).runs) }, "all run")
		p.acts = []intent.Act{intent.ActErase}
		goal, word = (*unit).isClean, func(f fault) string { return f.release }
	}
	for i, u := range p.units {
		u.bmc.SetBIOS("SerialConsole", "Enabled") // whoever has the machine
		u.suffer(faults[i])
	}
	if release {
		p.receive(p.author.Entry(intent.EntryTombstone, intent.TombstoneBody{Objects: []intent.TombstoneObject{{Kind: intent.KindInstanceArray, UID: "ia-web", Rev: 2}}}))
	}
	p.until(func() bool {
		var told map[string]string
		for i, u := range p.units {
			said, really := goal(u)
			if said != really && said {
				t.Errorf("%s: the agent says that it is done, and it is not", faults[i])
			}
			w := word(faults[i])
			if w == "" && !said {
				return false
			}
			if w != "" {
				if told == nil {
					told = p.told()
				}
				if !strings.Contains(told[u.name], w) {
					return false
				}
			}
		}
		return true
	}, "")
	told := p.told()
	for i, u := range p.units {
		said, really := goal(u)
		w := word(faults[i])
		t.Logf("%-16s done %v, in truth %v, most %d sessions, %d of %d requests too early", faults[i], said, really, u.meter.most, u.meter.fast, u.meter.n)
		if (w == "") != said || said != really || !strings.Contains(told[u.name], w) {
			t.Errorf("%s: done %v, in truth %v, want %q in\n%s", faults[i], said, really, w, told[u.name])
		}
		if (u.meter.most > 1 && faults[i].bmc != sim.SessionLeak) || u.meter.fast > 0 {
			t.Errorf("%s: %d sessions at once, %d of %d requests too early", faults[i], u.meter.most, u.meter.fast, u.meter.n)
		}
	}
}

func (p *plant) all(goal func(*unit) (bool, bool)) bool {
	for _, u := range p.units {
		if said, really := goal(u); !said || !really {
			return false
		}
	}
	return true
}

// until waits; with what it fails at the end of its patience.
func (p *plant) until(ok func() bool, what string) {
	p.t.Helper()
	for end := time.Now().Add(matrixPatience); !ok(); time.Sleep(20 * time.Second) {
		if time.Now().After(end) {
			if what != "" {
				p.t.Errorf("%s: not within %v", what, matrixPatience)
			}
			return
		}
	}
}
