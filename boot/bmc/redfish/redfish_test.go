package redfish

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/bmctest"
	"github.com/skerry-metal/skerry/mesh/intent"
	sim "github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

// plug is the machine behind the simulated controller: a switch.
type plug struct {
	mu sync.Mutex // guards what follows
	on bool
}

func (p *plug) set(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on = on
	return nil
}

func (p *plug) On(context.Context) error       { return p.set(true) }
func (p *plug) Off(context.Context) error      { return p.set(false) }
func (p *plug) Reset(context.Context) error    { return p.set(true) }
func (p *plug) Shutdown(context.Context) error { return p.set(false) }
func (p *plug) PowerOn() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.on
}

const simRate = 200 // requests a second: the simulator stands more than two

// box is one simulated controller behind HTTPS.
type box struct {
	t      *testing.T
	b      *sim.BMC
	p      *plug
	addr   string
	mu     sync.Mutex // guards what follows
	writes int
	wrong  int // logins that were refused
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(s int) { w.status = s; w.ResponseWriter.WriteHeader(s) }

func newBox(t *testing.T, faults ...sim.Fault) *box {
	t.Helper()
	x := &box{t: t, p: &plug{}}
	x.b = sim.New(sim.Config{
		User: "admin", Password: "secret", Firmware: vm.UEFIPXE, UUID: "00112233-4455-6677-8899-AABBCCDDEEFF", Serial: "SN1",
		Maker: "ACME", MACs: []string{"52:54:00:00:00:01"}, Disks: []vm.Disk{{Serial: "D1", SizeBytes: 1 << 30}}, Memory: 256,
		PostTime: time.Second, StaleTime: time.Second, LoginTime: 300 * time.Millisecond, AwayTime: 300 * time.Millisecond,
	}, x.p)
	if err := x.b.SetFaults(faults...); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{w, 200}
		x.b.ServeHTTP(sw, r)
		if r.Method != http.MethodGet && !strings.Contains(r.URL.Path, "/Sessions") && sw.status < 300 {
			x.mu.Lock()
			x.writes++
			x.mu.Unlock()
		}
		if strings.HasSuffix(r.URL.Path, "/Sessions") && sw.status == http.StatusUnauthorized {
			x.mu.Lock()
			x.wrong++
			x.mu.Unlock()
		}
	}))
	t.Cleanup(srv.Close)
	x.addr = strings.TrimPrefix(srv.URL, "https://")
	return x
}

func (x *box) driver() *Controller {
	c, err := New(Config{Address: x.addr, User: "admin", Password: "secret", Site: "lon1", Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate})
	if err != nil {
		x.t.Fatal(err)
	}
	return c
}

// direct asks the device behind the driver's back until it answers well: faults may refuse some.
func (x *box) direct(method, body string) map[string]any {
	x.t.Helper()
	for range 10 {
		r := httptest.NewRequest(method, "/redfish/v1/Systems/1", strings.NewReader(body))
		r.SetBasicAuth("admin", x.b.Password())
		r.Header.Set("If-Match", "*")
		w := httptest.NewRecorder()
		x.b.ServeHTTP(w, r)
		var v map[string]any
		if w.Code == 200 && json.Unmarshal(w.Body.Bytes(), &v) == nil {
			return v
		}
	}
	x.t.Fatalf("the simulator refuses %s", method)
	return nil
}

