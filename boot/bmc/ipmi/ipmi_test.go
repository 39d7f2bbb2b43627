package ipmi

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/bmctest"
	"github.com/skerry-metal/skerry/mesh/intent"
	sim "github.com/skerry-metal/skerry/test/sim/ipmi"
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

const (
	simRate = 500 // requests a second: the simulator stands more than two
	simUUID = "00112233-4455-4677-8899-aabbccddeeff"
)

// box is one simulated controller behind a socket.
type box struct {
	t    *testing.T
	b    *sim.BMC
	p    *plug
	addr string
}

func newBox(t *testing.T, faults ...sim.Fault) *box {
	t.Helper()
	x := &box{t: t, p: &plug{}}
	x.b, x.addr = sim.Start(t, sim.Config{
		User: "admin", Password: "secret", UUID: simUUID, Maker: "ACME", Model: "R1", Serial: "SN1",
		Sensors: simSensors(), StaleTime: time.Second,
	}, x.p, faults...)
	return x
}

func (x *box) driver() *Controller {
	c, err := New(Config{Address: x.addr, User: "admin", Password: "secret", Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate})
	if err != nil {
		x.t.Fatal(err)
	}
	c.pace = pace{50 * time.Millisecond, 2 * time.Millisecond, 300 * time.Millisecond, keepEvery} // the simulator answers at once, where it does
	return c
}

func (x *box) device(faults ...sim.Fault) bmctest.Device {
	d := bmctest.Device{
		Controller: x.driver(), Another: func() bmc.Controller { return x.driver() }, On: x.p.PowerOn, Writes: x.b.Writes,
		Boot: func() (bmc.BootDevice, bool) {
			device, set, once := x.b.Boot()
			switch {
			case !set:
				return bmc.BootNone, false
			case device == vm.BootNet:
				return bmc.BootNetwork, once
			}
			return bmc.BootDisk, once
		},
		Sessions: x.b.Sessions, Password: x.b.Password, Fence: intent.StrengthNone, Coarse: true, ResetError: bmc.ErrUnsupported,
		BootMayFail:     slices.Contains(faults, sim.EnableReverts),
		SessionsMayLeak: slices.Contains(faults, sim.SessionLeak) || slices.Contains(faults, sim.Lossy),
	}
	switch {
	case slices.Contains(faults, sim.PasswordIgnored):
		d.PasswordError = bmc.ErrNoEffect
	case slices.Contains(faults, sim.PasswordPolicy):
		d.PasswordError = bmc.ErrPolicy
	}
	return d
}

// TestConformance runs the suite on the healthy controller and under each fault that a driver can work with.
func TestConformance(t *testing.T) {
	hopeless := []sim.Fault{sim.OnlySuite0, sim.TwoKeys, sim.SessionFull, sim.Wedged} // they have their own tests
	run := func(name string, faults ...sim.Fault) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bmctest.Run(t, func(t *testing.T) bmctest.Device { return newBox(t, faults...).device(faults...) })
		})
	}
	run("healthy")
	for _, f := range sim.Faults() {
		if !slices.Contains(hopeless, f) {
			run(string(f), f)
		}
	}
}

func TestMain(m *testing.M) {
	// go-ipmi's server answers each packet in a goroutine that it does not wait for.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("time.Sleep"))
}

