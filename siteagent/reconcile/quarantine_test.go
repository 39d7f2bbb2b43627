package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// TestQuarantineByHand: a machine at rest is kept out of use by an operator, at either agent, until it is cleared; one that is being
// installed or runs somebody's instance is not, and says what to do instead.
func TestQuarantineByHand(t *testing.T) {
	owner, other := owners()
	p := newPair(t, pairMachine(), smallType())
	p.put(owner, KindInventory, goodFacts())
	p.until("the inspection", p.is(intent.StateAvailable))
	v, _ := p.half[other].View("m1")
	if err := p.half[other].Quarantine(t.Context(), v, "ana: a stranger was at the rack"); err != nil {
		t.Fatal(err)
	}
	a := ownedBy(t, owner, owner)
	p.cat.Put(a)
	for range 5 {
		p.round()
	}
	for name, h := range p.half {
		v, _ := h.View("m1")
		if v.Status.State != intent.StateQuarantined || v.Status.Reason != "ana: a stranger was at the rack" || v.Binding != nil {
			t.Errorf("at %s it is %s (%s), bound %v", name, v.Status.State, v.Status.Reason, v.Binding)
		}
		if _, held := h.claims.Held(machineID("m1")); held {
			t.Errorf("%s still holds its claim", name)
		}
		if err := h.Quarantine(t.Context(), v, "again"); err == nil || !strings.Contains(err.Error(), "quarantined already") {
			t.Errorf("a second time: %v", err)
		}
	}
	v, _ = p.half[owner].View("m1")
	if err := p.half[owner].Clear(t.Context(), v, "it was the electrician"); err != nil {
		t.Fatal(err)
	}
	p.until("another boot to be inspected", func() bool { v, _ := p.half[owner].View("m1"); return v.Window != nil })
	v, _ = p.half[owner].View("m1")
	if err := p.half[owner].Quarantine(t.Context(), v, "now"); err == nil || !strings.Contains(err.Error(), "wait for the end of that") {
		t.Errorf("while it boots to be inspected: %v", err)
	}
	p.put(owner, KindSession, Session{ID: "s9", Machine: "m1", Nonce: v.Window.Nonce, Since: time.Now()})
	f := goodFacts()
	f.Time = time.Now()
	p.put(owner, KindInventory, f)
	p.until("the installation", p.is(intent.StateInstalling))
	for _, st := range []intent.MachineState{intent.StateInstalling, intent.StateRunning} {
		v, _ = p.half[owner].View("m1")
		v.Status.State = st
		if err := v.Untouchable(); err == nil {
			t.Errorf("%s: it may be quarantined", st)
		}
	}
}

