package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/storage/state"
)

// fakeBMC is one machine with a hard fence. It counts what reaches the hardware.
type fakeBMC struct {
	bmc.Controller // what these tests do not use panics
	power          bmc.PowerState
	boot           bmc.BootSpec
	fence          intent.Epoch
	cycles         int // from off to on
	point          func(string)

	resets  bool // it can reset its BIOS settings
	user    bool // they are what a user left
	pending bool
	asked   int
	refuses bool     // it lets nobody in
	names   []string // of accounts beside ours
	own     int      // how often its own settings were reset
}

func (b *fakeBMC) BIOS(context.Context) (bmc.BIOS, error) {
	return bmc.BIOS{Resets: b.resets, Tells: b.resets, Pending: b.pending}, nil
}

func (b *fakeBMC) ResetBIOS(_ context.Context, c intent.Claim) (intent.Effect, error) {
	switch {
	case !b.resets:
		return intent.EffectNone, bmc.ErrUnsupported
	case b.pending:
		return intent.EffectNone, nil
	}
	return b.write(c, "bios reset", func() { b.pending = true; b.asked++ })
}

func (b *fakeBMC) ResetController(_ context.Context, c intent.Claim) error {
	_, err := b.write(c, "bmc reset", func() { b.own++ })
	return err
}

func (b *fakeBMC) Login(context.Context) error {
	if b.refuses {
		return bmc.ErrAuth
	}
	return nil
}

func (b *fakeBMC) Accounts(context.Context) ([]bmc.Account, error) {
	out := []bmc.Account{{Name: "skerry", Own: true}}
	for _, n := range b.names {
		out = append(out, bmc.Account{Name: n})
	}
	return out, nil
}

func (b *fakeBMC) write(c intent.Claim, what string, do func()) (intent.Effect, error) {
	if c.Epoch.Compare(b.fence) < 0 {
		return intent.EffectNone, bmc.ErrFenced
	}
	b.point("before " + what)
	do()
	b.point("after " + what)
	return intent.EffectReadback, nil
}

func (b *fakeBMC) Power(context.Context) (bmc.PowerState, error) { return b.power, nil }

func (b *fakeBMC) SetPower(_ context.Context, c intent.Claim, a bmc.PowerAction) (intent.Effect, error) {
	want := map[bmc.PowerAction]bmc.PowerState{bmc.PowerOn: bmc.PowerStateOn, bmc.PowerOff: bmc.PowerStateOff}[a]
	if b.power == want { // drivers read before they write
		return intent.EffectNone, nil
	}
	return b.write(c, "power "+string(a), func() {
		b.power = want
		if a == bmc.PowerOn {
			b.cycles++
			if b.pending {
				b.pending, b.user = false, false
			}
		}
	})
}

func (b *fakeBMC) SetBoot(_ context.Context, c intent.Claim, s bmc.BootSpec) (intent.Effect, error) {
	if b.boot == s {
		return intent.EffectNone, nil
	}
	return b.write(c, "boot", func() { b.boot = s })
}

func (b *fakeBMC) ReadFence(context.Context) (intent.Epoch, intent.Strength, error) {
	return b.fence, intent.StrengthHard, nil
}

func (b *fakeBMC) RaiseFence(_ context.Context, e intent.Epoch) error {
	if e.Compare(b.fence) < 0 {
		return bmc.ErrFenced
	}
	b.fence = e
	return nil
}

func (b *fakeBMC) Close(context.Context) error { return nil }

// oneAgent is a site of one.
type oneAgent struct{ claim.Remote }

func (oneAgent) Members() (uint64, []claim.Member) {
	return 1, []claim.Member{{ID: "a1", Alive: true}}
}

type crash struct{ at string }

// life is one process life of an agent over a store that outlives it.
type life struct {
	t    *testing.T
	dir  string
	bmc  *fakeBMC
	left int // points until the crash; below zero: none
	seen []string
	boot int
	// seed is journaled before the first life; after is what happens to the machine after a step.
	seed  []claim.Draft
	after func(v MachineView) []claim.Draft
	shift time.Duration // of the clock
	// resetBMC: the machine's type wants it.
	resetBMC bool
}

// kind is the machine's type.
func (l *life) kind() *intent.Object {
	return &intent.Object{APIVersion: "skerry/v1", Kind: intent.KindMachineType, Metadata: intent.Metadata{Name: "small", UID: "small"}, Spec: &intent.MachineTypeSpec{ResetBMC: l.resetBMC}}
}

func (l *life) point(name string) {
	l.seen = append(l.seen, name)
	if l.left == 0 {
		l.left = -1
		panic(crash{name})
	}
	l.left--
}

