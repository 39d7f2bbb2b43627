package gossip

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/mesh/transport"
	"github.com/skerry-metal/skerry/test/sim/memnet"
)

// TestApart: six agents of a site, of which three hear nothing of the other three for a while, all hear each other within a minute of the
// line's return. From an hour on nothing changes any more but Serf's ten years: seeds choose at which moment of all that is tried again and
// again the line comes back, and who is on which side.
func TestApart(t *testing.T) {
	f := func(least, spread time.Duration, runs int) {
		t.Helper()
		var worst time.Duration
		for range runs {
			seed := rand.Uint64()
			t.Run(fmt.Sprintf("%v, seed %d", least, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { worst = max(worst, apart(t, seed, least, spread)) })
			})
		}
		t.Logf("%d times apart for %v to %v: all heard each other within %v", runs, least, least+spread, worst)
	}
	for _, r := range tierApart() {
		f(r.least, r.spread, r.runs)
	}
}

// apartRun is how long a site is in two, and how often that is tried.
type apartRun struct {
	least, spread time.Duration
	runs          int
}

// apart parts a site of six for least to least+spread, and returns how long it took until all heard each other again.
func apart(t *testing.T, seed uint64, least, spread time.Duration) time.Duration {
	time.Sleep(time.Until(time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)))
	rnd, net, s := rand.New(rand.NewPCG(seed, 0)), memnet.New(), newSite(t)
	s.host = func(listen string) transport.Network {
		return net.Host(netip.MustParseAddrPort(listen).Addr().String())
	}
	var all []*member
	for i := range 6 {
		all = append(all, s.addAt(s.d.Unlisted("lon1", fmt.Sprintf("a%d", i+1)), fmt.Sprintf("10.0.0.%d:7444", i+1)))
	}
	defer func() {
		for _, m := range all {
			m.stop()
		}
		time.Sleep(2 * time.Minute) // memberlist does not wait for a probe under way
	}()
	// see waits until each agent hears as many others as it should, up to most.
	see := func(what string, most time.Duration, want func(i int) int) time.Duration {
		began := time.Now()
		for {
			even := true
			for i, m := range all {
				n := 0
				for _, o := range m.Members() {
					if o.Alive && o.ID != m.n.ID.ID {
						n++
					}
				}
				even = even && n == want(i)
			}
			if took := time.Since(began); even {
				return took
			} else if took > most {
				t.Fatalf("%s: not after %v", what, took)
			}
			time.Sleep(time.Second)
		}
	}
	everybody := func(int) int { return len(all) - 1 }
	see("from the start", time.Minute, everybody)
	side := rnd.Perm(len(all))
	cut := func(cut bool) {
		for i := range all {
			for j := range i {
				if (side[i] < 3) != (side[j] < 3) {
					net.Cut(fmt.Sprintf("10.0.0.%d", i+1), fmt.Sprintf("10.0.0.%d", j+1), cut)
				}
			}
		}
	}
	cut(true)
	began := time.Now()
	see("in two", 5*time.Minute, func(int) int { return 2 })
	time.Sleep(least - time.Since(began) + time.Duration(rnd.Int64N(int64(spread))))
	cut(false)
	return see("in one again", time.Minute, everybody)
}
