package reconcile

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile/firmware"
)

// Phases that an installer's progress record may carry beside the installer's own.
const (
	ProgressWait = "wait"   // it polls for work
	ProgressOff  = "off"    // it was told to power off
	ProgressBoot = "reboot" // it was told to reboot
)

// Surroundings are what views need beside journal and intent.
type Surroundings struct {
	Now time.Time
	// Learned returns when, by this process's clock, something came about that a record dates at.
	Learned func(what string, at time.Time) time.Time
	// Heard returns when this agent itself last heard of a machine's installer; zero: never.
	Heard func(machine string) time.Time
	// Assets says why boot assets or the binding's image are not complete at the site; "" = they are. b is nil for inspection.
	Assets func(b *Binding) string
	// Decision is the coordinator's about an override: adopt, discard or ""; nil: none is heard.
	Decision func(override string) string
	// Held returns since when, by this process's clock, what a record dates at has been held; only time in which the agent ran counts.
	Held func(what string, at time.Time) time.Time
	// Erase is the site's policy, as intent.SiteSpec has it.
	Erase string
	// BootSlots is how many machines may load an installer at once.
	BootSlots int
}

// fold is what the views of all machines share.
type fold struct {
	j         *claim.Journal
	s         Surroundings
	types     map[string]*intent.MachineTypeSpec
	bindings  map[string]Binding  // by instance
	byMachine map[string]*Binding // that stands, else the last one
}

func newFold(j *claim.Journal, c *intent.Catalog, s Surroundings) *fold {
	f := &fold{j, s, map[string]*intent.MachineTypeSpec{}, Bindings(j), map[string]*Binding{}}
	for _, o := range c.List(intent.KindMachineType) {
		f.types[o.Metadata.Name] = o.Spec.(*intent.MachineTypeSpec)
	}
	losers := displaced(j)
	for _, uid := range slices.Sorted(maps.Keys(f.bindings)) { // every agent picks the same of two
		b := f.bindings[uid]
		if losers[uid] != "" {
			continue
		}
		if old := f.byMachine[b.Machine]; old == nil || (old.Released && !b.Released) || (old.Released == b.Released && b.Generation > old.Generation) {
			f.byMachine[b.Machine] = &b
		}
	}
	return f
}

// view is that of one declared machine, without SlotFree.
func (f *fold) view(o *intent.Object) MachineView {
	v := view(f.j, o.Metadata.Name, f.s)
	v.Spec, v.Types, v.Binding = o.Spec.(*intent.MachineSpec), f.types, f.byMachine[o.Metadata.Name]
	if b, ok := f.bindings[v.Status.InstanceUID]; ok && b.Machine != v.Name {
		v.Successor = b.Machine
	}
	v.Policy = f.s.Erase
	if v.Assets = f.s.Assets(v.Binding); v.owes() {
		v.Assets = f.s.Assets(nil)
	}
	return v
}

// BuildViews folds the journal and the effective intent into one view per declared machine, in order of names.
func BuildViews(j *claim.Journal, c *intent.Catalog, s Surroundings) []MachineView {
	f := newFold(j, c, s)
	var out []MachineView
	busy := 0
	for _, o := range c.List(intent.KindMachine) {
		v := f.view(o)
		if v.loading() {
			busy++
		}
		out = append(out, v)
	}
	for i := range out {
		out[i].SlotFree = busy < s.BootSlots
	}
	return out
}

// BuildView is BuildViews for one machine: of the others it looks only at those that may occupy a boot slot. ok is false for one that is
// not declared.
func BuildView(j *claim.Journal, c *intent.Catalog, s Surroundings, machine string) (v MachineView, ok bool) {
	f, busy := newFold(j, c, s), 0
	for _, o := range c.List(intent.KindMachine) {
		name := o.Metadata.Name
		if name == machine {
			v, ok = f.view(o), true
		}
		if st := claim.Shared[intent.MachineStatus](j, KindMachine, name); st != nil && mayOccupy(st.State) && view(j, name, s).loading() {
			busy++
		}
	}
	v.SlotFree = ok && busy < s.BootSlots
	return v, ok
}

// mayOccupy tells whether a machine of that state may occupy a boot slot: see loading.
func mayOccupy(s intent.MachineState) bool {
	switch s {
	case intent.StateInstalling, intent.StateErasing, intent.StateAllocated, intent.StateExpected, intent.StateDiscovered:
		return true
	}
	return false
}

// loading tells whether the machine occupies a boot slot: from its power-on to the end of its installation's first boot.
func (v MachineView) loading() bool {
	switch v.Status.State {
	case intent.StateInstalling, intent.StateErasing:
		return true
	case intent.StateAllocated:
		return v.live()
	case intent.StateExpected, intent.StateDiscovered:
		return v.Status.Phase != ""
	}
	return false
}

