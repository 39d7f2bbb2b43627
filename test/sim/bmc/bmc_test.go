package bmc

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"

	"github.com/skerry-metal/skerry/test/sim/vm"
)

// fakePower is a machine without QEMU.
type fakePower struct {
	on     bool
	starts int
	start  func()
}

func (p *fakePower) On(context.Context) error {
	if !p.on {
		p.on = true
		p.starts++
		p.start()
	}
	return nil
}
func (p *fakePower) Off(context.Context) error       { p.on = false; return nil }
func (p *fakePower) Shutdown(context.Context) error  { p.on = false; return nil }
func (p *fakePower) Reset(ctx context.Context) error { p.on = false; return p.On(ctx) }
func (p *fakePower) PowerOn() bool                   { return p.on }

var _ Power = (*fakePower)(nil)

type bench struct {
	t     *testing.T
	b     *BMC
	p     *fakePower
	url   string
	boots []vm.Device
}

func newBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	cfg.User, cfg.Password = "admin", "secret"
	k := &bench{t: t, p: &fakePower{}}
	k.b = New(cfg, k.p)
	k.p.start = func() { k.boots = append(k.boots, k.b.NextBoot()) }
	s := httptest.NewServer(k.b)
	t.Cleanup(s.Close)
	k.url = s.URL
	return k
}

