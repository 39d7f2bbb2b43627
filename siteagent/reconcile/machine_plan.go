package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/reconcile/firmware"
)

// The limits of boot.md section 1.
const (
	bootTimeout  = 20 * time.Minute // power-on to hello: slow firmware with many option ROMs
	fetchTimeout = 10 * time.Minute // all of the ramdisk to hello: disks are looked for, and ports of switches come up
	helloTimeout = 5 * time.Minute  // hello to inventory
	writeTimeout = 2 * time.Minute  // without a word of the installer while it writes
	firstBoot    = 20 * time.Minute // reboot to phone-home
	windowOpen   = 10 * time.Minute // how long a script with a token may be fetched
	maxAttempts  = 3                // per generation, each with a new permission
	sessionQuiet = 90 * time.Second // a session without a word for this long does not count as a waiting installer
)

// The phases of a machine that is inspected or installed.
const (
	PhaseAssets    = "assets"     // waits until boot assets and image are at the site
	PhaseNetboot   = "netboot"    // was powered on to boot from the network
	PhaseInventory = "inventory"  // said hello
	PhaseWrite     = "write"      // has or asks for its permission, and writes
	PhaseFirstBoot = "first-boot" // boots from its own disk
)

// MachineView is everything that decides what to do with one machine. It is a value: no clock, no I/O.
type MachineView struct {
	Name      string
	Spec      *intent.MachineSpec
	Status    intent.MachineStatus // State "" = never seen
	Accepted  *Facts
	Inventory *Facts
	Binding   *Binding
	Successor string // machine that its instance has by a later decision; "" = none
	Window    *Window
	Release   *Release         // the last one
	Erased    *Erased          // the last one
	Firmware  *firmware.Record // the last one
	Approval  *Approval        // the last one
	Policy    string           // Site.spec.erase
	Decision  string           // adopt, discard: of the coordinator, about the override that released it
	Session   *Session
	LastWord  time.Time // of the session's installer
	Closed    bool      // the installer was told to reboot or power off
	Evidence  *Evidence
	Done      *Done
	PhoneHome *PhoneHome
	Types     map[string]*intent.MachineTypeSpec
	Assets    string // why boot assets or image are not at the site yet; "" = they are
	SlotFree  bool   // another machine may load an installer now
	// Clocks of agents differ, and jump. Now and the times that follow are by this process's own; Entered and Opened are zero for what
	// Status.Since and Window.Opened say.
	Now     time.Time
	Entered time.Time // into the state and phase
	Opened  time.Time // of the window
	Fetched time.Time // when the machine had all of the installer's ramdisk in the boot of the window; zero: it has not
	Freed   time.Time // since when the release is held, if it was deleted at the site: a clock that leaps while the agent is down shortens no hold
	Newer   bool      // the inventory is newer than the session, or there is none of the two
	Pressed bool      // the window is newer than the status
}

// stay is how long the machine has been in its state and phase.
func (v MachineView) stay() time.Duration {
	if v.Entered.IsZero() {
		return v.Now.Sub(v.Status.Since)
	}
	return v.Now.Sub(v.Entered)
}

// Awaited tells whether a boot of the machine is awaited: its window is open, and nobody said hello with its token.
func (v MachineView) Awaited() bool {
	return v.Open() && (v.Session == nil || v.Session.Nonce != v.Window.Nonce)
}

// Open tells whether its window is open.
func (v MachineView) Open() bool {
	switch {
	case v.Window == nil:
		return false
	case v.Opened.IsZero():
		return v.Now.Sub(v.Window.Opened) < windowOpen
	}
	return v.Now.Sub(v.Opened) < windowOpen
}

// Action is what is to be done to the device before the new status counts.
type Action int

// The actions. Netboot opens a window, sets boot-once from the network and power-cycles; Off powers off; Reset asks for the defaults of the
// BIOS settings, and Prove what became of that; Restore has the controller reset itself.
const (
	ActionNone Action = iota
	ActionNetboot
	ActionOff
	ActionReset
	ActionProve
	ActionRestore
)

