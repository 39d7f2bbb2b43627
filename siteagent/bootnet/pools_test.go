package bootnet

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/skerry-metal/skerry/boot/dhcp"
)

// TestPoolLow: a dynamic range that is nearly used up is told of once, also over a restart, and again when there is room.
func TestPoolLow(t *testing.T) {
	b := newBench(t)
	b.receive(b.author.Put(strings.Replace(poolDoc, `"prefix"`, `"dhcp":"authoritative","dynamic":{"from":"10.88.9.10","to":"10.88.9.29"},"prefix"`, 1)))
	lease := func(from, to int, left time.Duration) {
		t.Helper()
		for i := from; i <= to; i++ {
			l := dhcp.Lease{MAC: dhcp.MAC{0x52, 0x54, 1, 0, 0, byte(i)}, Addr: netip.AddrFrom4([4]byte{10, 88, 9, byte(i)}), Until: time.Now().Add(left), Agent: "a1"}
			if err := b.answers.Commit(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}
	}
	life := func(want ...string) {
		t.Helper()
		for range 3 {
			b.answers.offered = time.Time{}
			b.answers.refresh()
			b.drain()
		}
		if d := cmp.Diff(want, b.told()); d != "" {
			t.Fatal(d)
		}
	}
	lease(10, 26, time.Hour)
	life()
	lease(27, 27, time.Hour)
	life("dhcp.pool.low boot   ")
	var metrics bytes.Buffer
	b.answers.writeRooms(&metrics)
	if want := "skerry_dhcp_pool_addresses{subnet=\"boot\"} 20\nskerry_dhcp_pool_used{subnet=\"boot\"} 18\n"; metrics.String() != want {
		t.Fatalf("%s", metrics.String())
	}
	lease(27, 27, -2*time.Hour) // 17 of 20: neither
	life("dhcp.pool.low boot   ")
	lease(26, 26, -2*time.Hour)
	life("dhcp.pool.low boot   ", "dhcp.pool.ample boot   ")
}
