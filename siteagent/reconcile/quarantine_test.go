package reconcile

import (
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
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