func (x *box) device(faults ...sim.Fault) bmctest.Device {
	d := bmctest.Device{
		Controller: x.driver(), Another: func() bmc.Controller { return x.driver() }, On: x.p.PowerOn,
		Writes: func() int { x.mu.Lock(); defer x.mu.Unlock(); return x.writes },
		Boot: func() (bmc.BootDevice, bool) {
			b := x.direct("GET", "")["Boot"].(map[string]any)
			once := b["BootSourceOverrideEnabled"] == "Once"
			if b["BootSourceOverrideEnabled"] == "Disabled" {
				return bmc.BootNone, once
			}
			return map[any]bmc.BootDevice{"Pxe": bmc.BootNetwork, "UefiHttp": bmc.BootNetwork, "Hdd": bmc.BootDisk}[b["BootSourceOverrideTarget"]], once
		},
		Tag:      x.b.AssetTag,
		SetTag:   func(s string) { b, _ := json.Marshal(map[string]string{"AssetTag": s}); x.direct("PATCH", string(b)) },
		Sessions: x.b.Sessions, Fence: intent.StrengthHard, Password: x.b.Password,
		ResetEffect: intent.EffectReadback, Defaults: func() bool { x.b.NextBoot(); return x.b.BIOS()["SerialConsole"] == "Disabled" },
	}
	x.b.SetBIOS("SerialConsole", "Enabled") // whoever had the machine before
	for _, f := range faults {
		switch f {
		case sim.ETagIgnored:
			d.Fence = intent.StrengthSoft
		case sim.SessionLeak:
			d.SessionsMayLeak = true
		case sim.EnableReverts:
			d.BootMayFail = true
		case sim.PasswordIgnored:
			d.PasswordError = bmc.ErrNoEffect
		case sim.PasswordPolicy, sim.PasswordDenied:
			d.PasswordError = bmc.ErrPolicy
		case sim.BIOSIgnored:
			d.ResetEffect, d.ResetError = intent.EffectAccepted, bmc.ErrNoEffect
		case sim.BIOSNoReset:
			d.ResetEffect, d.ResetError = intent.EffectNone, bmc.ErrUnsupported
		case sim.BIOSSilent:
			d.ResetEffect = intent.EffectAccepted
		case sim.BIOSVanishes:
			d.ResetEffect, d.BIOSHides = intent.EffectAccepted, true
		}
	}
	return d
}

// TestConformance runs the suite on the healthy device and under each fault.
func TestConformance(t *testing.T) {
	f := func(name string, faults ...sim.Fault) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var only []string
			if strings.HasPrefix(name, "bios-") || strings.HasPrefix(name, "manager-") {
				only = []string{"bios"} // nothing else asks for it
			}
			bmctest.Run(t, func(t *testing.T) bmctest.Device { return newBox(t, faults...).device(faults...) }, only...)
		})
	}
	f("healthy")
	for _, fault := range sim.Faults() {
		if testing.Short() && fault != sim.ETagIgnored && fault != sim.NodeBusy {
			continue // the rest waits for busy controllers, 50 s in all
		}
		f(string(fault), fault)
	}
}

// TestModeReverts: a mode that is accepted and undone is named.
func TestModeReverts(t *testing.T) {
	c := newBox(t, sim.ModeReverts).driver()
	defer c.Close(context.Background())
	eff, err := c.SetBoot(context.Background(), intent.Claim{}, bmc.BootSpec{Device: bmc.BootNetwork, Once: true, Mode: bmc.ModeUEFI})
	var q *bmc.QuirkError
	if !errors.Is(err, bmc.ErrNoEffect) || !errors.As(err, &q) || q.Quirk != "mode-reverts" || eff != intent.EffectAccepted {
		t.Fatalf("%v %v", eff, err)
	}
}

