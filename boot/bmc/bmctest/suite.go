package bmctest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// Device is one simulated device and what the suite may look at behind the driver's back.
type Device struct {
	Controller bmc.Controller
	// Another returns a second driver for the same device, as another agent has it.
	Another func() bmc.Controller
	// Writes returns how many changing requests the device has taken (accepted, not refused).
	Writes func() int
	// On tells the machine's power; Boot what the device really holds as override.
	On   func() bool
	Boot func() (device bmc.BootDevice, once bool)
	// Tag returns and SetTag sets the fence's storage from outside.
	Tag    func() string
	SetTag func(string)
	// Sessions returns how many sessions are open on the device; SessionsMayLeak when it never frees one.
	Sessions        func() int
	SessionsMayLeak bool
	// Fence is what the device's fence is worth. None: there is nothing to raise, and Tag and SetTag are nil.
	Fence intent.Strength
	// Coarse: the inventory ends at the identity.
	Coarse bool
	// BootMayFail and its reason: the device accepts overrides and undoes them.
	BootMayFail bool
	// Password returns what the device takes now. PasswordError is what a change ends with that the device refuses or ignores.
	Password      func() string
	PasswordError error
	// ResetEffect and ResetError are what a reset of the BIOS settings ends with. Defaults starts the machine and tells whether its BIOS has
	// the defaults after that; nil: there is nothing to reset. BIOSHides: after a reset the settings cannot be read for a while.
	ResetEffect intent.Effect
	ResetError  error
	Defaults    func() bool
	BIOSHides   bool
}

func claim(n uint64) intent.Claim {
	return intent.Claim{ID: "machine/m1", Epoch: intent.Epoch{Generation: 1, N: n}, Owner: "a1"}
}

// limit of one case: the slowest fault answers a login after 2.7 s and refuses two writes of three.
const limit = 60 * time.Second

// Run runs the suite, or the cases of it that only names; open makes a fresh device, off and without override, for each case.
func Run(t *testing.T, open func(t *testing.T) Device, only ...string) {
	cases := []struct {
		name string
		run  func(t *testing.T, ctx context.Context, d Device)
	}{
		{"power", power},
		{"boot", boot},
		{"reads", reads},
		{"fence", fence},
		{"fence-race", fenceRace},
		{"no-fence", noFence},
		{"foreign-tag", foreignTag},
		{"deadline", deadline},
		{"password", password},
		{"bios", bios},
		{"accounts", accounts},
		{"close", closing},
	}
	for _, c := range cases {
		if len(only) > 0 && !slices.Contains(only, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // the cases wait for devices, they do not compute
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			d := open(t)
			c.run(t, ctx, d)
			if err := d.Controller.Close(ctx); err != nil {
				t.Fatalf("close: %v", err)
			}
		})
	}
}

// power: goals are reached, said truly, and not written twice.
func power(t *testing.T, ctx context.Context, d Device) {
	f := func(a bmc.PowerAction, want intent.Effect, on bool) {
		t.Helper()
		before := d.Writes()
		eff, err := d.Controller.SetPower(ctx, claim(1), a)
		if err != nil || eff != want || d.On() != on {
			t.Fatalf("%s: %v %v, on=%v; want %v, on=%v", a, eff, err, d.On(), want, on)
		}
		if want == intent.EffectNone && d.Writes() != before {
			t.Fatalf("%s was so already and was written", a)
		}
		if p, err := d.Controller.Power(ctx); err != nil || (p == bmc.PowerStateOn) != on {
			t.Fatalf("power reads %s %v", p, err)
		}
	}
	f(bmc.PowerOff, intent.EffectNone, false)
	f(bmc.PowerOn, intent.EffectReadback, true)
	f(bmc.PowerOn, intent.EffectNone, true)
	f(bmc.PowerOff, intent.EffectReadback, false)
}

