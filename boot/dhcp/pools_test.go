package dhcp

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRooms: what no new client may have counts once, whatever keeps it; of what an unheard agent keeps back it is said so.
func TestRooms(t *testing.T) {
	fa := facts() // 10.88.0.100 to .199
	fa.Agents[1].Heard = t0
	fa.Hosts = append(fa.Hosts, Host{MAC: MAC{4, 0, 0, 0, 0, 1}, Name: "m9", Addr: ip("10.88.0.100")})
	fa.Resting = map[netip.Addr]time.Time{ip("10.88.0.101"): t0.Add(time.Hour), ip("10.88.0.102"): t0.Add(-time.Hour), ip("10.88.0.100"): t0.Add(time.Hour)}
	lease := func(n int, until time.Time) {
		fa.Leases = append(fa.Leases, Lease{MAC: MAC{6, 0, 0, 0, 0, byte(n)}, Addr: ip(fmt.Sprintf("10.88.0.%d", n)), Until: until, Agent: "a1"})
	}
	lease(21, t0.Add(time.Hour))  // outside
	lease(100, t0.Add(time.Hour)) // reserved meanwhile
	lease(101, t0.Add(time.Hour)) // rests
	lease(110, t0.Add(time.Hour))
	lease(111, t0.Add(-quarantine/2))   // within the quarantine
	lease(112, t0.Add(-2*quarantine))   // over
	lease(113, t0.Add(-quarantine+1e9)) // a second within it
	if d := cmp.Diff([]Room{{Subnet: "rack", Size: 100, Used: 5}}, view(t, fa).Rooms(t0)); d != "" {
		t.Fatal(d)
	}
	fa.Agents[1].Heard = t0.Add(-24 * time.Hour)
	want := Room{Subnet: "rack", Size: 100, Used: 6, Kept: 1, Unsure: []string{"a2"}}
	if d := cmp.Diff([]Room{want}, view(t, fa).Rooms(t0)); d != "" {
		t.Fatal(d)
	}
	for n := 114; n < 198; n++ {
		lease(n, t0.Add(time.Hour))
	}
	for _, c := range []struct {
		at, heard  time.Time
		used       int
		low, ample bool
	}{{t0, t0, 89, false, false}, {t0.Add(-2 * quarantine), t0, 91, true, false}, {t0.Add(24 * time.Hour), t0.Add(24 * time.Hour), 1, false, true}} {
		fa.Agents[1].Heard = c.heard
		r := view(t, fa).Rooms(c.at)[0]
		if r.Used != c.used || r.Low() != c.low || r.Ample() != c.ample {
			t.Errorf("at %v: %+v, low %v, ample %v", c.at.Sub(t0), r, r.Low(), r.Ample())
		}
	}
}