// An instance that runs on a machine in maintenance goes on running, and its disks are its own: quarantine, and clear after it, install
// over it.
func TestQuarantineInMaintenance(t *testing.T) {
	owner, _ := owners()
	m := pairMachine()
	p := newPair(t, m, smallType(), array("x", "small", 1))
	p.installing()
	h := p.half[owner]
	v, _ := h.View("m1")
	v.Status.Phase = PhaseFirstBoot
	cl, err := h.claims.Acquire(t.Context(), machineID("m1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.journal.Append(t.Context(), claim.Replicated, claim.Draft{Kind: KindMachine, Key: "m1", Epoch: cl.Epoch, Body: v.Status}); err != nil {
		t.Fatal(err)
	}
	p.put(owner, KindPhoneHome, PhoneHome{Generation: v.Binding.Generation, Hostname: "x-0"})
	p.until("the end of the installation", p.is(intent.StateRunning))
	m.Spec.(*intent.MachineSpec).Maintenance = true
	p.until("maintenance", p.is(intent.StateMaintenance))
	v, _ = h.View("m1")
	was := v.Binding.Generation
	if err := h.Quarantine(t.Context(), v, "ana"); err != nil {
		return // as it should
	}
	m.Spec.(*intent.MachineSpec).Maintenance = false
	v, _ = h.View("m1")
	if err := h.Clear(t.Context(), v, "ana"); err != nil {
		t.Fatal(err)
	}
	p.until("another boot", func() bool {
		v, _ := h.View("m1")
		return v.Status.State == intent.StateDiscovered || v.Status.State == intent.StateExpected && v.Status.Phase != ""
	})
	v, _ = h.View("m1")
	t.Errorf("m1 ran %s of generation %d; now it boots the installer (%s %s), to be written as generation %d", v.Binding.Instance, was, v.Status.State, v.Status.Phase, v.Binding.Generation)
}

type deadBMC struct{ *fakeBMC }

func (deadBMC) ReadFence(context.Context) (intent.Epoch, intent.Strength, error) {
	return intent.Epoch{}, intent.StrengthNone, errors.New("no route to host")
}
func (deadBMC) Close(context.Context) error { return nil }

// A machine whose BMC answers nobody can be quarantined: nothing is written to it.
func TestQuarantineOfDeadBMC(t *testing.T) {
	owner, _ := owners()
	p := newPair(t, pairMachine(), smallType())
	p.put(owner, KindInventory, goodFacts())
	p.until("the inspection", p.is(intent.StateAvailable))
	h := p.half[owner]
	h.cfg.Dial = func(context.Context, string, *intent.BMCSpec) (bmc.Controller, error) { return deadBMC{p.bmc}, nil }
	h.mu.Lock()
	clear(h.bmcs)
	h.mu.Unlock()
	v, _ := h.View("m1")
	if err := h.Quarantine(t.Context(), v, "ana: its BMC is dead"); err != nil {
		t.Error(err)
	}
}

// An agent that is behind asks before it takes a machine out of its instance's hands, as bind does: m1 runs, and only its peer knows.
func TestQuarantineBehind(t *testing.T) {
	owner, other := owners()
	p := newPair(t, pairMachine())
	b := standing()
	p.cat.Put(&intent.Object{
		APIVersion: "skerry/v1", Kind: intent.KindInstanceArray, Metadata: intent.Metadata{Name: "web", Project: "shop", Site: "lon1", UID: "u1", Rev: 1},
		Spec: &intent.InstanceArraySpec{Infrastructure: "web", Count: 1, MachineType: "small", Image: "debian"},
	})
	b.Instance = InstanceUID("u1", 0)
	status := intent.MachineStatus{State: intent.StateRunning, Since: time.Now(), Generation: 1, InstanceUID: b.Instance}
	if err := p.half[other].journal.Append(t.Context(), claim.Local, claim.Draft{Kind: KindMachine, Key: "m1", Body: status}, claim.Draft{Kind: KindBinding, Key: b.Instance, Body: b}); err != nil {
		t.Fatal(err)
	}
	v, _ := p.half[owner].View("m1")
	if err := p.half[owner].Quarantine(t.Context(), v, "ana"); err == nil {
		now, _ := p.half[owner].View("m1")
		t.Errorf("a running machine is %s by who knew nothing of it", now.Status.State)
	}
}

// TestOperatorBetweenSteps: steps on a machine whose BMC is dead fail again and again. An operator's act waits for the one that runs, and not for
// the rest after it; behind one that takes too long it says so.
func TestOperatorBetweenSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Log: slog.New(slog.DiscardHandler)})
		end := make(chan struct{})
		c.start(t.Context(), "machine/m1", "m1", func(context.Context) error { <-end; return errors.New("no route to host") })
		begun := time.Now()
		if err := c.seize(t.Context(), "machine/m1"); err == nil || time.Since(begun) != operatorWait {
			t.Errorf("behind a step that goes on: %v after %v", err, time.Since(begun))
		}
		go func() { time.Sleep(time.Second); close(end) }()
		begun = time.Now()
		if err := c.seize(t.Context(), "machine/m1"); err != nil || time.Since(begun) != time.Second {
			t.Errorf("at its end: %v after %v", err, time.Since(begun))
		}
		ran := false
		c.start(t.Context(), "machine/m1", "m1", func(context.Context) error { ran = true; return nil })
		c.free("machine/m1")
		c.start(t.Context(), "machine/m1", "m1", func(context.Context) error { ran = true; return nil }) // it rests
		c.wg.Wait()
		if ran {
			t.Error("a step ran beside the operator, or in the rest after one that failed")
		}
		time.Sleep(rest)
		c.start(t.Context(), "machine/m1", "m1", func(context.Context) error { ran = true; return nil })
		if c.wg.Wait(); !ran {
			t.Error("no step runs any more")
		}
	})
}
