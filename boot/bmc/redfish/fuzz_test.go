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

// FuzzBIOS: whatever a controller sends as its BIOS settings and as what their reset asks for, what goes out is bounded, and named by it.
func FuzzBIOS(f *testing.F) {
	f.Add([]byte(`{"ResetBiosToDefaultsPending":true,"Actions":{"#Bios.ResetBios":{"target":"/x"}}}`), []byte(`{"Parameters":[{"Name":"ResetType","Required":true,"AllowableValues":["Reset"]}]}`))
	f.Add([]byte(`{"ResetBiosToDefaultsPending":null,"Actions":null}`), []byte(`{"Parameters":[{},{"Required":true}]}`))
	f.Fuzz(func(t *testing.T, doc, params []byte) {
		var b bios
		if json.Unmarshal(doc, &b) == nil && b.pending() && b.Pending == nil {
			t.Fatal("pending, and nothing said so")
		}
		var info actionInfo
		if json.Unmarshal(params, &info) != nil {
			return
		}
		if body, err := info.body(); len(body) > maxParameters || err == nil && len(body) > len(info.Parameters) {
			t.Fatalf("%d parameters of %d", len(body), len(info.Parameters))
		}
	})
}
