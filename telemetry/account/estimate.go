package account

import (
	"math"

	"github.com/skerry-metal/skerry/telemetry/account/poisson"
)

const (
	z95        = 1.959964 // of the normal distribution: 95 % lie within
	lowSamples = 30       // below it, the bound is an exact interval of the count
)

// Flags say what is unusual about a figure.
type Flags uint16

// The flags, as answers name them.
const (
	FlagLoss        Flags = 1 << iota // samples were lost on the way: the rate was corrected by the exporter's pool
	FlagRate                          // the exporter's rate does not fit its pool by more than 10 %: corrected
	FlagReset                         // an exporter restarted: what was lost then is unknown
	FlagClock                         // its clock is off: intervals are cut by the agent's
	FlagImplausible                   // more than the port's speed allows
	FlagMismatch                      // three times running the samples did not fit the interface's counters
	FlagByAddress                     // counted by address, as the exporter names no port
	FlagTruncated                     // more distinct rows than an interval holds: some traffic is not attributed
	FlagSpread                        // counted while nobody read: spread evenly over the time, in which it was at any

	// Where a figure is from. Sum sets them; they are not kept, and are no names.
	flagPoint  Flags = 1 << 14 // a host counted by itself
	flagSwitch Flags = 1 << 15 // a switch sampled
)

// Source names where a figure is from: sflow, probe, or both.
func (f Flags) Source() string {
	switch f & (flagPoint | flagSwitch) {
	case flagPoint:
		return "probe"
	case flagPoint | flagSwitch:
		return "probe+sflow"
	}
	return "sflow"
}

// Names returns the names of the set flags, in order; never nil.
func (f Flags) Names() []string {
	out := []string{}
	for i, n := range [...]string{"loss", "rate", "reset", "clock", "implausible", "mismatch", "by_address", "truncated", "spread"} {
		if f&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

// Sums are figures that add. Variances are of the estimates, in octets² and packets².
type Sums struct {
	Samples   uint64  `json:"n"`
	Bytes     uint64  `json:"b"`  // frames with FCS
	L3        uint64  `json:"l3"` // IP packets
	Packets   uint64  `json:"p"`
	Var       float64 `json:"v"`
	PacketVar float64 `json:"pv"`
	Flags     Flags   `json:"f,omitempty"`
}

// Add adds o. Counts stop at their maximum.
func (s *Sums) Add(o Sums) {
	s.Samples = plus(s.Samples, o.Samples)
	s.Bytes, s.L3, s.Packets = plus(s.Bytes, o.Bytes), plus(s.L3, o.L3), plus(s.Packets, o.Packets)
	s.Var += o.Var
	s.PacketVar += o.PacketVar
	s.Flags |= o.Flags
}

func plus(a, b uint64) uint64 {
	if c := a + b; c >= a {
		return c
	}
	return math.MaxUint64
}

// Bound returns the half widths of the 95 % intervals of octets and packets, and whether there were too few samples for more than a
// rough one. With 30 samples or more it is 1.96 standard deviations: of N(N-1)·Σlen² for 1-in-N sampling. Below that it is the upper
// exact Poisson limit of the count, times what a sample stood for.
func (s *Sums) Bound() (bytes, packets float64, low bool) {
	bytes, packets = z95*math.Sqrt(s.Var), z95*math.Sqrt(s.PacketVar)
	if s.Samples == 0 || s.Samples >= lowSamples || s.PacketVar == 0 {
		return bytes, packets, false
	}
	n := float64(s.Samples)
	wide := (poisson.Upper(int(s.Samples)) - n) / n
	return max(bytes, wide*float64(s.Bytes)), max(packets, wide*float64(s.Packets)), true
}

// fold is one run of samples with one rate.
type fold struct {
	samples, size, l3, square uint64
}

func (f *fold) add(size, l3 uint32) {
	f.samples++
	f.size += uint64(size)
	f.l3 += uint64(l3)
	f.square += uint64(size) * uint64(size)
}

// scaled returns what the samples stand for, each for n packets. n is at least 1.
func (f *fold) scaled(n float64) Sums {
	n = max(n, 1)
	return Sums{
		Samples: f.samples, Bytes: round(n * float64(f.size)), L3: round(n * float64(f.l3)), Packets: round(n * float64(f.samples)),
		Var: n * (n - 1) * float64(f.square), PacketVar: n * (n - 1) * float64(f.samples),
	}
}

// exact is scaled for a whole rate, without rounding where the product fits.
func (f *fold) exact(n uint32) Sums {
	s := f.scaled(float64(n))
	if m := uint64(n); f.size <= math.MaxUint64/max(m, 1) {
		s.Bytes, s.L3, s.Packets = m*f.size, m*f.l3, m*f.samples
	}
	return s
}

func round(v float64) uint64 {
	if v >= math.MaxUint64 {
		return math.MaxUint64
	}
	return uint64(v + 0.5)
}