// run plans and applies until nothing is left to do, or the crash. It returns the machine's view.
func (l *life) run() (v MachineView, j *claim.Journal, crashed string, done func()) {
	l.t.Helper()
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: l.dir, Key: make([]byte, 32), Logger: log, UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	if err != nil {
		l.t.Fatal(err)
	}
	done = func() {
		if err := db.Close(); err != nil {
			l.t.Error(err)
		}
	}
	defer func() {
		if r := recover(); r != nil {
			c, ok := r.(crash)
			if !ok {
				panic(r)
			}
			crashed = c.at
		}
	}()
	if j, err = claim.OpenJournal(db, "lon1", "a1", log); err != nil {
		l.t.Fatal(err)
	}
	if l.boot == 0 && l.seed != nil {
		if err := j.Append(l.t.Context(), claim.Local, l.seed...); err != nil {
			l.t.Fatal(err)
		}
	}
	j.OnRecord(func(_ *claim.Record, r claim.Record) { l.point(fmt.Sprintf("after %s is journaled", r.Kind)) })
	l.boot++
	claims := claim.NewClaims(db, "a1", fmt.Sprint(l.boot), oneAgent{}, oneAgent{}, log)
	if err := claims.ReleaseStale(); err != nil {
		l.t.Fatal(err)
	}
	m := &intent.Object{
		APIVersion: "skerry/v1", Kind: intent.KindMachine, Metadata: intent.Metadata{Name: "m1", Site: "lon1", UID: "m1"},
		Spec: &intent.MachineSpec{BMC: &intent.BMCSpec{}, NICs: []intent.NIC{{MAC: "52:54:00:00:00:01", Boot: true}}},
	}
	around := func() Surroundings {
		return Surroundings{Now: time.Now().Add(l.shift), Learned: func(_ string, at time.Time) time.Time { return at }, Heard: func(string) time.Time { return time.Time{} }, Assets: func(*Binding) string { return "" }, BootSlots: 1}
	}
	want := Want{Catalog: intent.NewCatalog(m, l.kind()), Cause: func(string) string { return "" }}
	c := New(Config{
		Self: "a1", Journal: j, Claims: claims, Want: func() Want { return want }, Members: oneAgent{}.Members, Around: around,
		Dial: func(context.Context, string, *intent.BMCSpec) (bmc.Controller, error) { return l.bmc, nil }, Recovering: func() bool { return false }, Log: log,
	})
	l.bmc.point = l.point
	for range 12 {
		v, _ = c.View("m1")
		if l.after != nil {
			if d := l.after(v); d != nil {
				if err := j.Append(l.t.Context(), claim.Local, d...); err != nil {
					l.t.Fatal(err)
				}
			}
			v, _ = c.View("m1")
		}
		step := PlanMachine(v)
		if !step.Changed {
			break
		}
		if err := c.applyMachine(l.t.Context(), v, step); err != nil {
			l.t.Fatal(err)
		}
	}
	return v, j, "", done
}

// TestNetbootCrashes ends the agent at every journal record and before and after every write to the BMC of one netboot. The
// next life always finishes it: with no second power cycle once the first was journaled as done, and never without having
// read the machine's power back.
func TestNetbootCrashes(t *testing.T) {
	for n := 0; ; n++ {
		l := &life{t: t, dir: filepath.Join(quickDir(t), "state"), bmc: &fakeBMC{power: bmc.PowerStateOn}, left: n}
		_, _, crashed, done := l.run()
		done()
		first := len(l.seen)
		if crashed != "" {
			l.left = -1
			_, _, _, done = l.run()
			done()
		}
		v, j, _, done := l.run() // a third life finds nothing to do
		if last := len(l.seen); crashed == "" && last != first {
			t.Fatalf("a life with nothing to do did %v", l.seen[first:])
		}
		check(t, l, v, j, crashed, l.seen[:first])
		done()
		if crashed == "" {
			t.Logf("%d crash points: %q", n, l.seen)
			return
		}
	}
}

func check(t *testing.T, l *life, v MachineView, j *claim.Journal, crashed string, before []string) {
	t.Helper()
	if v.Status.State != intent.StateExpected || v.Status.Phase != PhaseNetboot || v.Status.Attempts != 1 {
		t.Fatalf("crash %s: the machine ends %s/%s #%d", crashed, v.Status.State, v.Status.Phase, v.Status.Attempts)
	}
	if l.bmc.power != bmc.PowerStateOn || l.bmc.boot.Device != bmc.BootNetwork || v.Window == nil {
		t.Fatalf("crash %s: power %s, boot %s, window %v", crashed, l.bmc.power, l.bmc.boot.Device, v.Window)
	}
	tasks := 0
	for _, p := range before {
		if p == "after task is journaled" {
			tasks++
		}
	}
	cycled := len(before) > 0 && (before[len(before)-1] == "after power on" || tasks == 2)
	want := 1
	if cycled && tasks < 2 { // on, and not yet journaled as done: nobody can tell, so it is done again
		want = 2
	}
	if l.bmc.cycles != want {
		t.Fatalf("crash %s: %d power cycles, want %d", crashed, l.bmc.cycles, want)
	}
	rec, ok := claim.Load[TaskRecord](j, KindTask, v.Window.Task)
	if !ok || rec.State != "done" || rec.Epoch != v.Window.Epoch {
		t.Fatalf("crash %s: task %+v", crashed, rec)
	}
	if l.bmc.fence.Compare(rec.Epoch) < 0 {
		t.Fatalf("crash %s: fence %s below the task's epoch %s", crashed, l.bmc.fence, rec.Epoch)
	}
	asked := 0
	err := j.Events(nil, func(e intent.Event) error {
		if e.Type == "machine.power.asked" {
			asked++
		}
		return nil
	})
	if err != nil || asked != 1 {
		t.Fatalf("crash %s: %d machine.power.asked events, %v", crashed, asked, err)
	}
}

// quickDir is a directory in memory where there is one: these tests crash processes, not machines.
func quickDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "skerry-reconcile-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
