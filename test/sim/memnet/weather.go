package memnet

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Weather is what wires do to what they carry. The parts are between 0 and 1. Streams are late, as under TCP that sends again, and never
// wrong.
type Weather struct {
	Loss, Duplicate, Reorder float64
	Jitter                   time.Duration // at most
	MTU                      int           // octets of a packet; 0: any
}

type sky struct {
	Weather
	rnd  *rand.Rand
	calm map[netip.Addr]bool
}

// Storm makes every wire bad from now on, but those of the hosts that are named. The same seed draws the same numbers.
func (n *Net) Storm(seed uint64, w Weather, calm ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sky = &sky{Weather: w, rnd: rand.New(rand.NewPCG(seed, 9)), calm: map[netip.Addr]bool{}}
	for _, ip := range calm {
		n.sky.calm[netip.MustParseAddr(ip)] = true
	}
}

// Mute parts two hosts in one direction, or joins them again.
func (n *Net) Mute(from, to string, mute bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mute[[2]netip.Addr{netip.MustParseAddr(from), netip.MustParseAddr(to)}] = mute
	n.wires.wake()
	for _, h := range n.hosts {
		for s := range h.streams {
			s.wake()
		}
	}
}

// over returns the weather between two hosts, nil where it is fine. The caller holds mu.
func (n *Net) over(a, b netip.Addr) *sky {
	if n.sky == nil || n.sky.calm[a] || n.sky.calm[b] {
		return nil
	}
	return n.sky
}

func (y *sky) hits(part float64) bool { return y.rnd.Float64() < part }

func (y *sky) late() time.Duration { return time.Duration(y.rnd.Int64N(int64(y.Jitter) + 1)) }

const resend = time.Second // what a lost segment costs a stream