// String names the action as the journal's step.
func (a Action) String() string {
	return [...]string{"none", "netboot", "off", "bios-reset", "bios-prove", "bmc-reset"}[a]
}

// Step is the answer of PlanMachine. Changed false: nothing to do now.
type Step struct {
	Changed bool
	Action  Action
	Status  intent.MachineStatus
	Accept  *Facts // inventory to be accepted with this step
	Event   string // event type; "" = none
	Message string
}

// Idle tells that nothing is to be done.
func idle() Step { return Step{} }

// PlanMachine says the next thing to do with one machine. It is pure and total: the same view gives the same step, and a
// view in which nothing changed gives none. An unknown or unreadable fact never leads to a write.
func PlanMachine(v MachineView) Step {
	s := v.Status
	if s.State == "" {
		s.State, v.Status.State = intent.StateExpected, intent.StateExpected
	}
	if s.State == intent.StateQuarantined {
		return idle() // an operator clears it
	}
	if v.accused() && mayLoad(s.State) {
		return v.enter(intent.StateQuarantined, "", v.Evidence.What, "machine.quarantined", v.Evidence.What)
	}
	if v.Spec.Maintenance != (s.State == intent.StateMaintenance) {
		return v.maintenance()
	}
	switch s.State {
	case intent.StateExpected, intent.StateDiscovered:
		return v.inspect()
	case intent.StateAvailable:
		return v.available()
	case intent.StateAllocated:
		return v.allocated()
	case intent.StateInstalling:
		return v.installing()
	case intent.StateRunning:
		return v.running()
	case intent.StateReleasing:
		return v.releasing()
	case intent.StateErasing:
		return v.erasing()
	case intent.StateBroken:
		return v.broken()
	default:
		return idle()
	}
}

// accused tells whether evidence speaks against the boot that the present session came from.
func (v MachineView) accused() bool {
	return v.Evidence != nil && v.Session != nil && v.Evidence.Nonce == v.Session.Nonce
}

// mayLoad tells whether an installer of the present session could still be up. A machine that runs its own system keeps its
// state whatever is said with the token of its past boot: anybody on the boot network may have read that.
func mayLoad(s intent.MachineState) bool {
	switch s {
	case intent.StateExpected, intent.StateDiscovered, intent.StateAvailable, intent.StateAllocated, intent.StateInstalling, intent.StateErasing:
		return true
	}
	return false
}

// enter moves to a state.
func (v MachineView) enter(state intent.MachineState, phase, reason, event, message string) Step {
	s := v.Status
	s.State, s.Phase, s.Reason, s.Since, s.Percent = state, phase, reason, v.Now, 0
	return Step{Changed: true, Status: s, Event: event, Message: message}
}

// live tells whether an installer is up now: it said hello, and was heard lately.
func (v MachineView) live() bool {
	return v.Session != nil && v.Window != nil && v.Session.Nonce == v.Window.Nonce && !v.Closed && v.Now.Sub(v.LastWord) < sessionQuiet
}

func (v MachineView) maintenance() Step {
	if v.Spec.Maintenance {
		if v.Status.State == intent.StateInstalling || v.Status.State == intent.StateErasing {
			return idle() // a step that writes ends first
		}
		st := v.enter(intent.StateMaintenance, string(v.Status.State), "spec.maintenance", "machine.maintenance", "held by an operator")
		return st
	}
	return v.enter(intent.MachineState(v.Status.Phase), "", "", "machine."+v.Status.Phase, "maintenance is over")
}