// TestWrongPassword is tried once, then not again for a while: three wrong logins lock the account.
func TestWrongPassword(t *testing.T) {
	x := newBox(t, sim.Lockout3)
	c := x.driver()
	c.password = "wrong"
	for range 5 {
		if _, err := c.Power(context.Background()); !errors.Is(err, bmc.ErrAuth) {
			t.Fatal(err)
		}
	}
	n := 0
	for _, l := range x.b.Requests() {
		if strings.HasPrefix(l, "POST /redfish/v1/SessionService/Sessions") {
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d logins with a wrong password", n)
	}
}

// TestQuotesPassword: a controller that quotes the password that it refuses, at a login or a change, does not get it into an error.
func TestQuotesPassword(t *testing.T) {
	x := newBox(t, sim.PasswordPolicy)
	next := http.HandlerFunc(x.b.ServeHTTP)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		maps.Copy(w.Header(), rec.Header())
		if w.Header().Del("Content-Length"); rec.Code < 400 {
			w.WriteHeader(rec.Code)
			_, err = w.Write(rec.Body.Bytes())
		} else {
			w.WriteHeader(rec.Code)
			said := map[string]any{"code": "Base.1.8.PropertyValueFormatError", "message": "The value is of a different format: " + string(b)}
			err = json.NewEncoder(w).Encode(map[string]any{"error": said})
		}
		if err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	x.addr = strings.TrimPrefix(srv.URL, "https://")
	c := x.driver()
	defer c.Close(context.Background())
	err := c.SetPassword(t.Context(), intent.Claim{}, "thenextone1")
	wrong := x.driver()
	wrong.password = "thewrongone1"
	_, lerr := wrong.Power(t.Context())
	for _, err := range []error{err, lerr} {
		if err == nil || strings.Contains(err.Error(), "one1") || !strings.Contains(err.Error(), "different format") {
			t.Errorf("%v", err)
		}
	}
}

// TestIPv6: an address of IPv6 needs no brackets.
func TestIPv6(t *testing.T) {
	for address, want := range map[string]string{"2001:db8::5": "[2001:db8::5]:443", "[2001:db8::5]:8443": "[2001:db8::5]:8443", "[2001:db8::5]": "[2001:db8::5]:443"} {
		var got string
		c, err := New(Config{Address: address, User: "admin", Password: "secret", Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			got = addr
			return nil, errors.New("no")
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Power(t.Context()); err == nil || got != want {
			t.Errorf("%s: dialled %q, %v", address, got, err)
		}
	}
}

// TestPin: the first key is reported and kept; another one is refused.
func TestPin(t *testing.T) {
	x := newBox(t)
	var pin string
	c := x.driver()
	c2, err := New(Config{Address: x.addr, User: "admin", Password: "secret", Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate, OnPin: func(p string) { pin = p }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	defer c2.Close(context.Background())
	if _, err := c2.Power(context.Background()); err != nil || len(pin) != 64 {
		t.Fatalf("%v, pin %q", err, pin)
	}
	c3, err := New(Config{Address: x.addr, User: "admin", Password: "secret", Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate, Pin: strings.Repeat("0", 64)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c3.Power(context.Background()); !errors.Is(err, bmc.ErrPin) {
		t.Fatalf("another key: %v", err)
	}
	for _, l := range x.b.Requests() {
		if strings.Contains(l, "400") {
			t.Fatal(l)
		}
	}
}

// TestUnreachable ends in a bounded time and says unknown.
func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	c, err := New(Config{Address: ln.Addr().String(), User: "u", Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := c.Power(context.Background()); err == nil || p != bmc.PowerStateUnknown {
		t.Fatalf("%s %v", p, err)
	}
}

// TestSessionEnded: a session that the controller forgot is replaced once.
func TestSessionEnded(t *testing.T) {
	x := newBox(t)
	c := x.driver()
	defer c.Close(context.Background())
	if _, err := c.Power(context.Background()); err != nil {
		t.Fatal(err)
	}
	s, err := c.client.GetSession()
	if err != nil {
		t.Fatal(err)
	}
	id := s.ID[strings.LastIndex(s.ID, "/")+1:]
	r := httptest.NewRequest("DELETE", "/redfish/v1/SessionService/Sessions/"+id, nil)
	r.SetBasicAuth("admin", x.b.Password())
	x.b.ServeHTTP(httptest.NewRecorder(), r)
	if _, err := c.Power(context.Background()); err != nil {
		t.Fatalf("after the session ended: %v", err)
	}
}

// TestPasswordChangedWhileRead: who reads sensors while the password is changed, and all sessions end, never logs in with the one before:
// that would count towards a lock, and the change would take it for its own login that was refused.
func TestPasswordChangedWhileRead(t *testing.T) {
	x := newBox(t, sim.PasswordLogout)
	c := x.driver()
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Get(ctx, "/redfish/v1/Chassis/1/Thermal"); err != nil && ctx.Err() == nil {
					t.Errorf("sensors: %v", err)
				}
			}
		})
	}
	for i := range 10 {
		if err := c.SetPassword(t.Context(), intent.Claim{ID: "machine/m1", Epoch: intent.Epoch{Generation: 1, N: 9}, Owner: "a1"}, fmt.Sprintf("Word%dword%dword", i, i)); err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
	stop()
	readers.Wait()
	if x.mu.Lock(); x.wrong != 0 {
		t.Errorf("%d logins were refused", x.wrong)
	}
	x.mu.Unlock()
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// tree serves recorded GET answers.
func tree(t *testing.T, path string) *httptest.Server {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string][]byte{}
	for tr := tar.NewReader(z); ; {
		_, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			ID string `json:"@odata.id"`
		}
		if json.Unmarshal(b, &v) == nil && v.ID != "" {
			docs[strings.TrimSuffix(v.ID, "/")] = b
		}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "Sessions") {
			w.Header().Set("X-Auth-Token", "t")
			w.Header().Set("Location", "/redfish/v1/SessionService/Sessions/1")
			w.WriteHeader(http.StatusCreated)
			return
		}
		b, ok := docs[strings.TrimSuffix(r.URL.Path, "/")]
		if r.Method != http.MethodGet && r.Method != http.MethodDelete || r.Method == http.MethodGet && !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		io.Copy(w, bytes.NewReader(b))
	}))
	t.Cleanup(srv.Close)
	return srv
}

var update = flag.Bool("update", false, "rewrite goldens")

// TestRecordedTrees reads controllers of six vendors, without a write, and compares what was understood.
func TestRecordedTrees(t *testing.T) {
	names, err := filepath.Glob("testdata/*.tar.gz")
	if err != nil || len(names) == 0 {
		t.Fatalf("no trees: %v", err)
	}
	var b strings.Builder
	for _, n := range names {
		srv := tree(t, n)
		c, err := New(Config{Address: srv.URL, User: "u", Password: "p", Site: "lon1", Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		id, err1 := c.Identify(ctx)
		inv, err2 := c.Inventory(ctx)
		p, err3 := c.Power(ctx)
		o, err4 := c.Boot(ctx)
		e, st, err5 := c.ReadFence(ctx)
		fmt.Fprintf(&b, "%s\n  identity %+v\n  cpus %d memory %d nics %d disks %d\n  power %s boot %+v\n  fence %s %s\n  caps %+v\n",
			filepath.Base(n), id, inv.Processors, inv.MemoryBytes, len(inv.NICs), len(inv.Disks), p, o.BootSpec, e, st, c.Caps())
		if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
			fmt.Fprintf(&b, "  errors %s\n", strings.ReplaceAll(strings.ReplaceAll(err.Error(), srv.URL, "URL"), "\n", "; "))
		}
		c.Close(ctx)
	}
	if *update {
		if err := os.WriteFile("testdata/trees.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/trees.txt")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestLinksLeadNowhereElse: a controller names its resources; a name that is no path would lead to another host with our password or
// our session.
func TestLinksLeadNowhereElse(t *testing.T) {
	asked := make(chan string, 100)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	defer other.Close()
	f := func(what, sessions, session, system string) {
		t.Helper()
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("X-Auth-Token", "t")
				w.Header().Set("Location", session)
				w.WriteHeader(http.StatusCreated)
				return
			}
			fmt.Fprintf(w, `{"@odata.id":"/redfish/v1/","Links":{"Sessions":{"@odata.id":%q}},"Systems":{"@odata.id":"/redfish/v1/Systems"},"Members":[{"@odata.id":%q}]}`, sessions, system)
		}))
		defer srv.Close()
		c, err := New(Config{Address: srv.URL, User: "u", Password: "p", Site: "lon1", Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Power(t.Context())
		err = errors.Join(err, c.Close(t.Context()))
		if !errors.Is(err, bmc.ErrUnsupported) && session[0] == '/' { // a session that cannot be ended counts as gone
			t.Errorf("%s: %v", what, err)
		}
		select {
		case path := <-asked:
			t.Errorf("%s: another host was asked for %s", what, path)
		default:
		}
	}
	const sessions, session, system = "/redfish/v1/SessionService/Sessions", "/redfish/v1/SessionService/Sessions/1", "/redfish/v1/Systems/1"
	away := "@" + strings.TrimPrefix(other.URL, "http://") + "/x"
	f("a login that leads away", away, session, system)
	f("a session that leads away", sessions, away, system)
	f("a system that leads away", sessions, session, away)
	f("no system", sessions, session, "")
}