// boot: an override is there after success, and a device that undoes it is found out.
func boot(t *testing.T, ctx context.Context, d Device) {
	f := func(s bmc.BootSpec, want intent.Effect) {
		t.Helper()
		before := d.Writes()
		eff, err := d.Controller.SetBoot(ctx, claim(1), s)
		device, once := d.Boot()
		if d.BootMayFail && err != nil {
			if !errors.Is(err, bmc.ErrNoEffect) || eff > intent.EffectAccepted {
				t.Fatalf("%+v: %v %v", s, eff, err)
			}
			return
		}
		if err != nil || eff != want || device != s.Device || once != s.Once {
			t.Fatalf("%+v: %v %v; the device holds %s once=%v", s, eff, err, device, once)
		}
		if want == intent.EffectNone && d.Writes() != before {
			t.Fatalf("%+v was so already and was written", s)
		}
		if b, err := d.Controller.Boot(ctx); err != nil || b.Device != s.Device {
			t.Fatalf("boot reads %+v %v", b, err)
		}
	}
	f(bmc.BootSpec{Device: bmc.BootNone}, intent.EffectNone)
	f(bmc.BootSpec{Device: bmc.BootNetwork, Once: true}, intent.EffectReadback)
	if !d.BootMayFail {
		f(bmc.BootSpec{Device: bmc.BootNetwork, Once: true}, intent.EffectNone)
	}
	f(bmc.BootSpec{Device: bmc.BootDisk}, intent.EffectReadback)
	if _, err := d.Controller.SetBoot(ctx, claim(1), bmc.BootSpec{Device: "floppy"}); !errors.Is(err, bmc.ErrUnsupported) {
		t.Fatalf("floppy: %v", err)
	}
}

