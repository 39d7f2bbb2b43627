package account

import (
	"cmp"
	"math"
	"slices"

	"github.com/skerry-metal/skerry/telemetry/sflow"
)

const (
	// reconcileEvery is over how much of the exporter's uptime samples and counters are compared.
	reconcileEvery = 5 * 60 * 1000 // ms
	// mismatches is how often running they must differ before it is told.
	mismatches = 3
	// maxPorts bounds the ports of one stream of which state is kept.
	maxPorts = sflow.MaxSources
	// allPorts bounds those of all streams together.
	allPorts = sflow.AllSources
	// slack is what samples and counters may differ by beside the error of sampling: clocks of the two are not read at once.
	slack = 0.02
	// fcs is what a frame has beyond what some counters count: Open vSwitch's and pmacct's leave it out.
	fcs = 4
)

// Mismatch says that the samples of a port did not fit its interface's counters, three times running.
type Mismatch struct {
	Switch string
	Port   uint32
	Name   string // as the exporter calls it, else empty
	In     bool   // to what hangs on the port
	Ratio  float64
}

// portState is what is kept of one port between its counter samples.
type portState struct {
	speed    uint64 // bit/s, 0: unknown
	name     string
	began    uint32 // uptime at the counters in last, ms
	last     [2]uint64
	known    bool
	sum      [2]estimate // 0: to the switch, 1: from it
	ratio    [2]float64  // NaN: not compared yet
	bad      int         // comparisons running that did not fit
	lostThen uint64
}

type estimate struct{ bytes, packets, variance float64 }

// port returns the state of a port of the stream that is being read, nil where there are too many.
func (e *Engine) port(index uint32) *portState {
	st := e.at.st
	p := st.ports[index]
	if p == nil && len(st.ports) < maxPorts && e.ports < allPorts {
		e.ports++
		p = &portState{ratio: [2]float64{math.NaN(), math.NaN()}}
		st.ports[index] = p
	}
	return p
}

// estimate adds what one sample stands for. in: to what hangs on the port, so out of the switch.
func (p *portState) estimate(in bool, bytes, n, size float64) {
	e := &p.sum[way(in)]
	e.bytes += bytes
	e.packets += n
	e.variance += n * (n - 1) * size * size
}

func way(in bool) int {
	if in {
		return 1
	}
	return 0
}

// counters compares what the samples of a port stood for with what its interface counted.
func (e *Engine) counters(s *sflow.Sample, uptime uint32) {
	c := &s.Counters
	if !c.HasInterface || s.SourceType != 0 {
		return
	}
	st := e.at.st
	if sw := e.at.sw; sw != nil && sw.link(s.Source) != s.Source {
		return // the whole has counters of its own
	}
	p := e.port(s.Source)
	if p == nil {
		return
	}
	if c.PortName != nil && len(c.PortName) <= 64 && string(c.PortName) != p.name {
		p.name = string(c.PortName)
	}
	p.speed = c.Interface.Speed
	now := [2]uint64{c.Interface.InOctets, c.Interface.OutOctets}
	age := uptime - p.began
	if p.known && age < reconcileEvery {
		return
	}
	lost := st.stat.SamplesLost + st.stat.AgentDrops
	if p.known && now[0] >= p.last[0] && now[1] >= p.last[1] && age < 1<<31 {
		bad := false
		for i := range now {
			r, off := p.sum[i].compare(now[i] - p.last[i])
			p.ratio[i] = r
			if off && lost == p.lostThen { // with losses the sum is known to be short
				bad = true
				if p.bad+1 == mismatches {
					e.told = append(e.told, Mismatch{st.name, s.Source, p.name, i == 1, r})
				}
			}
		}
		if bad {
			p.bad++
		} else {
			p.bad = 0
		}
	}
	p.known, p.began, p.last, p.lostThen = true, uptime, now, lost
	p.sum = [2]estimate{}
}

// compare returns what part of the counted octets the samples account for, and whether that is further off than sampling explains. Some
// counters leave the FCS out: what fits either way fits.
func (e *estimate) compare(counted uint64) (ratio float64, off bool) {
	if counted == 0 {
		if e.bytes == 0 {
			return math.NaN(), false
		}
		return math.Inf(1), true
	}
	n := float64(counted)
	fits := func(r float64) bool { return math.Abs(r-1) <= z95*math.Sqrt(e.variance)/n+slack }
	ratio = e.bytes / n
	if bare := (e.bytes - fcs*e.packets) / n; !fits(ratio) && fits(bare) {
		ratio = bare
	}
	return ratio, !fits(ratio) && e.packets > 0
}

// PortRatio is how well one port's samples fit its counters; 1 is perfect. Some figures are NaN: not compared yet, or nothing to compare.
type PortRatio struct {
	Switch  string
	Port    uint32
	Name    string
	In, Out float64 // to what hangs on the port, from it
}

// Ratios returns the last comparison of each port that has one, ordered by switch and port.
func (e *Engine) Ratios() []PortRatio {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []PortRatio
	for _, st := range e.streams {
		if st == nil {
			continue
		}
		for i, p := range st.ports {
			if !math.IsNaN(p.ratio[0]) || !math.IsNaN(p.ratio[1]) {
				out = append(out, PortRatio{st.name, i, p.name, p.ratio[1], p.ratio[0]})
			}
		}
	}
	slices.SortFunc(out, func(a, b PortRatio) int { return cmp.Or(cmp.Compare(a.Switch, b.Switch), cmp.Compare(a.Port, b.Port)) })
	return out
}
