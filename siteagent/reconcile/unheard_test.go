package reconcile

import (
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
)

// told counts the events of a type that an agent wrote or heard of.
func (h *half) told(kind string) (n int) {
	h.p.t.Helper()
	if err := h.journal.Events(nil, func(e intent.Event) error {
		if e.Type == kind {
			n++
		}
		return nil
	}); err != nil {
		h.p.t.Fatal(err)
	}
	return n
}

// TestPeerKnowsMore: a box that has just taken a place knows nothing of the machines. It asks before it touches one: a running machine stays
// on, whatever the plan of an agent with an empty journal is.
func TestPeerKnowsMore(t *testing.T) {
	p := newPair(t, pairMachine())
	owner, other := owners()
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
	p.bmc.power = bmc.PowerStateOn
	touched := false
	p.bmc.point = func(string) { touched = true }
	for range 3 {
		p.half[owner].turn()
	}
	if touched || p.bmc.power != bmc.PowerStateOn {
		t.Error("a running machine was touched by who knew nothing of it")
	}
	if v, _ := p.half[owner].View("m1"); v.Status.State != intent.StateRunning {
		t.Errorf("m1 is %s here", v.Status.State)
	}
}

// TestUnknownMachineStaysOn: where nobody is left who knows, a machine that is on, and that this site drove before, is held and told of once;
// when somebody powers it off it is taken in.
func TestUnknownMachineStaysOn(t *testing.T) {
	p := newPair(t, pairMachine())
	owner, _ := owners()
	h := p.half[owner]
	p.cut = true // the other one is dead, and took its journal with it
	p.bmc.power, p.bmc.fence = bmc.PowerStateOn, intent.Epoch{Generation: 1, N: 9}
	for range 3 {
		h.turn()
	}
	told := h.told("machine.held")
	if p.bmc.power != bmc.PowerStateOn || p.bmc.cycles != 0 || told != 1 {
		t.Errorf("power %s after %d cycles, told %d times", p.bmc.power, p.bmc.cycles, told)
	}
	p.bmc.power = bmc.PowerStateOff
	for range 3 {
		h.turn()
	}
	if p.bmc.cycles != 1 {
		t.Errorf("a machine that was powered off was booted %d times, want 1", p.bmc.cycles)
	}
}

// TestPartOfWhatPeerKnows: a box that has just taken a place takes the journals of its peers page by page. What it knows between two pages
// is the past: it decides nothing on it, not even without a touch of the machine, for its word would be the newest.
func TestPartOfWhatPeerKnows(t *testing.T) {
	owner, other := owners()
	p := newPair(t, pairMachine(), smallType(), ownedBy(t, owner, other))
	old, young := p.half[other], p.half[owner]
	b := standing()
	b.Instance, b.Array = InstanceUID(p.cat.List(intent.KindInstanceArray)[0].Metadata.UID, 0), p.cat.List(intent.KindInstanceArray)[0].Metadata.Name
	write := func(drafts ...claim.Draft) {
		t.Helper()
		if err := old.journal.Append(t.Context(), claim.Local, drafts...); err != nil {
			t.Fatal(err)
		}
	}
	write(
		claim.Draft{Kind: KindMachine, Key: "m1", Body: intent.MachineStatus{State: intent.StateDiscovered, Phase: PhaseInventory, Since: time.Now()}},
		claim.Draft{Kind: KindInventory, Key: "m1", Body: goodFacts()},
		claim.Draft{Kind: KindBinding, Key: b.Instance, Body: b},
	)
	page, err := old.journal.Range(other, 1, claim.MaxPull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := young.journal.Receive(other, page); err != nil {
		t.Fatal(err)
	}
	write(claim.Draft{Kind: KindMachine, Key: "m1", Body: intent.MachineStatus{State: intent.StateRunning, Since: time.Now(), Generation: 1, InstanceUID: b.Instance}})
	p.bmc.power = bmc.PowerStateOn
	touched := false
	p.bmc.point = func(string) { touched = true }
	for range 5 {
		young.turn()
	}
	if touched || p.bmc.power != bmc.PowerStateOn || p.bmc.cycles != 0 {
		t.Errorf("a running machine was touched by who knew a part of its past: power %s after %d cycles", p.bmc.power, p.bmc.cycles)
	}
	if v, _ := young.View("m1"); v.Status.State != intent.StateRunning {
		t.Errorf("m1 is %s here", v.Status.State)
	}
}

// TestDrivenByWhoIsNotHeard: what was known of a machine when the site fell in two says nothing once its BMC shows that an agent drove it
// that is not heard. It is left alone, in the record too, and told of once: until that agent is heard, or in quarantine.
func TestDrivenByWhoIsNotHeard(t *testing.T) {
	owner, other := owners()
	drafts := func(state intent.MachineState, phase string, since time.Time, uid string) []claim.Draft {
		b := standing()
		b.Instance = uid
		status := intent.MachineStatus{State: state, Phase: phase, Since: since, Generation: b.Generation, Attempts: 1, InstanceUID: uid}
		return []claim.Draft{{Kind: KindMachine, Key: "m1", Body: status}, {Kind: KindBinding, Key: uid, Body: b}}
	}
	for _, end := range []string{"heard", "quarantined"} {
		t.Run(end, func(t *testing.T) {
			p := newPair(t, pairMachine(), smallType(), ownedBy(t, owner, other))
			uid := InstanceUID(p.cat.List(intent.KindInstanceArray)[0].Metadata.UID, 0)
			h, o := p.half[owner], p.half[other]
			if err := o.journal.Append(t.Context(), claim.Replicated, drafts(intent.StateInstalling, PhaseFirstBoot, time.Now().Add(-time.Hour), uid)...); err != nil {
				t.Fatal(err)
			}
			p.cut = true // the other one goes on, and ends the installation
			p.bmc.power, p.bmc.fence = bmc.PowerStateOn, intent.Epoch{Generation: 1, N: 9}
			if err := o.journal.Append(t.Context(), claim.Local, drafts(intent.StateRunning, "", time.Now(), uid)...); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				h.turn()
			}
			told := h.told("machine.held")
			if p.bmc.cycles != 0 || told != 1 {
				t.Errorf("%d power cycles, told %d times", p.bmc.cycles, told)
			}
			cycles := 0
			if p.cut = end != "heard"; p.cut {
				p.alone, cycles = owner, 1
			}
			for range 5 {
				h.turn()
			}
			if p.bmc.cycles != cycles {
				t.Errorf("%d power cycles at the end, want %d", p.bmc.cycles, cycles)
			}
			if v, _ := h.View("m1"); !p.cut && v.Status.State != intent.StateRunning {
				t.Errorf("m1 is %s", v.Status.State)
			}
		})
	}
}
