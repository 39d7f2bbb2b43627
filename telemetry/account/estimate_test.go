package account

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/skerry-metal/skerry/telemetry/account/poisson"
)

// TestBound: of 1,000 seeded trials, each with its own mix of packets and rate and at least 100 samples expected, the 95 % bound covers
// the truth in at least 93 %. Exact counts are exact.
func TestBound(t *testing.T) {
	// One seed: with others 93.9 to 95.7 % of octets are covered, and one in fifty would fall below by chance.
	const seed, trials = 1, 1000
	r := rand.New(rand.NewPCG(seed, 0))
	hitBytes, hitPackets := 0, 0
	for range trials {
		n := uint32(1 + r.IntN(400))
		expected := 100 + r.IntN(400)
		big := r.Float64()
		var truth, packets float64
		var f fold
		next := skip(r, n)
		for i := range expected * int(n) {
			size := uint32(64 + r.IntN(128))
			if r.Float64() < big {
				size = uint32(1200 + r.IntN(319))
			}
			truth += float64(size)
			packets++
			if i == next {
				f.add(size, size-18)
				next += skip(r, n)
			}
		}
		s := f.exact(n)
		b, p, low := s.Bound()
		if low {
			t.Fatalf("seed %d: %d samples are too few", seed, s.Samples)
		}
		if math.Abs(float64(s.Bytes)-truth) <= b {
			hitBytes++
		}
		if math.Abs(float64(s.Packets)-packets) <= p {
			hitPackets++
		}
	}
	t.Logf("seed %d: %d of %d cover octets, %d packets", seed, hitBytes, trials, hitPackets)
	if hitBytes < trials*93/100 || hitPackets < trials*93/100 {
		t.Errorf("seed %d: %d and %d of %d", seed, hitBytes, hitPackets, trials)
	}
}

// skip is how many packets an sFlow sampler counts down: independent samples of 1 in n.
func skip(r *rand.Rand, n uint32) int {
	if n == 1 {
		return 1
	}
	return 1 + int(math.Log(1-r.Float64())/math.Log(1-1/float64(n)))
}

// TestLow: below 30 samples the bound is the exact Poisson limit.
func TestLow(t *testing.T) {
	for n, want := range map[int]float64{0: 3.6889, 1: 5.5716, 10: 18.3904, 29: 41.6488} { // tables of chi-squared quantiles, halved
		if got := poisson.Upper(n); math.Abs(got-want) > 0.0005 {
			t.Errorf("%d seen: at most %v, want %v", n, got, want)
		}
	}
	f := fold{}
	for range 10 {
		f.add(1000, 982)
	}
	s := f.exact(100)
	b, p, low := s.Bound()
	if !low || math.Abs(b-839_040) > 10 || math.Abs(p-839.04) > 0.01 {
		t.Errorf("%v %v %v", b, p, low)
	}
	one := f.exact(1)
	if b, p, low := one.Bound(); b != 0 || p != 0 || low {
		t.Errorf("exact counts: %v %v %v", b, p, low)
	}
}

// TestSumsOverflow: counts stop at their maximum and never begin again.
func TestSumsOverflow(t *testing.T) {
	f := fold{samples: 1, size: math.MaxUint64 / 2, square: math.MaxUint64}
	s := f.exact(1000)
	s.Add(s)
	if s.Bytes != math.MaxUint64 || math.IsInf(s.Var, 0) {
		t.Errorf("%+v", s)
	}
}
