package dhcp

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// corpusEnv names a directory of recorded data whose licences do not allow copying: `make test-corpus CORPUS=DIR` sets it.
const corpusEnv = "SKERRY_CORPUS"

// TestCorpus feeds recorded payloads to Handle: what a client asked is understood, and nothing that is no DHCPv4 is answered.
func TestCorpus(t *testing.T) {
	root := os.Getenv(corpusEnv)
	if root == "" {
		t.Skip("no corpus: make test-corpus CORPUS=DIR")
	}
	files, err := filepath.Glob(filepath.Join(root, "dhcp", "*.hex"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no payloads in %s: %v", root, err)
	}
	fa := facts()
	for i := range fa.Subnets {
		fa.Subnets[i].AnyClient = true
	}
	v := view(t, fa)
	// The first calls itself a BIOS, and is a Raspberry Pi: by its MAC address, and by the serial number four times over as UUID.
	arch := map[string]string{"citron_x86_tftp_discover.hex": "rpi", "citron_x86_64_http_discover.hex": "x64-http"}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		p := packet(b)
		p.Repeat = 1
		r, e := Handle(p, v)
		replayed(t, fa, p)
		known := fa // the same sender as a machine of ours
		if mac := e.Event.MAC; mac != (MAC{}) {
			known.Hosts = append(slices.Clone(fa.Hosts), Host{MAC: mac, Name: "seen", Addr: ip("10.88.0.30"), Boot: true})
		}
		replayed(t, known, p)
		name := filepath.Base(f)
		t.Logf("%s: %s %s %s, reply of %d octets", name, e.Event.Type, e.Event.Reason, e.Event.Arch, len(r.Bytes))
		four := len(b) > 240 && b[0] == 1 && string(b[236:240]) == "\x63\x82\x53\x63"
		switch {
		case !four && len(r.Bytes) > 0:
			t.Errorf("%s is no DHCPv4 request and was answered", name)
		case four && !strings.Contains(name, "Bad") && e.Event.Type != "DISCOVER":
			t.Errorf("%s is a DISCOVER and was taken for %q", name, e.Event.Type)
		case arch[name] != "" && e.Event.Arch != arch[name]:
			t.Errorf("%s: architecture %q, want %q", name, e.Event.Arch, arch[name])
		}
	}
}
