package ipmi

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/boot/bmc"
	sim "github.com/skerry-metal/skerry/test/sim/ipmi"
)

// full packs a full sensor record. Source: table 43-1.
func full(number, kind, units, unit, linear byte, m, b, rExp, bExp int, name string) []byte {
	r := make([]byte, fullSize, fullSize+len(name))
	r[2], r[3], r[4] = 0x51, recordFull, byte(fullSize-recordHeader+len(name))
	r[5], r[7], r[8], r[9], r[12], r[13] = addressBMC, number, 7, 1, kind, threshold
	r[20], r[21], r[23] = units, unit, linear
	r[24], r[25], r[26], r[27] = byte(m), byte(m>>8)<<6, byte(b), byte(b>>8)<<6
	r[29] = byte(rExp)<<4 | byte(bExp)&0x0f
	r[47] = 0xc0 | byte(len(name))
	return append(r, name...)
}

const (
	scanned = 0xc0 // events and scanning enabled
	gone    = 0xe0 // and the reading is unavailable
)

func simSensors() []sim.Sensor {
	return []sim.Sensor{
		{Record: full(1, 1, 0x80, 1, 0, 1, 0, 0, 0, "Inlet"), Reading: []byte{0xec, scanned, 0}},                                             // -20
		{Record: full(2, 1, 0, 1, 0, 5, -100, -1, 1, "CPU"), Reading: []byte{250, scanned, 0}},                                               // (1250-1000)/10
		{Record: full(3, 4, 0, 18, 0, 60, 0, 0, 0, "Fan 1"), Reading: []byte{100, scanned, 0}},                                               // 6,000
		{Record: full(4, 4, 1, 0, 0, 392, 0, -3, 0, "Fan 2"), Reading: []byte{250, scanned, 0}},                                              // 98 %
		{Record: full(5, 2, 0, 4, 0, 59, 0, -3, 0, "12 V"), Reading: []byte{203, scanned, 0}},                                                // 11.977
		{Record: full(6, 8, 0, 6, 0, 4, 0, 0, 0, "PSU"), Reading: []byte{0, gone}},                                                           // unknown, not 0
		{Record: full(7, 1, 0, 1, 0, 1, 0, 0, 0, "DIMM"), Reading: []byte{0, 0x80, 0}},                                                       // scanning is off
		{Record: full(8, 1, 0, 2, 0, 1, 0, 0, 0, "Fahrenheit"), Reading: []byte{212, scanned, 0}},                                            // 100
		{Record: full(9, 1, 0, 1, 0x70, 1, 0, 0, 0, "Table"), Reading: []byte{1, scanned, 0}},                                                // needs a table
		{Record: full(10, 1, 0, 1, 7, 1, 0, 0, 0, "Inverse"), Reading: []byte{0, scanned, 0}},                                                // 1/0
		{Record: full(11, 0xb, 0, 5, 0, 1, 0, 0, 0, "Joules"), Reading: []byte{1, scanned, 0}},                                               // not kept
		{Record: append(full(12, 1, 0, 1, 0, 1, 0, 0, 0, "")[:47], 0xdf), Reading: []byte{1, scanned}},                                       // claims 31 octets of name, has none
		{Record: []byte{0, 0, 0x51, 0x02, 27, addressBMC, 0, 13, 7, 1, 0, 0, 8, 0x6f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, // compact
	}
}

func simReadings() []bmc.Sensor {
	return []bmc.Sensor{
		{Name: "Inlet", ID: "7.1.1", Unit: bmc.UnitCelsius, Value: -20, Known: true},
		{Name: "CPU", ID: "7.1.2", Unit: bmc.UnitCelsius, Value: 25, Known: true},
		{Name: "Fan 1", ID: "7.1.3", Unit: bmc.UnitRPM, Value: 6000, Known: true},
		{Name: "Fan 2", ID: "7.1.4", Unit: bmc.UnitPercent, Value: 98, Known: true},
		{Name: "12 V", ID: "7.1.5", Unit: bmc.UnitVolts, Value: 11.977, Known: true},
		{Name: "PSU", ID: "7.1.6", Unit: bmc.UnitWatts},
		{Name: "DIMM", ID: "7.1.7", Unit: bmc.UnitCelsius},
		{Name: "Fahrenheit", ID: "7.1.8", Unit: bmc.UnitCelsius, Value: 100, Known: true},
		{Name: "Inverse", ID: "7.1.10", Unit: bmc.UnitCelsius},
		{Name: "sensor 12", ID: "7.1.12", Unit: bmc.UnitCelsius, Value: 1, Known: true},
	}
}

func near(a, b []bmc.Sensor) string {
	return cmp.Diff(a, b, cmp.Comparer(func(x, y float64) bool { return math.Abs(x-y) < 1e-9 }))
}

// TestSensors: what has a number is read with its unit; what has none now is unknown, never 0. A repository that goes round ends, one
// whose reservation is taken away is read all the same. Descriptions are read once.
func TestSensors(t *testing.T) {
	for _, faults := range [][]sim.Fault{nil, {sim.SDRLoops}, {sim.SDRCancels}, {sim.Lossy}, {sim.Forgets}} {
		x := newBox(t, faults...)
		c := x.driver()
		c.pace.answer = 10 * time.Millisecond
		for range 2 {
			got, err := c.Sensors(t.Context())
			if err != nil {
				t.Fatalf("%v: %v", faults, err)
			}
			if d := near(simReadings(), got); d != "" {
				t.Fatalf("%v:\n%s", faults, d)
			}
		}
		first := slices.IndexFunc(x.b.Commands(), func(l string) bool { return strings.HasPrefix(l, "04/2d") })
		last := len(x.b.Commands())
		for i, l := range x.b.Commands() {
			if strings.HasPrefix(l, "0a/") {
				last = i
			}
		}
		if last > first {
			t.Fatalf("%v: descriptions are read again", faults)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSensorsGoOn: a repository that takes longer than a poll lasts is read over several; sensors that were not reached are unknown, and
// are the first ones the next time.
func TestSensorsGoOn(t *testing.T) {
	x := newBox(t)
	c, err := New(Config{Address: x.addr, User: "admin", Password: "secret", Logger: x.driver().cfg.Logger, RatePerSec: 100})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for try := 0; len(known) < 7; try++ {
		if try == 200 {
			t.Fatalf("only %v were read", known)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
		got, err := c.Sensors(ctx)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		for _, s := range got {
			if s.Known {
				known[s.Name] = true
			} else if s.Value != 0 {
				t.Fatalf("%+v", s)
			}
		}
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestLinear: the formulas of section 36.3, and both kinds of signs.
func TestLinear(t *testing.T) {
	f := func(linear, format, raw byte, want float64) {
		t.Helper()
		a := analogue{linear: linear, signed: format, m: 1}
		if v, ok := a.value(raw); !ok || math.Abs(v-want) > 1e-9 {
			t.Fatalf("linearisation %d of %d: %v %v, want %v", linear, raw, v, ok, want)
		}
	}
	f(0, 1, 0xfe, -1)
	f(0, 2, 0xff, -1)
	f(1, 0, 1, 0)
	f(2, 0, 100, 2)
	f(3, 0, 8, 3)
	f(4, 0, 0, 1)
	f(5, 0, 2, 100)
	f(6, 0, 3, 8)
	f(7, 0, 4, 0.25)
	f(8, 0, 5, 25)
	f(9, 0, 3, 27)
	f(10, 0, 81, 9)
	f(11, 0, 27, 3)
	for _, raw := range []byte{0} {
		if _, ok := (analogue{linear: 2, m: 1}).value(raw); ok {
			t.Fatal("the logarithm of nothing")
		}
	}
}

// FuzzWire: no packet, and nothing in one, may panic or be believed without its code.
func FuzzWire(f *testing.F) {
	k := keys{suite: suites()[1], ours: 1, theirs: 1}
	if err := k.derive([]byte("k")); err != nil {
		f.Fatal(err)
	}
	f.Add(k.seal(request(cmdDeviceID, 1, nil)))
	f.Add(bare(payloadOpenResponse, make([]byte, 36)))
	f.Add(bare(payloadRAKP2, make([]byte, 60)))
	f.Fuzz(func(t *testing.T, b []byte) {
		anything(t, keys{suite: k.suite, ours: 1, k1: []byte("another"), aes: k.aes}, b)
	})
}

// TestCorpus: recorded packets, read at every offset, are none of ours.
func TestCorpus(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(os.Getenv("SKERRY_CORPUS"), "ipmi", "*.pcap"))
	if err != nil || len(files) == 0 {
		t.Skip("set by make test-corpus")
	}
	k := keys{suite: suites()[0], ours: 1}
	if err := k.derive([]byte("k")); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			anything(t, k, b[i:])
		}
	}
}

// anything gives octets to every parser. Nothing is believed, and nothing without bound comes out.
func anything(t *testing.T, mine keys, b []byte) {
	t.Helper()
	if m, err := mine.open(b); err == nil {
		t.Fatalf("believed %x", m)
	}
	for _, s := range suites() {
		if theirs, err := parseOpen(b, s, 1); err == nil && theirs == 0 && len(b) < 36 {
			t.Fatal("a session out of nothing")
		}
		_, _, _, _ = parseRAKP2(b, s, 1)
		_, _ = parseRAKP4(b, s, 1)
	}
	_, _, _, body, _, _ := unpack(b)
	for _, p := range [][]byte{b, body} {
		_, _, _ = response(p, cmdDeviceID, 1)
		_, _ = parseBoot(p)
		_, _ = parseReading(p)
		_, _, _ = parseGetSDR(p)
		if a, ok := parseSDR(p); ok {
			if a.name == "" || len(a.name) > 64 {
				t.Fatalf("name %q", a.name)
			}
			if v, ok := a.value(b[0]); ok && (math.IsNaN(v) || math.IsInf(v, 0)) {
				t.Fatal(v)
			}
		}
	}
}

// FuzzFRU: areas of any content give bounded, printable strings.
func FuzzFRU(f *testing.F) {
	area := append([]byte{1, 2, 25, 0xc4, 'A', 'C', 'M', 'E', 0x82, 0x29, 0xdc, 0x42, 0x21, 0xc1, 0}, 0)
	area[15] = checksum(area[:15])
	f.Add(area)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 0 {
			b = slices.Clone(b)
			b[len(b)-1] = 0
			b[len(b)-1] = checksum(b)
		}
		for _, s := range []string{parseFRU(b, b, b).serial, parseFRU(b, nil, nil).serial, parseFRU(nil, b, b).maker} {
			if len(s) > 256 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
				t.Fatalf("%q", s)
			}
		}
	})
}

// TestText: the four kinds of strings of FRU and SDR.
func TestText(t *testing.T) {
	f := func(kind byte, b []byte, want string) {
		t.Helper()
		if got := text(kind, b, true); got != want {
			t.Fatalf("kind %d of %x: %q, want %q", kind, b, got, want)
		}
	}
	f(0, []byte{1, 2}, "")
	f(1, []byte{0x12, 0x3a}, "123")
	f(2, []byte{0x29, 0xdc, 0xa6}, "IPMI") // the specification's example, section 43.15
	f(3, []byte("SN 1\x00\xe9"), "SN 1é")
}
