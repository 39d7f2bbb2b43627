package doctor

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/ipmi"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

// off is a machine that stays off.
type off struct{}

func (off) On(context.Context) error       { return nil }
func (off) Off(context.Context) error      { return nil }
func (off) Reset(context.Context) error    { return nil }
func (off) Shutdown(context.Context) error { return nil }
func (off) PowerOn() bool                  { return false }

const uuid = "00112233-4455-4677-8899-aabbccddeeff"

func redfishBox(t *testing.T, faults ...bmc.Fault) (*bmc.BMC, string) {
	t.Helper()
	b := bmc.New(bmc.Config{User: "admin", Password: "secret", Firmware: vm.UEFIPXE, UUID: uuid, Serial: "SN1", Maker: "ACME", LoginTime: time.Millisecond}, off{})
	if err := b.SetFaults(faults...); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(b)
	t.Cleanup(srv.Close)
	return b, strings.TrimPrefix(srv.URL, "https://")
}

func ipmiBox(t *testing.T, faults ...ipmi.Fault) (*ipmi.BMC, string) {
	t.Helper()
	return ipmi.Start(t, ipmi.Config{User: "admin", Password: "secret", UUID: uuid, Serial: "SN1", Maker: "ACME"}, off{}, faults...)
}

// show writes a report in short: "NAME RESULT".
func show(r Report) string {
	lines := []string{r.Protocol + " " + string(r.Verdict)}
	for _, c := range r.Checks {
		lines = append(lines, c.Protocol+" "+c.Name+" "+string(c.Result))
	}
	return strings.Join(lines, "\n")
}

func says(r Report, name string) string {
	for _, c := range r.Checks {
		if c.Name == name {
			return c.Says
		}
	}
	return ""
}

// TestIPMI: what the driver can do, and what IPMI lacks, in words; a fault is named; nothing is written without leave.
func TestIPMI(t *testing.T) {
	f := func(write bool, want string, faults ...ipmi.Fault) Report {
		t.Helper()
		b, addr := ipmiBox(t, faults...)
		r := Examine(t.Context(), Config{IPMI: addr, User: "admin", Password: "secret", Rate: 500, Write: write, Limit: 20 * time.Second})
		if got := strings.TrimSpace(show(r)); got != strings.ReplaceAll(strings.TrimSpace(want), "\t", "") {
			t.Errorf("%v:\n%s", faults, got)
		}
		if !write && b.Writes() != 0 {
			t.Errorf("%v: %d writes", faults, b.Writes())
		}
		if _, set, _ := b.Boot(); set {
			t.Errorf("%v: the override stays", faults)
		}
		if n := b.Sessions(); n != 0 && !slices.Contains(faults, ipmi.OnlySuite0) { // half of one: the controller lets it go
			t.Errorf("%v: %d sessions", faults, n)
		}
		return r
	}
	f(false, `ipmi limited
		ipmi login works
		ipmi power works
		ipmi identity works
		ipmi boot works
		ipmi boot-write skipped
		ipmi fence limited
		ipmi sensors limited`)
	f(true, `ipmi limited
		ipmi login works
		ipmi power works
		ipmi identity works
		ipmi boot works
		ipmi boot-write works
		ipmi fence limited
		ipmi sensors limited`)
	r := f(true, `ipmi limited
		ipmi login works
		ipmi power works
		ipmi identity works
		ipmi boot works
		ipmi boot-write fails
		ipmi fence limited
		ipmi sensors limited`, ipmi.EnableReverts)
	if s := says(r, "boot-write"); !strings.Contains(s, "says yes and does not do it, a known quirk: enable-reverts") {
		t.Error(s)
	}
	r = f(true, `fails
		ipmi login fails`, ipmi.OnlySuite0)
	if s := says(r, "login"); !strings.Contains(s, "weaker cipher suite") {
		t.Error(s)
	}
}

// TestRedfish: the fence is tried only where that is allowed; a fault is named.
func TestRedfish(t *testing.T) {
	f := func(write bool, name string, want Result, text string, faults ...bmc.Fault) {
		t.Helper()
		b, addr := redfishBox(t, faults...)
		r := Examine(t.Context(), Config{Redfish: addr, User: "admin", Password: "secret", Rate: 500, Write: write, Limit: 20 * time.Second})
		i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.Name == name })
		if i < 0 || r.Checks[i].Result != want || !strings.Contains(r.Checks[i].Says, text) || r.Protocol != "redfish" {
			t.Errorf("%v, %s: %+v", faults, name, r)
		}
		for _, l := range b.Requests() {
			if !write && !strings.HasPrefix(l, "GET ") && !strings.Contains(l, "/Sessions") {
				t.Errorf("%v: it wrote: %s", faults, l)
			}
		}
		if n := b.Sessions(); n != 0 {
			t.Errorf("%v: %d sessions", faults, n)
		}
	}
	f(false, "fence", Skipped, "not tried")
	f(true, "fence", Works, "refuses a stale write")
	f(true, "fence", Limited, "strength soft", bmc.ETagIgnored)
	f(true, "boot-write", Works, "read back")
	f(true, "boot-write", Fails, "enable-reverts", bmc.EnableReverts)
	e := &examination{}
	if e.say("identity", Works, "%s", "ACME\x1b]0;pwned\a"); e.checks[0].Says != "ACME?]0;pwned?" {
		t.Errorf("%q", e.checks[0].Says)
	}
}

// TestInterrupted: whoever presses Ctrl-C while the override is tried gets it put back.
func TestInterrupted(t *testing.T) {
	b := bmc.New(bmc.Config{User: "admin", Password: "secret", Firmware: vm.UEFIPXE, UUID: uuid, Serial: "SN1", Maker: "ACME", LoginTime: time.Millisecond}, off{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	boots := 0
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.ServeHTTP(w, r)
		if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/Systems/") {
			boots++ // one request at a time
			cancel()
		}
	}))
	defer srv.Close()
	Examine(ctx, Config{Redfish: strings.TrimPrefix(srv.URL, "https://"), User: "admin", Password: "secret", Rate: 500, Write: true, Limit: 20 * time.Second})
	if boots < 2 || b.Sessions() != 0 {
		t.Errorf("the override was written %d times, %d sessions", boots, b.Sessions())
	}
}

// TestChoice: Redfish first; IPMI where there is none; a wrong password is tried once by each, and told in words without it.
func TestChoice(t *testing.T) {
	_, red := redfishBox(t)
	b, lan := ipmiBox(t)
	cfg := Config{Redfish: red, IPMI: lan, User: "admin", Password: "secret", Rate: 500, Limit: 20 * time.Second}
	if r := Examine(t.Context(), cfg); r.Protocol != "redfish" {
		t.Fatalf("%+v", r)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Redfish = ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if r := Examine(t.Context(), cfg); r.Protocol != "ipmi" {
		t.Fatalf("%+v", r)
	}
	before := len(b.Commands())
	cfg.Password = "Wrong0password"
	r := Examine(t.Context(), cfg)
	if r.Protocol != "" || r.Verdict != Fails || len(b.Commands()) != before {
		t.Fatalf("%+v", r)
	}
	for _, c := range r.Checks {
		if strings.Contains(c.Says, cfg.Password) {
			t.Fatal("the password is told")
		}
	}
	if !strings.Contains(show(r), "ipmi login fails") {
		t.Fatal(show(r))
	}
}
