package effective

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/skerry-metal/skerry/mesh/intent"
	"pgregory.net/rapid"
)

func machine(i int, address string) *intent.Object {
	created := time.Unix(int64(1000+i), 0)
	return &intent.Object{
		APIVersion: intent.APIVersion, Kind: intent.KindMachine,
		Metadata: intent.Metadata{Name: fmt.Sprintf("m%d", i), Site: "lon1", UID: fmt.Sprintf("uid-%d", i), Created: &created},
		Spec:     &intent.MachineSpec{NICs: []intent.NIC{{MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255), Boot: true, Address: address}}},
	}
}

// TestAddresses: whatever machines there are, no address is given twice, none is an agent's, a relay's or the gateway's, each lies in the
// static range, and a machine that comes later moves nobody who was there.
func TestAddresses(t *testing.T) {
	pool := &intent.Object{
		APIVersion: intent.APIVersion, Kind: intent.KindSubnetPool, Metadata: intent.Metadata{Name: "boot", Site: "lon1", UID: "p1"},
		Spec: &intent.SubnetPoolSpec{Prefix: "10.88.0.0/24", Gateway: "10.88.0.1", Relays: []string{"10.88.0.30"}, Static: &intent.AddrRange{From: "10.88.0.1", To: "10.88.0.60"}},
	}
	roster := &intent.RosterBody{Agents: []intent.RosterAgent{{ID: "a1", Boot: []string{"10.88.0.11"}}}}
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfNDistinct(rapid.IntRange(0, 500), 1, 80, rapid.ID[int]).Draw(t, "machines")
		c := intent.NewCatalog(pool)
		newest := 0
		for _, i := range ids {
			address := ""
			if rapid.IntRange(0, 9).Draw(t, "declared") == 0 {
				address = fmt.Sprintf("10.88.0.%d", 100+i%100) // declared addresses may lie outside the static range
			}
			c.Put(machine(i, address))
			newest = max(newest, i)
		}
		got := Addresses(c, roster, "lon1")
		by := map[netip.Addr]string{}
		for mac, n := range got {
			switch {
			case slices.Contains([]string{"10.88.0.11", "10.88.0.1", "10.88.0.30"}, n.Addr.String()):
				t.Fatalf("%s gets %s, which is taken", mac, n.Addr)
			case n.Addr.As4()[3] > 60 && n.Addr.As4()[3] < 100:
				t.Fatalf("%s gets %s, outside the static range", mac, n.Addr)
			case by[n.Addr] != "" && n.Addr.As4()[3] < 100:
				t.Fatalf("%s is given to %s and %s", n.Addr, by[n.Addr], mac)
			}
			by[n.Addr] = mac
		}
		before := maps.Clone(got)
		c.Put(machine(newest+1, ""))
		after := Addresses(c, roster, "lon1")
		for mac, n := range before {
			if d := cmp.Diff(n.Addr.String(), after[mac].Addr.String()); d != "" {
				t.Fatalf("a newcomer moved %s: %s", mac, d)
			}
		}
	})
}
