package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/storage/state"
)

// pair is a site of two agents with real journals and claims, and one machine m1 with a hard fence. cut parts the agents: each
// sees the other one dead, and long enough.
type pair struct {
	t    *testing.T
	bmc  *fakeBMC
	cat  *intent.Catalog
	gone map[string]bool // uids of arrays with a tombstone
	cut  bool
	// alone is the half that has the other one in quarantine; healed says that this is over.
	alone  string
	healed bool
	half   map[string]*half
}

type half struct {
	name    string
	p       *pair
	journal *claim.Journal
	claims  *claim.Claims
	*Controller
}

func newPair(t *testing.T, objects ...*intent.Object) *pair {
	p := &pair{t: t, bmc: &fakeBMC{power: bmc.PowerStateOff, point: func(string) {}}, cat: intent.NewCatalog(objects...), gone: map[string]bool{}, half: map[string]*half{}}
	log := slog.New(slog.DiscardHandler)
	for _, name := range []string{"a1", "a2"} {
		db, err := state.Open(state.Config{Dir: filepath.Join(quickDir(t), "state"), Key: make([]byte, 32), Logger: log, UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		h := &half{name: name, p: p}
		if h.journal, err = claim.OpenJournal(db, "lon1", name, log); err != nil {
			t.Fatal(err)
		}
		h.claims = claim.NewClaims(db, name, "boot", h, h, log)
		h.Controller = New(Config{
			Self: name, Journal: h.journal, Claims: h.claims, Members: h.Members, Log: log,
			Want: func() Want {
				return Want{Catalog: p.cat, Deleted: p.gone, Cause: func(string) string { return "intent 1.2" }}
			},
			Around: func() Surroundings {
				return Surroundings{Now: time.Now(), Learned: func(_ string, at time.Time) time.Time { return at }, Heard: func(string) time.Time { return time.Time{} }, Assets: func(*Binding) string { return "" }, BootSlots: 1}
			},
			Dial:       func(context.Context, string, *intent.BMCSpec) (bmc.Controller, error) { return p.bmc, nil },
			Recovering: func() bool { return false },
		})
		h.journal.SetPeers(h)
		p.half[name] = h
	}
	return p
}

func (h *half) Members() (uint64, []claim.Member) {
	since := time.Now().Add(-time.Hour)
	out := []claim.Member{{ID: "a1", Alive: true, Since: since}, {ID: "a2", Rank: 1, Alive: true, Since: since}}
	for i := range out {
		out[i].Alive = !h.p.cut || out[i].ID == h.name
	}
	switch {
	case h.p.alone == h.name:
		return 2, slices.DeleteFunc(out, func(m claim.Member) bool { return m.ID != h.name })
	case h.p.healed:
		return 3, out
	}
	return 1, out
}

var errCut = errors.New("no answer")

func (h *half) peer(name string) (*half, error) {
	if h.p.cut {
		return nil, errCut
	}
	return h.p.half[name], nil
}

func (h *half) Live() (out []string) {
	for name := range h.p.half {
		if !h.p.cut && name != h.name {
			out = append(out, name)
		}
	}
	return out
}

func (h *half) Push(_ context.Context, peer string, page claim.Page) (uint64, error) {
	o, err := h.peer(peer)
	if err != nil {
		return 0, err
	}
	last, err := o.journal.Receive(h.name, page)
	if errors.Is(err, claim.ErrChain) { // asked for what is missing, as the agent's handler does
		err = nil
	}
	return last, err
}

func (h *half) Heads(_ context.Context, peer string) (map[string]uint64, error) {
	o, err := h.peer(peer)
	if err != nil {
		return nil, err
	}
	return o.journal.Heads(), nil
}

func (h *half) Pull(_ context.Context, peer, agent string, from uint64) (claim.Page, error) {
	o, err := h.peer(peer)
	if err != nil {
		return claim.Page{}, err
	}
	return o.journal.Range(agent, from, claim.MaxPull)
}

func (h *half) Promise(_ context.Context, peer string, generation uint64, q claim.Promise) error {
	o, err := h.peer(peer)
	if err != nil {
		return err
	}
	return o.claims.OnPromise(generation, q)
}

func (h *half) Confirm(_ context.Context, peer string, q claim.Promise) error {
	o, err := h.peer(peer)
	if err != nil {
		return err
	}
	return o.claims.OnConfirm(q)
}

func (h *half) Release(_ context.Context, peer string, q claim.Promise) error {
	o, err := h.peer(peer)
	if err != nil {
		return err
	}
	return o.claims.OnRelease(q)
}

func (h *half) Promises(_ context.Context, peer string) ([]claim.Promise, error) {
	o, err := h.peer(peer)
	if err != nil {
		return nil, err
	}
	return o.claims.OnPromises()
}

// round lets both agents plan and act once, one after the other.
func (p *pair) round() {
	for _, name := range []string{"a1", "a2"} {
		p.half[name].turn()
	}
}

// turn plans and acts once. Nobody rests: turns take no time.
func (h *half) turn() {
	h.machines(h.p.t.Context(), h.views(), h.cfg.Around().BootSlots)
	h.wg.Wait()
	h.bindings()
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.rest)
}

func (h *half) views() []MachineView {
	return BuildViews(h.journal, h.cfg.Want().Catalog, h.cfg.Around())
}

// bindings plans and makes bindings once.
func (h *half) bindings() {
	h.instances(h.p.t.Context(), h.cfg.Want(), h.views())
	h.wg.Wait()
}

// until lets rounds go by until ok, and fails after twenty.
func (p *pair) until(what string, ok func() bool) {
	p.t.Helper()
	for range 20 {
		if ok() {
			return
		}
		p.round()
	}
	v, _ := p.half["a1"].View("m1")
	p.t.Fatalf("%s does not happen; m1 is %s/%s, bound %+v", what, v.Status.State, v.Status.Phase, v.Binding)
}

func (p *pair) is(state intent.MachineState) func() bool {
	return func() bool {
		for _, h := range p.half {
			if v, _ := h.View("m1"); v.Status.State != state {
				return false
			}
		}
		return true
	}
}

// put journals what an installer would say, at an agent.
func (p *pair) put(agent, kind string, body any) {
	p.t.Helper()
	if err := p.half[agent].journal.Append(p.t.Context(), claim.Replicated, claim.Draft{Kind: kind, Key: "m1", Body: body}); err != nil {
		p.t.Fatal(err)
	}
}

func pairMachine() *intent.Object {
	return &intent.Object{
		APIVersion: "skerry/v1", Kind: intent.KindMachine, Metadata: intent.Metadata{Name: "m1", Site: "lon1", UID: "m1"},
		Spec: &intent.MachineSpec{BMC: &intent.BMCSpec{}, NICs: []intent.NIC{{MAC: "52:54:00:00:00:01", Boot: true}}},
	}
}

func smallType() *intent.Object {
	return &intent.Object{APIVersion: "skerry/v1", Kind: intent.KindMachineType, Metadata: intent.Metadata{Name: "small", UID: "small"}, Spec: smallTypes()["small"]}
}

// ownedBy makes an array of one whose instance's binding is decided by another agent than the owner of the machine, or by the same.
func ownedBy(t *testing.T, machine, decider string) *intent.Object {
	t.Helper()
	members := []claim.Member{{ID: "a1", Alive: true}, {ID: "a2", Rank: 1, Alive: true}}
	if owner := claim.Owner(machineID("m1"), members, time.Now()); owner != machine {
		t.Fatalf("m1 is owned by %s; this test was written for %s", owner, machine)
	}
	for i := range 100 {
		o := array(fmt.Sprintf("web%d", i), "small", 1)
		if claim.Owner("binding/"+InstanceUID(o.Metadata.UID, 0), members, time.Now()) == decider {
			return o
		}
	}
	t.Fatal("no such array")
	return nil
}

// other is the agent that m1 does not belong to.
func owners() (owner, other string) {
	names := claim.Rendezvous(machineID("m1"), []string{"a1", "a2"})
	return names[0], names[1]
}

// installing brings m1 to the point at which its installer writes.
func (p *pair) installing() {
	p.t.Helper()
	owner, _ := owners()
	p.put(owner, KindInventory, goodFacts())
	p.until("the installation", p.is(intent.StateInstalling))
}

// TestReleaseWhileInstalling: the claim of a machine that is being installed stays with its owner; a release that another agent
// would decide must reach it all the same.
func TestReleaseWhileInstalling(t *testing.T) {
	owner, other := owners()
	for _, decider := range []string{owner, other} {
		t.Run("binding decided by "+decider, func(t *testing.T) {
			a := ownedBy(t, owner, decider)
			p := newPair(t, pairMachine(), smallType(), a)
			p.installing()
			p.cat.Delete(a.Key())
			p.gone[a.Metadata.UID] = true
			p.until("the release", p.is(intent.StateReleasing))
			if p.bmc.power != bmc.PowerStateOff {
				t.Errorf("the machine's power is %s", p.bmc.power)
			}
			for name, h := range p.half {
				if _, held := h.claims.Held(machineID("m1")); held {
					t.Errorf("%s still holds a machine that rests", name)
				}
			}
		})
	}
}

// TestReleaseBeforeInstalling: a machine that was bound and released before anything was done to it can be given away again.
func TestReleaseBeforeInstalling(t *testing.T) {
	owner, other := owners()
	first, second := ownedBy(t, owner, owner), ownedBy(t, owner, other)
	p := newPair(t, pairMachine(), smallType())
	p.put(owner, KindInventory, goodFacts())
	p.until("the inspection", p.is(intent.StateAvailable))
	p.cat.Put(first)
	h := p.half[owner]
	h.bindings()
	if b := Bindings(h.journal)[InstanceUID(first.Metadata.UID, 0)]; b.Machine != "m1" {
		t.Fatalf("m1 was not bound: %+v", b)
	}
	p.cat.Delete(first.Key())
	p.gone[first.Metadata.UID] = true
	h.bindings()
	p.cat.Put(second)
	p.until("the second installation", p.is(intent.StateInstalling))
}

// TestSurvivorFinishes: an agent that took over an installation goes on with it when the natural owner is back.
func TestSurvivorFinishes(t *testing.T) {
	owner, other := owners()
	p := newPair(t, pairMachine(), smallType(), ownedBy(t, owner, other))
	p.put(owner, KindInventory, goodFacts())
	p.until("the inspection", p.is(intent.StateAvailable))
	p.cut = true
	survivor, back := p.half[other], p.half[owner]
	for range 10 {
		survivor.turn()
	}
	if v, _ := survivor.View("m1"); v.Status.State != intent.StateInstalling {
		t.Fatalf("the survivor has m1 %s", v.Status.State)
	}
	p.cut = false
	v, _ := survivor.View("m1")
	if _, err := survivor.Permitted(t.Context(), v); err != nil {
		t.Fatalf("the survivor may not let its installer write: %v", err)
	}
	if who := back.claims.Holder(machineID("m1")); who != other {
		t.Errorf("%s says that %q holds m1", owner, who)
	}
	if _, err := back.Permitted(t.Context(), v); err == nil {
		t.Error("the natural owner permits a write under the survivor's claim")
	}
	v.Status.Phase = PhaseFirstBoot
	cl, _ := survivor.claims.Held(machineID("m1"))
	err := survivor.journal.Append(t.Context(), claim.Replicated, claim.Draft{Kind: KindMachine, Key: "m1", Epoch: cl.Epoch, Body: v.Status})
	if err != nil {
		t.Fatal(err)
	}
	p.put(other, KindPhoneHome, PhoneHome{Generation: v.Binding.Generation, Hostname: "web-0"})
	p.until("the end of the installation", p.is(intent.StateRunning))
}

// TestMachineDrivenByWhoIsNotHeard: two halves of a site that see each other dead never give one machine to two instances: the
// machine's fence shows the second that somebody drove it.
func TestMachineDrivenByWhoIsNotHeard(t *testing.T) {
	owner, other := owners()
	x, y := array("x", "small", 1), array("y", "small", 1)
	p := newPair(t, pairMachine(), smallType())
	p.put(owner, KindInventory, goodFacts())
	p.until("the inspection", p.is(intent.StateAvailable))
	p.cut = true
	both := p.cat
	for name, a := range map[string]*intent.Object{owner: x, other: y} {
		p.cat = both.Clone()
		p.cat.Put(a)
		h := p.half[name]
		for range 3 {
			h.turn()
		}
	}
	p.cut = false
	p.cat.Put(x)
	p.cat.Put(y)
	for name := range p.half { // what was missed goes with the next record
		p.put(name, KindTask, TaskRecord{})
	}
	for range 3 {
		p.round()
	}
	var bound []string
	for uid, b := range Bindings(p.half[other].journal) {
		if !b.Released {
			bound = append(bound, uid)
		}
	}
	slices.Sort(bound)
	if len(bound) != 1 {
		t.Errorf("m1 belongs to %d instances: %v", len(bound), bound)
	}
}

// TestQuarantinedHalfGaveItToo: one half gives the machine away under its fence, without hearing that the other one has it in quarantine
// and decides alone. When that is over the machine belongs to the instance that its state names, at both, and the other instance is let
// go without a touch of the machine.
func TestQuarantinedHalfGaveItToo(t *testing.T) {
	owner, other := owners()
	x, y := array("x", "small", 1), array("y", "small", 1)
	p := newPair(t, pairMachine(), smallType())
	p.put(owner, KindInventory, goodFacts())
	p.until("the inspection", p.is(intent.StateAvailable))
	p.cut = true
	before := p.cat
	turn := func(name string, a *intent.Object) {
		p.cat = before.Clone()
		p.cat.Put(a)
		for range 3 {
			p.half[name].turn()
		}
		if b := Bindings(p.half[name].journal)[InstanceUID(a.Metadata.UID, 0)]; b.Machine != "m1" {
			t.Fatalf("%s gave %s %q", name, a.Metadata.Name, b.Machine)
		}
	}
	turn(owner, x)
	p.alone = other
	turn(other, y)
	p.cut, p.alone, p.healed = false, "", true
	p.cat.Put(x)
	p.cat.Put(y)
	powered := p.bmc.power
	for name := range p.half {
		p.put(name, KindTask, TaskRecord{})
	}
	for range 4 {
		p.round()
	}
	for name, h := range p.half {
		bs := Bindings(h.journal)
		lost, has := bs[InstanceUID(x.Metadata.UID, 0)], bs[InstanceUID(y.Metadata.UID, 0)]
		v, _ := h.View("m1")
		if !lost.Released || !lost.Displaced || has.Released || has.Machine != "m1" || v.Binding == nil || v.Binding.Instance != has.Instance || v.Status.InstanceUID != has.Instance {
			t.Errorf("%s: %+v\n%+v\nstate %+v, binding %+v", name, lost, has, v.Status, v.Binding)
		}
	}
	if p.bmc.power != powered && p.bmc.power == bmc.PowerStateOff {
		t.Error("the machine was powered off for it")
	}
}

// TestChores: what a BMC needs is done under the claim, by the one agent that acts on the machine, while the machine rests, and never
// in the middle of an installation; why it failed is told, and that a claim was refused is not the BMC's failure.
func TestChores(t *testing.T) {
	owner, other := owners()
	p := newPair(t, pairMachine(), smallType())
	seen, failed := map[intent.MachineState]int{}, 0
	fails := errors.New("it fails")
	for name, h := range p.half {
		h.cfg.Chore = func(v MachineView) *Chore {
			return &Chore{
				Do: func(_ context.Context, cl intent.Claim, ctl bmc.Controller) error {
					seen[v.Status.State]++
					if held, ok := h.claims.Held(machineID("m1")); name != owner || !ok || held.Epoch != cl.Epoch || ctl != p.bmc {
						t.Errorf("done by %s under %v (%v)", name, cl, ok)
					}
					return fails
				},
				Failed: func(_ context.Context, err error) {
					if failed++; !errors.Is(err, fails) {
						t.Errorf("told of %v", err)
					}
				},
			}
		}
	}
	p.put(owner, KindInventory, goodFacts())
	p.until("the inspection", p.is(intent.StateAvailable))
	p.round()
	if seen[intent.StateAvailable] == 0 {
		t.Error("nothing was done while the machine rested")
	}
	if _, err := p.half[other].claims.Acquire(t.Context(), machineID("m1"), p.bmc); err != nil {
		t.Fatal(err)
	}
	before := seen[intent.StateAvailable]
	p.half[owner].turn() // its claim is refused
	if seen[intent.StateAvailable] != before || failed != before {
		t.Errorf("without the claim: done %d times, %d failures told, %d before", seen[intent.StateAvailable], failed, before)
	}
	p.half[other].claims.Release(t.Context(), machineID("m1"))
	p.cat.Put(ownedBy(t, owner, other))
	p.until("the installation", p.is(intent.StateInstalling))
	for range 3 {
		p.round()
	}
	done := 0
	for state, n := range seen {
		if done += n; !resting(intent.MachineStatus{State: state}) {
			t.Errorf("%d times while the machine was %s", n, state)
		}
	}
	if done == 0 || failed != done {
		t.Errorf("done %d times, %d failures told", done, failed)
	}
	for _, h := range p.half {
		if v, _ := h.View("m1"); v.Status.State != intent.StateInstalling {
			t.Errorf("the machine is %s at %s", v.Status.State, h.name)
		}
	}
}