// TestSuites: 17 where there is one, 3 where not, and nothing else, whatever the controller says.
func TestSuites(t *testing.T) {
	f := func(want byte, faults ...sim.Fault) {
		t.Helper()
		c := newBox(t, faults...).driver()
		if _, err := c.Power(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Suite(t.Context()); err != nil || got != want {
			t.Fatalf("suite %d %v, want %d", got, err, want)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f(17)
	f(3, sim.NoSuite17)

	c := newBox(t, sim.OnlySuite0).driver()
	if p, err := c.Power(t.Context()); !errors.Is(err, errWeak) || p != bmc.PowerStateUnknown {
		t.Fatalf("a controller without security: %v %v", p, err)
	}
}

// TestTwoKeys: a controller with a key of its own is not supported; that is said after three logins, and is no wrong password.
func TestTwoKeys(t *testing.T) {
	x := newBox(t, sim.TwoKeys)
	c := x.driver()
	c.pace.answer = 5 * time.Millisecond
	if p, err := c.Power(t.Context()); !errors.Is(err, errMuddled) || errors.Is(err, bmc.ErrAuth) || p != bmc.PowerStateUnknown {
		t.Fatalf("%v %v", p, err)
	}
}

// TestForged: an answer that anybody could have sent is no answer: the machine is off, and forged packets say that it is on.
func TestForged(t *testing.T) {
	x := newBox(t, sim.Forged)
	c := x.driver()
	for range 3 {
		if p, err := c.Power(t.Context()); err != nil || p != bmc.PowerStateOff {
			t.Fatalf("%v %v", p, err)
		}
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestWedged: a controller that answers nothing is unknown, within the deadline, and works again when it does.
func TestWedged(t *testing.T) {
	x := newBox(t, sim.Wedged)
	c := x.driver()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if p, err := c.Power(ctx); !errors.Is(err, context.DeadlineExceeded) || p != bmc.PowerStateUnknown {
		t.Fatalf("%v %v", p, err)
	}
	if took := time.Since(start); took > 1200*time.Millisecond { // the suite's contract: a second
		t.Fatalf("took %v", took)
	}
	if err := x.b.Clear(sim.Wedged); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Power(t.Context()); err != nil || p != bmc.PowerStateOff {
		t.Fatalf("%v %v", p, err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSessionFull: a full table is busy, not a wrong password, and is tried again.
func TestSessionFull(t *testing.T) {
	x := newBox(t, sim.SessionFull)
	c := x.driver()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Power(ctx); !errors.Is(err, bmc.ErrBusy) || errors.Is(err, bmc.ErrAuth) {
		t.Fatalf("%v", err)
	}
	if err := x.b.Clear(sim.SessionFull); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Power(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil || x.b.Sessions() != 0 {
		t.Fatalf("%v, %d sessions", err, x.b.Sessions())
	}
}

// TestWrongPassword: one wrong login, then none for a while, so that no account is locked; and half a session is not left behind.
func TestWrongPassword(t *testing.T) {
	f := func(user, password string) {
		t.Helper()
		x := newBox(t, sim.Lockout3)
		c, err := New(Config{Address: x.addr, User: user, Password: password, Logger: slog.New(slog.DiscardHandler), RatePerSec: simRate})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, err := c.Power(t.Context()); !errors.Is(err, bmc.ErrAuth) {
				t.Fatalf("%v", err)
			}
		}
		d := x.driver()
		if _, err := d.Power(t.Context()); err != nil {
			t.Fatalf("the account is locked: %v", err)
		}
		if err := d.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := x.b.Sessions(); n != 0 && user == "admin" { // a stranger's half session is the controller's own to free
			t.Fatalf("%d sessions", n)
		}
	}
	f("admin", "wrong")
	f("nobody", "secret")
}

// TestOnce: what is no state to reach is sent once, also where packets are lost.
func TestOnce(t *testing.T) {
	x := newBox(t)
	c := x.driver()
	f := func(a bmc.PowerAction, want intent.Effect, control string) {
		t.Helper()
		if eff, err := c.SetPower(t.Context(), intent.Claim{}, a); err != nil || eff != want {
			t.Fatalf("%s: %v %v", a, eff, err)
		}
		n := 0
		for _, l := range x.b.Commands() {
			if strings.HasPrefix(l, "00/02 "+control) {
				n++
			}
		}
		if n != 1 {
			t.Fatalf("%s: %d commands in %v", a, n, x.b.Commands())
		}
	}
	f(bmc.PowerReset, intent.EffectReadback, "01") // it is off: a reset would do nothing
	f(bmc.PowerReset, intent.EffectAccepted, "03")
	f(bmc.PowerSoftOff, intent.EffectAccepted, "05")
	if x.p.PowerOn() {
		t.Fatal("still on")
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestMode: the boot mode is written, read back, and kept where nothing is said.
func TestMode(t *testing.T) {
	x := newBox(t)
	c := x.driver()
	f := func(s bmc.BootSpec, want intent.Effect, mode bmc.BootMode) {
		t.Helper()
		if eff, err := c.SetBoot(t.Context(), intent.Claim{}, s); err != nil || eff != want {
			t.Fatalf("%+v: %v %v", s, eff, err)
		}
		if b, err := c.Boot(t.Context()); err != nil || b.Mode != mode {
			t.Fatalf("%+v: reads %+v %v", s, b, err)
		}
	}
	f(bmc.BootSpec{Device: bmc.BootNetwork, Once: true, Mode: bmc.ModeUEFI}, intent.EffectReadback, bmc.ModeUEFI)
	f(bmc.BootSpec{Device: bmc.BootNetwork, Once: true}, intent.EffectNone, bmc.ModeUEFI)
	f(bmc.BootSpec{Device: bmc.BootDisk}, intent.EffectReadback, bmc.ModeUEFI)
	f(bmc.BootSpec{Device: bmc.BootDisk, Mode: bmc.ModeBIOS}, intent.EffectReadback, bmc.ModeBIOS)
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestIdentity: as the machine's own SMBIOS has it, in either order of the GUID's octets.
func TestIdentity(t *testing.T) {
	for _, faults := range [][]sim.Fault{nil, {sim.GUIDReversed}} {
		c := newBox(t, faults...).driver()
		id, err := c.Identify(t.Context())
		if err != nil || id.Vendor != "ACME" || id.Model != "R1" || id.Serial != "SN1" || id.UUID != simUUID || id.Firmware != "2.31" {
			t.Fatalf("%v: %+v %v", faults, id, err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPasswordLength: what IPMI cannot hold is refused before anything is asked.
func TestPasswordLength(t *testing.T) {
	x := newBox(t)
	c := x.driver()
	for _, pw := range []string{"", strings.Repeat("x", 21)} {
		if err := c.SetPassword(t.Context(), intent.Claim{}, pw); !errors.Is(err, bmc.ErrPolicy) {
			t.Fatalf("%d octets: %v", len(pw), err)
		}
	}
	if len(x.b.Commands()) != 0 {
		t.Fatalf("%v", x.b.Commands())
	}
	long := strings.Repeat("y", 20)
	if err := c.SetPassword(t.Context(), intent.Claim{}, long); err != nil || x.b.Password() != long {
		t.Fatalf("%v, %q", err, x.b.Password())
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedBefore: a login with the password of before that ends when there is another one says nothing about that.
func TestRefusedBefore(t *testing.T) {
	c, err := New(Config{Address: "127.0.0.1:1", User: "admin", Password: "before", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c.password = "now"
	if err := c.wrong("before", bmc.ErrAuth); !errors.Is(err, bmc.ErrAuth) || !c.authFail.IsZero() {
		t.Errorf("%v, rests since %v", err, c.authFail)
	}
	if err := c.wrong("now", bmc.ErrAuth); !errors.Is(err, bmc.ErrAuth) || c.authFail.IsZero() {
		t.Errorf("%v, rests since %v", err, c.authFail)
	}
}
