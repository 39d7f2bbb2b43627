package redfish

import (
	"encoding/json"
	"testing"

	"github.com/skerry-metal/skerry/boot/bmc"
)

// FuzzSystem: whatever a controller sends as its system, reading it neither panics nor invents a state.
func FuzzSystem(f *testing.F) {
	f.Add([]byte(`{"PowerState":"On","AssetTag":"skerry/lon1/1.65537","Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`))
	f.Add([]byte(`{"PowerState":null,"Boot":null,"Links":{"ManagedBy":[{}]},"Actions":{"#ComputerSystem.Reset":{"ResetType@Redfish.AllowableValues":[""]}}}`))
	c := &Controller{cfg: Config{Site: "lon1"}}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s system
		if json.Unmarshal(b, &s) != nil {
			return
		}
		s.actions()
		s.devices()
		s.modes()
		s.override()
		if p := s.power(); s.PowerState == "" && p != bmc.PowerStateUnknown {
			t.Fatalf("no power state reads as %s", p)
		}
		e, ours := c.parseTag(s.AssetTag)
		if ours && c.tag(e) == "" || !ours && e.N != 0 {
			t.Fatal("tag")
		}
		neverETag(s.ETag)
	})
}