// reads never write.
func reads(t *testing.T, ctx context.Context, d Device) {
	before := d.Writes()
	id, err := d.Controller.Identify(ctx)
	if err != nil || id.Serial == "" || id.UUID != strings.ToLower(id.UUID) || id.Vendor == "" {
		t.Fatalf("identity %+v %v", id, err)
	}
	if r, err := d.Controller.Inventory(ctx); err != nil || r.Serial != id.Serial || !d.Coarse && (len(r.NICs) == 0 || r.MemoryBytes == 0 || len(r.Disks) == 0) {
		t.Fatalf("inventory %+v %v", r, err)
	}
	if _, err := d.Controller.Power(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Controller.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	tag := d.tag()
	if _, s, err := d.Controller.ReadFence(ctx); err != nil || s != d.Fence {
		t.Fatalf("fence %v %v, want %v", s, err, d.Fence)
	}
	if d.tag() != tag || d.Fence != intent.StrengthSoft && d.Writes() != before {
		t.Fatalf("reading wrote: %d writes, tag %q", d.Writes()-before, d.tag())
	}
	if c := d.Controller.Caps(); !slices.Contains(c.PowerActions, bmc.PowerOn) || !slices.Contains(c.Devices, bmc.BootNetwork) || c.Fence != d.Fence {
		t.Fatalf("caps %+v", c)
	}
}

func (d Device) tag() string {
	if d.Tag == nil {
		return ""
	}
	return d.Tag()
}

// noFence: a device without one says so, and neither holds an epoch nor pretends to.
func noFence(t *testing.T, ctx context.Context, d Device) {
	if d.Fence != intent.StrengthNone {
		t.Skip("it has one")
	}
	before := d.Writes()
	if err := d.Controller.RaiseFence(ctx, claim(5).Epoch); err != nil {
		t.Fatal(err)
	}
	if e, s, err := d.Controller.ReadFence(ctx); err != nil || e != (intent.Epoch{}) || s != intent.StrengthNone {
		t.Fatalf("%v %v %v", e, s, err)
	}
	if d.Writes() != before {
		t.Fatal("raising nothing wrote")
	}
}

// fence: it only rises, and a lower claim writes nothing.
func fence(t *testing.T, ctx context.Context, d Device) {
	if d.Fence == intent.StrengthNone {
		t.Skip("it has none")
	}
	c := d.Controller
	if e, _, err := c.ReadFence(ctx); err != nil || e != (intent.Epoch{}) {
		t.Fatalf("fresh: %v %v", e, err)
	}
	for range 2 { // the second is no write
		before := d.Writes()
		if err := c.RaiseFence(ctx, claim(5).Epoch); err != nil {
			t.Fatal(err)
		}
		if e, _, err := c.ReadFence(ctx); err != nil || e != claim(5).Epoch {
			t.Fatalf("raised: %v %v", e, err)
		}
		if before > 0 && d.Tag() == "" {
			t.Fatal("no tag")
		}
	}
	other := d.Another()
	defer other.Close(ctx)
	if err := other.RaiseFence(ctx, claim(4).Epoch); !errors.Is(err, bmc.ErrFenced) {
		t.Fatalf("lower raise: %v", err)
	}
	before := d.Writes()
	if _, err := other.SetPower(ctx, claim(4), bmc.PowerOn); !errors.Is(err, bmc.ErrFenced) || d.On() {
		t.Fatalf("power under a lower claim: %v, on=%v", err, d.On())
	}
	if _, err := other.SetBoot(ctx, claim(4), bmc.BootSpec{Device: bmc.BootNetwork, Once: true}); !errors.Is(err, bmc.ErrFenced) {
		t.Fatalf("boot under a lower claim: %v", err)
	}
	if d.Writes() != before {
		t.Fatal("a lower claim wrote")
	}
	if err := other.RaiseFence(ctx, intent.Epoch{Generation: 2, N: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetPower(ctx, claim(5), bmc.PowerOn); !errors.Is(err, bmc.ErrFenced) || d.On() {
		t.Fatalf("power of the one who lost: %v", err)
	}
}

// fenceRace: two agents raise at once; the higher epoch is on the device at the end, whoever came first.
func fenceRace(t *testing.T, ctx context.Context, d Device) {
	if d.Fence != intent.StrengthHard {
		t.Skip("a soft fence decides no race")
	}
	other := d.Another()
	defer other.Close(ctx)
	errs := make(chan error, 2)
	go func() { errs <- d.Controller.RaiseFence(ctx, claim(1<<16|1).Epoch) }()
	go func() { errs <- other.RaiseFence(ctx, claim(1<<16|2).Epoch) }()
	for range 2 {
		if err := <-errs; err != nil && !errors.Is(err, bmc.ErrFenced) {
			t.Fatal(err)
		}
	}
	if e, _, err := d.Controller.ReadFence(ctx); err != nil || e != claim(1<<16|2).Epoch {
		t.Fatalf("%v %v", e, err)
	}
}

// foreignTag: an operator's own asset tag is left alone, and counts as no fence.
func foreignTag(t *testing.T, ctx context.Context, d Device) {
	if d.Fence == intent.StrengthNone {
		t.Skip("it has no tag")
	}
	d.SetTag("Inventory 4711")
	if err := d.Controller.RaiseFence(ctx, claim(1).Epoch); err != nil {
		t.Fatal(err)
	}
	if e, s, err := d.Controller.ReadFence(ctx); err != nil || s != intent.StrengthNone || e != (intent.Epoch{}) {
		t.Fatalf("%v %v %v", e, s, err)
	}
	if d.Tag() != "Inventory 4711" {
		t.Fatalf("the tag is now %q", d.Tag())
	}
}

// deadline: kept within a second.
func deadline(t *testing.T, _ context.Context, d Device) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	<-ctx.Done()
	start := time.Now()
	if _, err := d.Controller.SetPower(ctx, claim(1), bmc.PowerOn); err == nil || d.On() {
		t.Fatalf("%v, on=%v", err, d.On())
	}
	if p, err := d.Controller.Power(ctx); err == nil || p != bmc.PowerStateUnknown {
		t.Fatalf("unreachable must be unknown: %s %v", p, err)
	}
	if took := time.Since(start); took > time.Second {
		t.Fatalf("took %v", took)
	}
}

// closing: no session is left behind, and the Controller can be used again.
func closing(t *testing.T, ctx context.Context, d Device) {
	for range 3 {
		if _, err := d.Controller.Power(ctx); err != nil {
			t.Fatal(err)
		}
		if n := d.Sessions(); n > 1 && !d.SessionsMayLeak {
			t.Fatalf("%d sessions for one driver", n)
		}
		if err := d.Controller.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if n := d.Sessions(); n != 0 && !d.SessionsMayLeak {
			t.Fatalf("%d sessions left", n)
		}
	}
}

// password: nil means that the new one counts and that this Controller goes on with it; an error that says so, that the one before
// does. A stale claim changes nothing.
func password(t *testing.T, ctx context.Context, d Device) {
	before := d.Password()
	if err := d.Controller.RaiseFence(ctx, claim(9).Epoch); err != nil {
		t.Fatal(err)
	}
	if err := d.Controller.SetPassword(ctx, claim(8), "Stale0claim0word"); d.Fence == intent.StrengthHard && (!errors.Is(err, bmc.ErrFenced) || d.Password() != before) {
		t.Fatalf("under a stale claim: %v", err)
	}
	const next = "Abcdefgh23456789"
	for range 2 { // again: it is so already
		err := d.Controller.SetPassword(ctx, claim(9), next)
		if d.PasswordError != nil {
			if !errors.Is(err, d.PasswordError) || d.Password() != before {
				t.Fatalf("%v, want %v", err, d.PasswordError)
			}
			continue
		}
		if err != nil || d.Password() != next {
			t.Fatalf("the device takes the new one: %v; %v", d.Password() == next, err)
		}
	}
	if _, err := d.Controller.Power(ctx); err != nil {
		t.Fatalf("after the change: %v", err)
	}
	if d.PasswordError == nil {
		old := d.Another()
		if _, err := old.Power(ctx); !errors.Is(err, bmc.ErrAuth) {
			t.Errorf("with the one before: %v, want %v", err, bmc.ErrAuth)
		}
		if err := old.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// bios: a reset is asked for once, and what is said of it is so; a stale claim resets nothing.
func bios(t *testing.T, ctx context.Context, d Device) {
	if err := d.Controller.RaiseFence(ctx, claim(9).Epoch); err != nil {
		t.Fatal(err)
	}
	before := d.Writes()
	if _, err := d.Controller.ResetBIOS(ctx, claim(8)); d.Fence == intent.StrengthHard && !errors.Is(err, bmc.ErrFenced) || d.Fence == intent.StrengthHard && d.Writes() != before {
		t.Fatalf("under a stale claim: %v", err)
	}
	if d.Fence == intent.StrengthSoft && d.Defaults != nil {
		d.Defaults() // a soft fence may have let it through
	}
	before = d.Writes()
	eff, err := d.Controller.ResetBIOS(ctx, claim(9))
	if eff != d.ResetEffect || !errors.Is(err, d.ResetError) {
		t.Fatalf("reset: %v %v; want %v %v", eff, err, d.ResetEffect, d.ResetError)
	}
	if errors.Is(d.ResetError, bmc.ErrUnsupported) {
		if d.Writes() != before {
			t.Fatal("what it cannot do was written")
		}
		return
	}
	if b, err := d.Controller.BIOS(ctx); d.BIOSHides && !errors.Is(err, bmc.ErrBusy) || !d.BIOSHides && (err != nil || !b.Resets || b.Pending != (eff == intent.EffectReadback)) {
		t.Fatalf("reads %+v %v after %v", b, err, eff)
	}
	if eff == intent.EffectReadback {
		before := d.Writes()
		if eff, err := d.Controller.ResetBIOS(ctx, claim(9)); eff != intent.EffectNone || err != nil || d.Writes() != before {
			t.Fatalf("asked again: %v %v, %d writes", eff, err, d.Writes()-before)
		}
	}
	if got := d.Defaults(); got != (d.ResetError == nil) {
		t.Fatalf("after a start it has the defaults: %v", got)
	}
	if b, err := d.Controller.BIOS(ctx); !d.BIOSHides && (err != nil || b.Pending) {
		t.Fatalf("after a start: %+v %v", b, err)
	}
}

// accounts: the one that is used is among them; its login is proven with a session of its own.
func accounts(t *testing.T, ctx context.Context, d Device) {
	all, err := d.Controller.Accounts(ctx)
	if err != nil || len(all) == 0 {
		t.Fatalf("%+v %v", all, err)
	}
	if !slices.ContainsFunc(all, func(a bmc.Account) bool { return a.Own }) {
		t.Fatalf("none of them is ours: %+v", all)
	}
	for i, a := range all {
		if a.Name == "" || slices.ContainsFunc(all[:i], func(o bmc.Account) bool { return o.Name == a.Name }) {
			t.Fatalf("%+v", all)
		}
	}
	for range 2 {
		if err := d.Controller.Login(ctx); err != nil {
			t.Fatal(err)
		}
		if n := d.Sessions(); n > 1 && !d.SessionsMayLeak {
			t.Fatalf("%d sessions after a login", n)
		}
	}
}