// do sends one request with basic auth and returns status, header and body.
func (k *bench) do(method, path, body string, header ...string) (int, http.Header, string) {
	k.t.Helper()
	r, err := http.NewRequest(method, k.url+path, strings.NewReader(body))
	if err != nil {
		k.t.Fatal(err)
	}
	r.SetBasicAuth("admin", "secret")
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Authorization" && header[i+1] == "" {
			r.Header.Del("Authorization")
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func (k *bench) want(status int, method, path, body string, header ...string) string {
	k.t.Helper()
	got, _, b := k.do(method, path, body, header...)
	if got != status {
		k.t.Errorf("%s %s %s = %d, want %d: %s", method, path, body, got, status, b)
	}
	return b
}

const sys = "/redfish/v1/Systems/1"

func TestAuthentication(t *testing.T) {
	k := newBench(t, Config{})
	anon := []string{"Authorization", ""}
	k.want(200, "GET", "/redfish/v1/", "", anon...)
	if b := k.want(401, "GET", sys, "", anon...); !strings.Contains(b, "NoValidSession") {
		t.Errorf("401 body: %s", b)
	}
	k.want(401, "POST", sessionsPath, `{"UserName":"admin","Password":"no"}`, anon...)
	k.want(400, "POST", sessionsPath, `{`, anon...)
	status, h, _ := k.do("POST", sessionsPath, `{"UserName":"admin","Password":"secret"}`, anon...)
	token, loc := h.Get("X-Auth-Token"), h.Get("Location")
	if status != 201 || token == "" || loc == "" {
		t.Fatalf("login = %d, token %q, location %q", status, token, loc)
	}
	with := append(anon, "X-Auth-Token", token)
	k.want(200, "GET", sys, "", with...)
	k.want(204, "DELETE", loc, "", with...)
	k.want(401, "GET", sys, "", with...)
	k.want(404, "GET", "/redfish/v1/Nothing", "")
}

func TestAssetTagNeedsFreshETag(t *testing.T) {
	k := newBench(t, Config{})
	_, h, _ := k.do("GET", sys, "")
	first := h.Get("ETag")
	k.want(200, "PATCH", sys, `{"AssetTag":"skerry/lon1/1.65536"}`, "If-Match", first)
	k.want(412, "PATCH", sys, `{"AssetTag":"skerry/lon1/1.1"}`, "If-Match", first)
	if got := k.b.AssetTag(); got != "skerry/lon1/1.65536" {
		t.Errorf("asset tag %q", got)
	}
	k.want(400, "PATCH", sys, `{"Asset":"x"}`)
	k.want(400, "PATCH", sys, `{"AssetTag":`)
	k.want(400, "PATCH", sys, `{"AssetTag":"`+strings.Repeat("x", 64)+`"}`)
	_, h, _ = k.do("GET", sys, "")
	k.want(304, "GET", sys, "", "If-None-Match", h.Get("ETag"))
}

func boot(enabled, target, mode string) string {
	m := map[string]string{"BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": target}
	if mode != "" {
		m["BootSourceOverrideMode"] = mode
	}
	b, _ := json.Marshal(map[string]any{"Boot": m})
	return string(b)
}

func reset(kind string) string { return `{"ResetType":"` + kind + `"}` }

const resetPath = sys + "/Actions/ComputerSystem.Reset"

func TestOverrideOnceIsConsumedByOneStart(t *testing.T) {
	k := newBench(t, Config{Firmware: vm.BIOS})
	k.want(400, "PATCH", sys, boot("Once", "UefiHttp", ""))
	k.want(400, "PATCH", sys, boot("Once", "Pxe", "UEFI"))
	k.want(400, "PATCH", sys, boot("Twice", "Pxe", ""))
	k.want(200, "PATCH", sys, boot("Once", "Pxe", "Legacy"))
	k.want(204, "POST", resetPath, reset("On"))
	k.want(204, "POST", resetPath, reset("On")) // already on: no second start
	k.want(204, "POST", resetPath, reset("ForceRestart"))
	k.want(200, "PATCH", sys, boot("Continuous", "Pxe", ""))
	k.want(204, "POST", resetPath, reset("PowerCycle"))
	k.want(204, "POST", resetPath, reset("PowerCycle"))
	k.want(400, "POST", resetPath, reset("Explode"))
	k.want(204, "POST", resetPath, reset("ForceOff"))
	if want := []vm.Device{vm.BootNet, vm.BootDisk, vm.BootNet, vm.BootNet}; !slices.Equal(k.boots, want) {
		t.Errorf("boots %v, want %v", k.boots, want)
	}
	if k.p.on {
		t.Error("on after ForceOff")
	}
}

// quick makes faults that last outlast the test, and a slow login bearable.
func quick() Config {
	return Config{Firmware: vm.UEFIHTTP, PostTime: time.Hour, StaleTime: time.Hour, LoginTime: 50 * time.Millisecond}
}

// withFault runs check as a subtest against a controller with one fault.
func withFault(t *testing.T, name Fault, check func(k *bench)) {
	t.Helper()
	t.Run(string(name), func(t *testing.T) {
		k := newBench(t, quick())
		if err := k.b.SetFaults(name); err != nil {
			t.Fatal(err)
		}
		check(k)
	})
}

func (k *bench) shows(want string) {
	k.t.Helper()
	if b := k.want(200, "GET", sys, ""); !strings.Contains(b, want) {
		k.t.Errorf("system does not show %s: %s", want, b)
	}
}

const (
	tag   = `{"AssetTag":"x"}`
	login = `{"UserName":"admin","Password":"secret"}`
)

func TestWriteFaults(t *testing.T) {
	f := func(name Fault, check func(k *bench)) { t.Helper(); withFault(t, name, check) }
	f(ModeReverts, func(k *bench) { k.want(200, "PATCH", sys, boot("Once", "Pxe", "UEFI")); k.shows(`Mode":"Legacy"`) })
	f(EnableReverts, func(k *bench) {
		k.want(200, "PATCH", sys, boot("Once", "Pxe", "UEFI"))
		k.shows(`Enabled":"Disabled"`)
	})
	f(ModeRefused, func(k *bench) {
		k.want(400, "PATCH", sys, boot("Once", "Pxe", "UEFI"))
		k.want(200, "PATCH", sys, boot("Once", "Pxe", ""))
	})
	f(ModeResend, func(k *bench) {
		k.want(400, "PATCH", sys, boot("Once", "Pxe", ""))
		k.want(200, "PATCH", sys, boot("Once", "Pxe", "UEFI"))
	})
	f(OnceIgnored, func(k *bench) {
		k.want(200, "PATCH", sys, boot("Once", "UefiHttp", "UEFI"))
		k.want(204, "POST", resetPath, reset("On"))
		if k.boots[0] != vm.BootDisk {
			k.t.Errorf("boots %v", k.boots)
		}
	})
	f(ETagRequired, func(k *bench) { k.want(428, "PATCH", sys, tag); k.want(200, "PATCH", sys, tag, "If-Match", "*") })
	f(ETagIgnored, func(k *bench) { k.want(200, "PATCH", sys, tag, "If-Match", `"stale"`) })
	f(ETagBare, func(k *bench) {
		_, h, _ := k.do("GET", sys, "")
		k.want(412, "PATCH", sys, tag, "If-Match", h.Get("ETag"))
		k.want(200, "PATCH", sys, tag, "If-Match", strings.Trim(h.Get("ETag"), `"`))
	})
}

func TestOtherFaults(t *testing.T) {
	f := func(name Fault, check func(k *bench)) { t.Helper(); withFault(t, name, check) }
	f(SessionCap8, func(k *bench) {
		for range 8 {
			k.want(201, "POST", sessionsPath, login)
		}
		k.want(503, "POST", sessionsPath, login)
		k.want(204, "DELETE", sessionsPath+"/3", "")
		k.want(201, "POST", sessionsPath, login)
	})
	f(SessionLeak, func(k *bench) {
		k.want(201, "POST", sessionsPath, login)
		k.want(204, "DELETE", sessionsPath+"/1", "")
		if k.b.Sessions() != 1 {
			k.t.Error("the session did not leak")
		}
	})
	f(LoginSlow, func(k *bench) {
		at := time.Now()
		k.want(201, "POST", sessionsPath, login)
		if d := time.Since(at); d < 50*time.Millisecond {
			k.t.Errorf("login took %v", d)
		}
	})
	f(PostLocked, func(k *bench) {
		k.want(204, "POST", resetPath, reset("On"))
		k.want(409, "PATCH", sys, tag)
	})
	f(NodeBusy, func(k *bench) {
		k.want(503, "PATCH", sys, tag)
		k.want(503, "PATCH", sys, tag)
		k.want(200, "PATCH", sys, tag)
	})
	f(Storm503, func(k *bench) { k.want(503, "GET", sys, ""); k.want(200, "GET", sys, "") })
	f(PowerStale, func(k *bench) { k.want(204, "POST", resetPath, reset("On")); k.shows(`"PowerState":"Off"`) })
	f(VendorEmpty, func(k *bench) {
		if b := k.want(200, "GET", "/redfish/v1", ""); strings.Contains(b, "Vendor") {
			k.t.Error(b)
		}
	})
	f(ResetNoValues, func(k *bench) {
		if b := k.want(200, "GET", sys, ""); strings.Contains(b, "ResetType@") {
			k.t.Error(b)
		}
	})
	f(Lockout3, func(k *bench) {
		bad := `{"UserName":"admin","Password":"no"}`
		for range 3 {
			k.want(401, "POST", sessionsPath, bad, "Authorization", "")
		}
		k.want(401, "POST", sessionsPath, login, "Authorization", "")
	})
	if err := New(quick(), &fakePower{}).SetFaults("nonsense"); err == nil {
		t.Error("an unknown fault was not refused")
	}
}

// TestGofishReadsIt lets the library that the product uses judge the tree.
func TestGofishReadsIt(t *testing.T) {
	k := newBench(t, Config{
		Serial: "SN1", UUID: "u", Maker: "ACME", MACs: []string{"52:54:00:00:00:01"}, Memory: 512,
		Disks: []vm.Disk{{Serial: "D1", SizeBytes: 1 << 30}},
	})
	c, err := gofish.ConnectContext(t.Context(), gofish.ClientConfig{Endpoint: k.url, Username: "admin", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Service.Systems()
	if err != nil || len(list) != 1 {
		t.Fatalf("systems %v, %v", list, err)
	}
	s := list[0]
	nics, err := s.EthernetInterfaces()
	if err != nil || len(nics) != 1 || nics[0].MACAddress != "52:54:00:00:00:01" {
		t.Errorf("nics %v, %v", nics, err)
	}
	storage, err := s.Storage()
	if err != nil || len(storage) != 1 {
		t.Fatalf("storage %v, %v", storage, err)
	}
	if drives, err := storage[0].Drives(); err != nil || len(drives) != 1 || drives[0].SerialNumber != "D1" {
		t.Errorf("drives %v, %v", drives, err)
	}
	if _, err := s.Reset(schemas.OnResetType); err != nil || !k.p.on {
		t.Errorf("reset: %v, on %v", err, k.p.on)
	}
	c.Logout()
	if k.b.Sessions() != 0 {
		t.Error("logout left a session")
	}
	if log := k.b.Requests(); !slices.Contains(log, "POST "+resetPath+" 204") {
		t.Errorf("request log %v", log)
	}
}

func TestServeTLS(t *testing.T) {
	cert, err := SelfSigned(net.IPv4(127, 0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(Config{}, &fakePower{}).Serve(ctx, ln, cert) }()
	c, err := gofish.ConnectContext(t.Context(), gofish.ClientConfig{Endpoint: "https://" + ln.Addr().String(), Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	if c.Service.Vendor != "Skerry Simulations" {
		t.Errorf("vendor %q", c.Service.Vendor)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestBodyBounded: more than 64 KiB is refused and does not grow memory.
func TestBodyBounded(t *testing.T) {
	k := newBench(t, Config{})
	k.want(400, "PATCH", sys, `{"AssetTag":"`+string(bytes.Repeat([]byte("x"), bodyLimit))+`"}`)
}