// load returns a copy of the newest record of (kind, key), of which what it points to is everybody's; nil: there is none.
func load[T any](j *claim.Journal, kind, key string) *T {
	v := claim.Shared[T](j, kind, key)
	if v == nil {
		return nil
	}
	own := *v
	return &own
}

func view(j *claim.Journal, name string, s Surroundings) MachineView {
	v := MachineView{
		Name: name, Now: s.Now,
		Accepted: load[Facts](j, KindAccepted, name), Inventory: load[Facts](j, KindInventory, name),
		Window: load[Window](j, KindWindow, name), Session: load[Session](j, KindSession, name),
		Evidence: load[Evidence](j, KindEvidence, name), Done: load[Done](j, KindDone, name), PhoneHome: load[PhoneHome](j, KindPhoneHome, name),
		Release: load[Release](j, KindRelease, name), Erased: load[Erased](j, KindErased, name), Approval: load[Approval](j, KindApproval, name),
		Firmware: load[firmware.Record](j, firmware.Kind, name),
	}
	if v.Release != nil {
		if id, ok := strings.CutPrefix(v.Release.Cause, "override "); ok {
			v.Freed, v.Decision = s.Held("release/"+name, v.Release.Time), s.Decision(id)
		}
	}
	if st := load[intent.MachineStatus](j, KindMachine, name); st != nil {
		v.Status = *st
	}
	v.Entered = s.Learned("status/"+name, v.Status.Since)
	if f := load[Fetched](j, KindFetched, name); f != nil && v.Window != nil && f.Nonce == v.Window.Nonce {
		v.Fetched = s.Learned("fetched/"+name, f.Time)
	}
	if v.Window != nil {
		v.Opened, v.Pressed = s.Learned("window/"+name, v.Window.Opened), newer(j, name, KindWindow, KindMachine)
	}
	if v.Session == nil {
		return v
	}
	word := func(at time.Time) {
		if at.After(v.LastWord) {
			v.LastWord = at
		}
	}
	v.LastWord = s.Learned("session/"+name, v.Session.Since)
	if v.Inventory != nil {
		v.Newer = newer(j, name, KindInventory, KindSession)
		word(s.Learned("inventory/"+name, v.Inventory.Time))
	}
	word(s.Heard(name))
	if r, ok := j.Latest(KindProgress, name); ok {
		if p := claim.Shared[Progress](j, KindProgress, name); p != nil && p.Session == v.Session.ID {
			word(s.Learned("progress/"+name, r.Time))
			v.Closed = p.Phase == ProgressOff || p.Phase == ProgressBoot
		}
	}
	return v
}

// newer tells whether the record of kind a came after the one of kind b, or there is none of b.
func newer(j *claim.Journal, name, a, b string) bool {
	x, _ := j.Latest(a, name)
	y, ok := j.Latest(b, name)
	return !ok || x.Clock > y.Clock
}

// displaced returns the standing bindings whose machine another instance has, with the uid of that one. Two halves of a site that could
// not hear each other, one of which has the other in quarantine, may each have given it away. Who the machine's state names stays,
// because state and claim go together; where it names neither, the younger decision (mesh.md section 7).
func displaced(j *claim.Journal) map[string]string {
	type holder struct {
		uid   string
		epoch intent.Epoch
	}
	on := map[string][]holder{}
	for _, uid := range j.Keys(KindBinding) {
		r, _ := j.Latest(KindBinding, uid)
		if b := claim.Shared[Binding](j, KindBinding, uid); b != nil && !b.Released {
			on[b.Machine] = append(on[b.Machine], holder{uid, r.Epoch})
		}
	}
	out := map[string]string{}
	for machine, hs := range on {
		if len(hs) < 2 {
			continue
		}
		named := ""
		if st := load[intent.MachineStatus](j, KindMachine, machine); st != nil {
			named = st.InstanceUID
		}
		stays := slices.MaxFunc(hs, func(a, b holder) int {
			if (a.uid == named) != (b.uid == named) {
				return map[bool]int{true: 1, false: -1}[a.uid == named]
			}
			return a.epoch.Compare(b.epoch)
		})
		for _, h := range hs {
			if h.uid != stays.uid {
				out[h.uid] = stays.uid
			}
		}
	}
	return out
}

// InstanceAt returns the uid of the instance that has a machine; empty: none has.
func InstanceAt(j *claim.Journal, machine string) string {
	for uid, b := range Bindings(j) {
		if b.Machine == machine && !b.Released {
			return uid
		}
	}
	return ""
}

// Bindings returns the standing and released bindings by instance uid.
func Bindings(j *claim.Journal) map[string]Binding {
	out := map[string]Binding{}
	for _, uid := range j.Keys(KindBinding) {
		if b := claim.Shared[Binding](j, KindBinding, uid); b != nil { // written by us; a damaged record is refused by the store before
			out[uid] = *b
		}
	}
	return out
}
