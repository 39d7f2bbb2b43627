package discovery

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/api/discovery"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// box is a sighting of a machine with that serial number and those cards; the first one booted.
func box(serial, uuid string, macs ...string) record {
	return record{
		Facts: reconcile.Facts{
			Serial: serial, UUID: uuid, Vendor: "ACME", Product: "R1", CPUs: 8, MemoryMiB: 16384, MACs: macs, Firmware: "uefi",
			Disks: []reconcile.DiskFacts{{DiskID: intent.DiskID{Serial: "D1", SizeBytes: 480 << 30}, Media: "ssd"}, {DiskID: intent.DiskID{Serial: "D2", SizeBytes: 480 << 30}, Media: "ssd"}},
		},
		seen: seen{ID: IDOf(macs[0])},
	}
}

const (
	mac1, mac2, mac3 = "52:54:00:88:00:01", "52:54:00:88:00:02", "52:54:00:88:00:03"
	uuid1, uuid2     = "00000000-0000-4000-8000-0000000000a1", "00000000-0000-4000-8000-0000000000a2"
)

// TestJudge: who a discovered machine is, what speaks against it, what type suits and what Machine is proposed; as goldens.
func TestJudge(t *testing.T) {
	declared := map[string]known{
		"m1": {Serial: "SN-1", UUID: uuid1, MACs: map[string]bool{mac1: true}},
		"m2": {MACs: map[string]bool{mac2: true}}, // declared by its MAC alone
	}
	types := map[string]*intent.MachineTypeSpec{
		"large": {CPU: intent.Range{Min: 16}, MemoryMB: intent.Range{Min: 65536}, Disks: []intent.DiskClass{{Media: "nvme", Count: intent.Range{Min: 2, Max: 2}, MinBytes: 960 << 30}}},
		"small": {CPU: intent.Range{Min: 1, Max: 4}, MemoryMB: intent.Range{Min: 256}},
	}
	signed := box("SN-9", uuid2, mac3)
	signed.Facts.Signed = true
	fits := box("SN-9", uuid2, mac3)
	fits.Facts.CPUs = 4
	for name, c := range map[string]struct {
		r      record
		others []record
	}{
		"new":               {r: fits},
		"new-two-cards":     {r: box("SN-9", uuid2, mac3, "52:54:00:88:00:04")},
		"data-on-a-disk":    {r: signed},
		"declared":          {r: box("SN-1", uuid1, mac1)},
		"declared-by-mac":   {r: box("SN-7", uuid2, mac2)},
		"second-card":       {r: box("SN-1", uuid1, mac3, mac1)},
		"card-moved":        {r: box("SN-9", uuid2, mac1)},
		"card-of-another":   {r: box("", "", mac1)},
		"serial-twice":      {r: box("SN-1", uuid2, mac3)},
		"uuid-twice":        {r: box("SN-9", uuid1, mac3)},
		"no-serial":         {r: box("To be filled by O.E.M.", "", mac3)},
		"twin-among-others": {r: box("SN-9", uuid2, mac3), others: []record{box("SN-9", uuid2, "52:54:00:88:00:05"), box("SN-8", uuid1, "52:54:00:88:00:06")}},
	} {
		v := judge(c.r, newDirectory(declared), c.others)
		var got any = map[string]string{"owner": v.Owner}
		if v.Owner == "" {
			got = shown(c.r, v, types)
		}
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(b)+"\n"); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
}

// TestPlace: of a full list those go that were not seen for longest; declared ones before, ignored ones last; a port fills no more than its
// share; a box keeps its place whichever card it boots by.
func TestPlace(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	begun := time.Unix(1_800_000_000, 0)
	have := map[string]kept{}
	stranger := func(i int) record {
		r := box(fmt.Sprintf("SN-%d", i), "", fmt.Sprintf("52:54:01:%02x:%02x:%02x", i>>16&255, i>>8&255, i&255))
		r.Last = begun.Add(time.Duration(i) * time.Second)
		return r
	}
	for i := range MaxKept {
		at, again := place(have, stranger(i))
		if _, taken := have[at]; again || taken {
			t.Fatalf("%d takes %s, again %v, taken %v", i, at, again, taken)
		}
		have[at] = kept{record: stranger(i)}
	}
	find := func(i int) string {
		for at, k := range have {
			if k.ID == stranger(i).ID {
				return at
			}
		}
		t.Fatalf("%d is not there", i)
		return ""
	}
	i := rnd.IntN(MaxKept)
	if at, again := place(have, stranger(i)); at != find(i) || !again {
		t.Errorf("%d, which is there, takes %s, again %v", i, at, again)
	}
	if at, again := place(have, stranger(1000)); at != find(0) || again {
		t.Errorf("a new one takes %s and not that of the oldest", at)
	}
	k := have[find(0)]
	k.ignored = &discovery.Ignored{}
	have[find(0)] = k
	if at, _ := place(have, stranger(1000)); at != find(1) {
		t.Errorf("a new one takes %s and not that of the oldest that is not ignored", at)
	}
	k = have[find(200)]
	k.declared = true
	have[find(200)] = k
	if at, _ := place(have, stranger(1000)); at != find(200) {
		t.Errorf("a new one takes %s and not that of the declared one", at)
	}
	two := box("SN-5", "", "52:54:02:00:00:01", "52:54:01:00:00:05")
	k = have[find(5)]
	k.Facts.MACs = append(k.Facts.MACs, "52:54:02:00:00:01")
	have[find(5)] = k
	if at, again := place(have, two); at != find(5) || !again {
		t.Errorf("a box that boots by its other card takes %s, again %v", at, again)
	}
	two.Facts.MACs = two.Facts.MACs[:1] // it does not know the other's card: it only says the same serial number
	if at, again := place(have, two); again {
		t.Errorf("who says the serial number of another one takes its place %s", at)
	}
	for _, i := range []int{10, 20, 30, 40} {
		k := have[find(i)]
		k.Port = discovery.FoundPort{Relay: "10.88.3.1", Circuit: "ge-0/0/7"}
		have[find(i)] = k
	}
	r := stranger(1000)
	r.Port = discovery.FoundPort{Relay: "10.88.3.1", Circuit: "ge-0/0/7"}
	if at, _ := place(have, r); at != find(10) {
		t.Errorf("the fifth of a port takes %s and not that of the oldest of the port", at)
	}
}