// inspect brings a machine from expected to available: network boot, hello, inventory, identity, type.
func (v MachineView) inspect() Step {
	if v.Inventory != nil && (v.Session == nil || v.Newer) {
		return v.judge()
	}
	switch v.Status.Phase {
	case "":
		if v.live() { // its power-on was journaled, the status that follows was not
			return v.enter(intent.StateDiscovered, PhaseInventory, "", "machine.discovered", "the installer said hello")
		}
		if v.Spec.BMC == nil || v.Status.Attempts >= maxAttempts || !v.SlotFree || v.Assets != "" {
			return idle() // without a BMC somebody powers it on by hand; it is then seen
		}
		return v.netboot(v.Status.State, "inspect")
	case PhaseNetboot:
		if v.live() {
			return v.enter(intent.StateDiscovered, PhaseInventory, "", "machine.discovered", "the installer said hello")
		}
		return v.unreached()
	default:
		return v.late(helloTimeout, "sent no inventory")
	}
}

// judge compares the inventory with what was declared, and types the machine.
func (v MachineView) judge() Step {
	f := v.Inventory
	if why := v.contradiction(f); why != "" {
		return v.enter(intent.StateQuarantined, "", why, "machine.evidence.contradicts", why)
	}
	name := MatchType(v.Types, f)
	if name == "" {
		return v.hold("no machine type fits: "+f.describe(), "no machine type fits")
	}
	if v.owes() {
		return v.eraseAfterClear(name, f)
	}
	if f.Signed && v.Spec.Onboard != "as-is" {
		return v.hold("a disk holds data; set spec.onboard: as-is to accept the machine as it is", "held: a disk bears a signature")
	}
	st := v.enter(intent.StateAvailable, "", "", "machine.available", "identity agrees, type "+name)
	st.Status.MachineType, st.Status.Firmware, st.Status.Attempts, st.Accept = name, f.Firmware, 0, f
	return st
}

// hold keeps an inspected machine out of use, and says why once.
func (v MachineView) hold(reason, message string) Step {
	if v.Status.State == intent.StateDiscovered && v.Status.Reason == reason {
		return idle()
	}
	return v.enter(intent.StateDiscovered, "", reason, "machine.discovered", message)
}

// contradiction names the first fact that speaks against the declared identity; absent facts do not speak.
func (v MachineView) contradiction(f *Facts) string {
	if v.Spec.Serial != "" && f.Serial != "" && v.Spec.Serial != f.Serial {
		return fmt.Sprintf("serial is %q, declared is %q", f.Serial, v.Spec.Serial)
	}
	if v.Spec.UUID != "" && f.UUID != "" && v.Spec.UUID != f.UUID {
		return fmt.Sprintf("UUID is %s, declared is %s", f.UUID, v.Spec.UUID)
	}
	mac, _ := intent.ParseMAC(v.Spec.BootNIC().MAC)
	if len(f.MACs) > 0 && !slices.Contains(f.MACs, mac) {
		return fmt.Sprintf("no network port has the declared MAC address %s", mac)
	}
	return ""
}

// available waits for an instance.
func (v MachineView) available() Step {
	if v.Binding == nil || v.Binding.Released {
		return idle()
	}
	st := v.enter(intent.StateAllocated, PhaseAssets, "", "machine.allocated", fmt.Sprintf("given to %s/%s/%d", v.Binding.Project, v.Binding.Array, v.Binding.Index))
	st.Status.Instance = fmt.Sprintf("%s/%s/%d", v.Binding.Project, v.Binding.Array, v.Binding.Index)
	st.Status.InstanceUID, st.Status.Project = v.Binding.Instance, v.Binding.Project
	st.Status.Generation, st.Status.Attempts = v.Binding.Generation, 0
	return st
}

// allocated starts the installation once everything is at the site: before that the machine's power is untouched.
func (v MachineView) allocated() Step {
	switch {
	case v.Binding == nil:
		return v.unbound()
	case v.Binding.Released:
		return v.release()
	case v.Status.Attempts >= maxAttempts:
		return v.enter(intent.StateBroken, "", "all attempts are used", "machine.broken", "all attempts are used")
	case v.Assets != "":
		if v.Status.Reason == v.Assets {
			return idle()
		}
		st := v.enter(intent.StateAllocated, PhaseAssets, v.Assets, "", "")
		st.Status.Since = v.Status.Since
		return st
	case v.live():
		return v.startWriting()
	case !v.SlotFree, v.Spec.BMC == nil:
		return idle()
	}
	st := v.netboot(intent.StateInstalling, "install")
	return st
}

