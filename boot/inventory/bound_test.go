package inventory

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestBound: a report of a stranger lies as it likes; what is kept of it is bounded, and harmless on a terminal.
func TestBound(t *testing.T) {
	r := &Report{
		Serial: "\x1b]0;owned\x07SN\u202e-9", UUID: "not-a-uuid", Vendor: strings.Repeat("x", 1000), Memory: 1 << 63, CPUs: []CPU{{Cores: -5, Threads: 8}},
		NICs: []NIC{{MAC: "52:54:00:88:00:99"}, {MAC: "52:54:00:88:00:9A"}, {MAC: "\n"}}, Disks: make([]Disk, 5000), Faults: make([]Fault, 5000),
	}
	r.NICs[0].Neighbour = &Neighbour{Port: "\x1b[2Jge-0/0/7"}
	r.Disks[0].Signatures = []string{"\x00gpt"}
	r.Bound()
	if r.Serial != "]0;owned SN -9" || r.UUID != "" || len(r.Vendor) != 128 || r.CPUs[0] != (CPU{Threads: 8}) {
		t.Errorf("%q %q %d %+v", r.Serial, r.UUID, len(r.Vendor), r.CPUs)
	}
	if len(r.NICs) != 1 || r.NICs[0].MAC != "52:54:00:88:00:99" || r.NICs[0].Neighbour.Port != "[2Jge-0/0/7" {
		t.Errorf("%+v", r.NICs)
	}
	if last := r.Faults[len(r.Faults)-1]; len(r.Disks) != MaxList || len(r.Faults) != MaxList || last.Error != "128 of 5000 are kept" || r.Disks[0].Signatures[0] != "gpt" {
		t.Errorf("%d disks, %d faults, %+v, %+v", len(r.Disks), len(r.Faults), last, r.Disks[0])
	}
	r.UUID = "4c4c4544-0042-3510-8051-b4c04f4d3132"
	before, _ := json.Marshal(r)
	r.Bound()
	if after, _ := json.Marshal(r); string(after) != string(before) {
		t.Errorf("a bounded report changed:\n%s\n%s", before, after)
	}
}

func TestPlaceholder(t *testing.T) {
	for _, s := range []string{"", "0", "00000000", "XXXX", "To Be Filled By O.E.M.", "Default string", " None "} {
		if !Placeholder(s) {
			t.Errorf("%q is taken for a serial number", s)
		}
	}
	for _, s := range []string{"SN-M1", "01", "CZJ123", "7MBTW52"} {
		if Placeholder(s) {
			t.Errorf("%q is taken for a placeholder", s)
		}
	}
}

// FuzzBound: any report that JSON can make is bounded, twice is once, and its size has a limit that hangs on MaxList alone.
func FuzzBound(f *testing.F) {
	f.Add([]byte(`{"serial":"\u001b[2J","nics":[{"mac":"52:54:00:88:00:99","neighbour":{"port":"\u0000"}}],"disks":[{"name":"sda","sizeBytes":1}],"faults":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Report
		if json.Unmarshal(b, &r) != nil {
			return
		}
		r.Bound()
		once, err := json.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range string(once) {
			if c < ' ' || c > '~' {
				t.Fatalf("%q is kept", c)
			}
		}
		r.Bound()
		if again, _ := json.Marshal(&r); string(again) != string(once) {
			t.Fatalf("bounded twice:\n%s\n%s", once, again)
		}
	})
}
