package inventory

import (
	"encoding/hex"
	"testing"
)

// frame is an LLDP frame of a switch sw1, port ge-0/0/7, as lldpd sends it.
const frame = "0180c200000e0cc47a000001" + "88cc" + "0207040cc47a000001" + "040905" + "67652d302f302f37" + "06020078" + "0805726f773337" + "0a03737731" + "fe0600120f0405dc" + "0000"

func TestParseLLDP(t *testing.T) {
	f := func(want Neighbour, ok bool, text string) {
		t.Helper()
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if n, got := ParseLLDP(b); n != want || got != ok {
			t.Errorf("%s: %+v, %v", text, n, got)
		}
	}
	whole := Neighbour{System: "sw1", Chassis: "0c:c4:7a:00:00:01", Port: "ge-0/0/7", Description: "row37"}
	f(whole, true, frame)
	f(Neighbour{Chassis: whole.Chassis, Port: whole.Port}, true, frame[:len(frame)-len("0a03737731fe0600120f0405dc0000")-4])
	f(Neighbour{Chassis: whole.Chassis}, false, frame[:len("0180c200000e0cc47a00000188cc0207040cc47a0000010409")])
	f(Neighbour{Port: "9b"}, true, "0180c200000e0cc47a00000188cc0402059b")
	f(Neighbour{}, false, frame[:24]+"0800"+frame[28:])
	f(Neighbour{}, false, "88cc")
}

// FuzzParseLLDP: whatever a neighbour sends, what is kept of it is short and printable.
func FuzzParseLLDP(f *testing.F) {
	b, err := hex.DecodeString(frame)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ok := ParseLLDP(b)
		if ok != (n.Port != "") {
			t.Fatalf("%+v, %v", n, ok)
		}
		for _, s := range []string{n.System, n.Chassis, n.Port, n.Description} {
			if clean(s) != s {
				t.Fatalf("%q is kept", s)
			}
		}
	})
}