func (v MachineView) startWriting() Step {
	st := v.enter(intent.StateInstalling, PhaseWrite, "", "machine.installing", "the installer is up and gets its work")
	if v.Status.State != intent.StateInstalling {
		st.Status.Attempts++
	}
	return st
}

func (v MachineView) netboot(state intent.MachineState, why string) Step {
	st := v.enter(state, PhaseNetboot, "", "machine.power.asked", "power on, boot from the network to "+why)
	st.Action = ActionNetboot
	st.Status.Attempts++
	return st
}

// installing follows the installer to the phone-home of the installed system.
func (v MachineView) installing() Step {
	if v.Binding == nil {
		return v.unbound()
	}
	if v.Binding.Released { // its disk is to be erased whatever is half written there
		return v.release()
	}
	done := v.Done
	if done != nil && done.Task != v.TaskID() {
		done = nil // of an earlier attempt
	}
	switch v.Status.Phase {
	case PhaseNetboot:
		if v.live() {
			return v.startWriting()
		}
		return v.unreached()
	case PhaseWrite:
		switch {
		case done != nil && done.OK:
			return v.enter(intent.StateInstalling, PhaseFirstBoot, "", "image.verified", "image written and read back, booting from disk")
		case done != nil:
			return v.failed(done.Reason)
		case v.Now.Sub(v.LastWord) > writeTimeout:
			return v.late(writeTimeout, "fell silent while writing")
		}
		return idle()
	case PhaseFirstBoot:
		if v.PhoneHome != nil && v.PhoneHome.Generation == v.Binding.Generation {
			st := v.enter(intent.StateRunning, "", "", "machine.running", "phoned home as "+v.PhoneHome.Hostname)
			st.Status.Attempts = 0
			return st
		}
		return v.late(firstBoot, "did not phone home")
	}
	return idle()
}

// running belongs to its instance; only a release ends that.
func (v MachineView) running() Step {
	switch {
	case v.Binding == nil:
		return v.unbound()
	case v.Binding.Released:
		return v.release()
	}
	return idle()
}

func (v MachineView) release() Step {
	if v.owes() {
		st := v.off("released by its instance")
		st.Status.Phase, st.Status.Reason, st.Status.Attempts = PhaseOff, "powered off; its disks are to be erased", 0
		st.Status.Generation = v.Release.Generation
		return st
	}
	return v.off("released by its instance")
}

// off powers a machine off that belonged to an instance.
func (v MachineView) off(why string) Step {
	st := v.enter(intent.StateReleasing, "held", "powered off and held, not erased: `skerry machine clear "+v.Name+" --reason TEXT` takes it back into service", "machine.releasing", why)
	st.Action = ActionOff
	return st
}

// unbound is a machine with an instance's data that no binding names any more. Where a later decision gave the instance
// another machine, this one is powered off and held, never erased (mesh.md section 7: a double binding after a heal). That a
// binding is merely absent is not deletion (promise 4).
func (v MachineView) unbound() Step {
	if v.owes() {
		return v.release() // the instance was given another machine since
	}
	if v.Successor == "" {
		return idle()
	}
	return v.off(fmt.Sprintf("its instance %s has machine %s by a later decision", v.Status.Instance, v.Successor))
}

// TaskID names the installation or erasure that the machine is in: another attempt is another task, with another permission.
func (v MachineView) TaskID() string {
	verb := "install"
	if v.Status.State == intent.StateErasing {
		verb = "erase"
	}
	return fmt.Sprintf("%s/%s/%d/%d", verb, v.Name, v.Status.Generation, v.Status.Attempts)
}

