package reconcile

import (
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// TestReleaseErasesAndGivesAway: a machine is released, booted to be erased, and available with a receipt, which the other agent signed; the
// next instance gets it under a generation that nothing of the first had.
func TestReleaseErasesAndGivesAway(t *testing.T) {
	owner, other := owners()
	a := ownedBy(t, owner, owner)
	p := newPair(t, pairMachine(), smallType(), a)
	p.installing()
	p.cat.Delete(a.Key())
	p.gone[a.Metadata.UID] = true
	p.until("the boot to be erased", p.is(intent.StateErasing))
	if p.bmc.power != bmc.PowerStateOn {
		t.Errorf("the machine's power is %s", p.bmc.power)
	}
	v, _ := p.half[owner].View("m1")
	p.put(owner, KindSession, Session{ID: "s2", Machine: "m1", Nonce: v.Window.Nonce, Since: time.Now()})
	p.until("its installer's work", func() bool {
		v, _ := p.half[other].View("m1")
		order, _ := DecideWork(v, false)
		return order == OrderErase && v.TaskID() == "erase/m1/1/1"
	})
	v, _ = p.half[owner].View("m1")
	if _, err := p.half[owner].Permitted(t.Context(), v); err != nil {
		t.Fatalf("the owner may not permit: %v", err)
	}
	p.put(other, KindErased, Erased{Instance: v.Release.Instance, Generation: v.Release.Generation, Task: v.TaskID(), Agent: other, Seq: 1, Disks: 1})
	p.until("the receipt counts", p.is(intent.StateAvailable))
	if v, _ = p.half[other].View("m1"); v.Status.Instance != "" {
		t.Errorf("it is available, and of %q", v.Status.Instance)
	}
	for name, h := range p.half {
		if _, held := h.claims.Held(machineID("m1")); held {
			t.Errorf("%s still holds a machine that rests", name)
		}
	}
	p.cat.Put(ownedBy(t, owner, other))
	p.until("the second installation", p.is(intent.StateInstalling))
	if v, _ = p.half[owner].View("m1"); v.Status.Generation != 2 || v.owes() {
		t.Errorf("the second instance has generation %d, owes %v", v.Status.Generation, v.owes())
	}
}