// late gives up a phase that took too long, and tries again or calls the machine broken.
// silent says why the first word of the installer is not waited for any more; empty: it is. Who has its ramdisk and says nothing has
// crashed, and boots something else by now.
func (v MachineView) silent() string {
	switch since := v.Now.Sub(v.Fetched); {
	case !v.Fetched.IsZero() && since <= v.stay() && since > fetchTimeout:
		return fmt.Sprintf("took kernel and ramdisk, and its installer was not heard within %s", fetchTimeout)
	case v.stay() > bootTimeout:
		return fmt.Sprintf("did not reach the installer within %s", bootTimeout)
	}
	return ""
}

func (v MachineView) unreached() Step {
	if why := v.silent(); why != "" {
		return v.failed(why)
	}
	return idle()
}

func (v MachineView) late(limit time.Duration, what string) Step {
	if v.stay() <= limit {
		return idle()
	}
	return v.failed(fmt.Sprintf("%s within %s", what, limit))
}

// failed ends an attempt. The next one begins from allocated or expected, under a new window and permission.
func (v MachineView) failed(reason string) Step {
	if v.Status.State == intent.StateErasing {
		return v.eraseFailed(reason)
	}
	if v.Status.Attempts >= maxAttempts || v.Status.State == intent.StateInstalling && v.Status.Phase == PhaseWrite {
		st := v.enter(intent.StateBroken, "", reason, "machine.broken", reason)
		return st
	}
	back := intent.StateExpected
	if v.Status.State == intent.StateInstalling {
		back = intent.StateAllocated
	}
	st := v.enter(back, "", "", "machine.overdue", reason+"; trying again")
	if back == intent.StateAllocated {
		st.Status.Phase = PhaseAssets
	}
	return st
}

// cleared is the status of a machine that an operator takes back into service: it is inspected again, whatever it was, so
// that what is accepted is what is there now. A standing binding then installs it under a new generation.
func (v MachineView) cleared() intent.MachineStatus {
	s := v.Status
	s.State, s.Phase, s.Reason, s.Since, s.Percent, s.Attempts = intent.StateExpected, "", "", v.Now, 0, 0
	return s
}

// retryAfter is how long a broken machine rests before attempt n+1 (boot.md section 1: 1, 5, 15 min).
func retryAfter(attempts int) time.Duration {
	return []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}[min(max(attempts-1, 0), 2)]
}

// broken rests, then tries again while attempts are left.
func (v MachineView) broken() Step {
	switch {
	case v.Binding == nil:
		return v.unbound()
	case v.Binding.Released:
		return v.release()
	case v.Status.Attempts >= maxAttempts || v.stay() < retryAfter(v.Status.Attempts):
		return idle()
	}
	return v.enter(intent.StateAllocated, PhaseAssets, "", "machine.allocated", "trying again")
}

// MatchType returns the machine type that fits with most constraints, then the first by name; "" when none fits.
func MatchType(types map[string]*intent.MachineTypeSpec, f *Facts) string {
	best, bestScore := "", -1
	for name, t := range types {
		score, ok := fits(t, f)
		if ok && (score > bestScore || (score == bestScore && name < best)) {
			best, bestScore = name, score
		}
	}
	return best
}

func fits(t *intent.MachineTypeSpec, f *Facts) (score int, ok bool) {
	if !t.CPU.Holds(f.CPUs) || !t.MemoryMB.Holds(f.MemoryMiB) {
		return 0, false
	}
	for _, r := range []intent.Range{t.CPU, t.MemoryMB} {
		if r.Min > 0 {
			score++
		}
		if r.Max > 0 {
			score++
		}
	}
	for _, class := range t.Disks {
		n := 0
		for _, d := range f.Disks {
			if (class.Media == "" || class.Media == d.Media) && d.SizeBytes >= class.MinBytes {
				n++
			}
		}
		if !class.Count.Holds(n) {
			return 0, false
		}
		score += 2
	}
	return score, true
}

func (f *Facts) describe() string {
	var disks []string
	for _, d := range f.Disks {
		disks = append(disks, fmt.Sprintf("%d MiB %s", d.SizeBytes>>20, d.Media))
	}
	return fmt.Sprintf("%d cpu, %d MiB, disks [%s]", f.CPUs, f.MemoryMiB, strings.Join(disks, ", "))
}
