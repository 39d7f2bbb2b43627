package bootnet

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/dhcp"
	"github.com/skerry-metal/skerry/boot/httpboot"
	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/effective"
	"github.com/skerry-metal/skerry/siteagent/freshness"
	"github.com/skerry-metal/skerry/siteagent/holds"
	"github.com/skerry-metal/skerry/siteagent/receipts"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/state"
)

// bench is one agent without sockets: chain, journal, controller, installer's counterpart, answers.
type bench struct {
	t       *testing.T
	author  *sitetest.Author
	replica *replica.Replica
	journal *claim.Journal
	site    *effective.Site
	inst    *installers
	answers *answers
	unfit   error // of the agent's store
	stale   error // why nobody who may say no was heard
	keys    []seal.Secret
	dial    func(ctx context.Context, machine string, spec *intent.BMCSpec) (bmc.Controller, error) // nil: no BMC is reached
}

// alone is the sight of a site with one agent.
type alone struct{}

func (alone) Members() (uint64, []claim.Member) {
	return 1, []claim.Member{{ID: "a1", Alive: true}}
}

const (
	testMAC    = "52:54:00:88:00:01"
	testUUID   = "00000000-0000-4000-8000-0000000000a1"
	machineDoc = `{"apiVersion":"skerry/v1","kind":"Machine","metadata":{"name":"m1","site":"lon1","uid":"m1","generation":1},
		"spec":{"serial":"SN-M1","uuid":"` + testUUID + `","nics":[{"mac":"` + testMAC + `","boot":true,"address":"10.88.0.21"}]}}`
	poolDoc = `{"apiVersion":"skerry/v1","kind":"SubnetPool","metadata":{"name":"boot","site":"lon1","uid":"p1","generation":1},
		"spec":{"prefix":"10.88.0.0/16"}}`
)

// newBench makes agent id of the author's site with one machine, m1.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := newAgent(t, sitetest.NewAuthor(t), "a1")
	b.receive(b.founding()...)
	return b
}

// founding returns the entries that every test starts from.
func (b *bench) founding() []*intent.Envelope {
	site := `{"apiVersion":"skerry/v1","kind":"Site","metadata":{"name":"lon1","uid":"s1","generation":1},"spec":{"region":"eu","zone":"a","installer":{"kernel":"kernel","ramdisk":"ramdisk","args":["nomodeset"]}}}`
	return []*intent.Envelope{
		b.author.Put(sitetest.AssetDoc("kernel"), sitetest.AssetDoc("ramdisk"), sitetest.AssetDoc("tiny"), site, sitetest.MachineTypeDoc("small", 1), poolDoc, machineDoc, sitetest.ImageDoc),
		b.author.Entry(intent.EntryRoster, intent.RosterBody{Generation: 1, Agents: []intent.RosterAgent{{
			ID: "a1", State: "agent", Addr: []string{"10.99.1.11:7444"}, Boot: []string{"10.88.0.11"}, TLS: [][]byte{[]byte("key of a1")},
		}}}),
	}
}

func newAgent(t *testing.T, author *sitetest.Author, id string) *bench {
	t.Helper()
	return newAgentIn(t, t.TempDir(), author, id)
}

func newAgentIn(t *testing.T, dir string, author *sitetest.Author, id string) *bench {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	b := &bench{t: t, author: author, keys: []seal.Secret{seal.NewSecret([]byte("boot key of the test"))}}
	var db *state.DB
	b.replica, db = sitetest.OpenReplica(t, dir, author, id)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	var err error
	if b.journal, err = claim.OpenJournal(db, author.Site, id, log); err != nil {
		t.Fatal(err)
	}
	b.site = effective.New(b.replica, b.journal)
	b.site.Held = holds.Open(db, log).Since
	b.site.Assets = func(*reconcile.Binding) string { return "" }
	control := reconcile.New(reconcile.Config{
		Self: id, Journal: b.journal, Claims: claim.NewClaims(db, id, "boot", alone{}, nil, log), Want: b.site.Want, Members: alone{}.Members, Around: b.site.Around,
		Dial: func(ctx context.Context, machine string, spec *intent.BMCSpec) (bmc.Controller, error) {
			if b.dial == nil {
				return nil, bmc.ErrUnsupported
			}
			return b.dial(ctx, machine, spec)
		},
		Recovering: func() bool { return false }, Log: log, Fit: func() error { return b.unfit },
	})
	s := New(Config{
		Receipts: &receipts.Desk{Site: b.site, Self: id, Sign: func() ed25519.PrivateKey { return author.Writer }},
		Site:     b.site, Self: id, Domain: "edge.example", Sign: func() ed25519.PrivateKey { return author.Writer }, Control: control, Log: log,
		BootKeys: func() ([]seal.Secret, error) { return b.keys, nil },
		Owners:   func(string) []string { return []string{id} },
		Fresh: func(context.Context, reconcile.Binding) (string, error) {
			if b.stale != nil {
				return "", b.stale
			}
			return freshness.ByBeacon, nil
		},
	})
	b.inst, b.answers = s.inst, s.answers
	return b
}

func (b *bench) receive(envs ...*intent.Envelope) {
	b.t.Helper()
	if n, err := b.replica.Receive(b.t.Context(), envs); n != len(envs) || err != nil || b.replica.State().Rejected != "" {
		b.t.Fatalf("Receive = %d, %v, %s", n, err, b.replica.State().Rejected)
	}
}

func (b *bench) add(kind, key string, epoch intent.Epoch, v any) {
	b.t.Helper()
	if err := b.journal.Append(b.t.Context(), claim.Local, claim.Draft{Kind: kind, Key: key, Epoch: epoch, Body: v}); err != nil {
		b.t.Fatal(err)
	}
}

// window opens a boot window and returns the token that its script would carry.
func (b *bench) window(nonce string) string {
	b.t.Helper()
	w := reconcile.Window{Machine: "m1", MAC: testMAC, Nonce: nonce, Task: "netboot/m1/0", Opened: time.Now()}
	b.add(reconcile.KindWindow, "m1", intent.Epoch{Generation: 1, N: 1}, w)
	sg, err := b.inst.signers()
	if err != nil {
		b.t.Fatal(err)
	}
	return sg.boot(w)
}

func (b *bench) hello(token, boot string) (install.Session, error) {
	return b.inst.Hello(b.t.Context(), install.Hello{Token: token, Serial: "SN-M1", UUID: testUUID, Nonce: boot})
}

// TestSecondHelloQuarantines: a token opens one session; the same boot may ask again, another one cancels both.
func TestSecondHelloQuarantines(t *testing.T) {
	b := newBench(t)
	token := b.window("n1")
	if _, err := b.hello("not-a-token", "x"); !errors.Is(err, install.ErrToken) {
		t.Errorf("an unknown token: %v, want %v", err, install.ErrToken)
	}
	s, err := b.hello(token, "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.hello(token, "boot-1")
	if err != nil || again.ID != s.ID {
		t.Fatalf("a repeated hello of one boot: %v, %v; want the same session", again.ID, err)
	}
	if _, err := b.hello(token, "boot-2"); !errors.Is(err, install.ErrTokenReused) {
		t.Fatalf("a second hello: %v, want %v", err, install.ErrTokenReused)
	}
	if _, err := b.inst.Work(t.Context(), s.ID, time.Millisecond); !errors.Is(err, install.ErrSession) {
		t.Errorf("the first session after it: %v, want %v", err, install.ErrSession)
	}
	v, _ := b.inst.control.View("m1")
	if step := reconcile.PlanMachine(v); step.Status.State != intent.StateQuarantined {
		t.Errorf("the machine goes to %q, want quarantined", step.Status.State)
	}
}

func hardware(disk string) install.PermissionRequest {
	return install.PermissionRequest{
		Task: "install/m1/1/1", Act: intent.ActInstall, Generation: 1, Serial: "SN-M1", UUID: testUUID,
		Disks: []inventory.Disk{{Name: "vda", Serial: disk, SizeBytes: 256 << 20}},
	}
}

// writing brings m1 to the phase in which a permission may be asked for, and returns the session.
func (b *bench) writing() string {
	b.t.Helper()
	s, err := b.hello(b.window("n1"), "boot-1")
	if err != nil {
		b.t.Fatal(err)
	}
	e := intent.Epoch{Generation: 1, N: 1}
	f := reconcile.Facts{
		Serial: "SN-M1", UUID: testUUID, Firmware: "bios", CPUs: 1, MemoryMiB: 512, MACs: []string{testMAC}, Time: time.Now(),
		Disks: []reconcile.DiskFacts{{DiskID: intent.DiskID{Serial: "DISK-1", SizeBytes: 256 << 20}}},
	}
	b.add(reconcile.KindAccepted, "m1", e, f)
	b.add(reconcile.KindBinding, "inst", e, reconcile.Binding{Instance: "inst", Project: "acme", Array: "web", Machine: "m1", Generation: 1, Image: "tiny", Cause: "intent 1.1"})
	b.add(reconcile.KindMachine, "m1", e, intent.MachineStatus{State: intent.StateInstalling, Phase: reconcile.PhaseWrite, Generation: 1, Attempts: 1, Epoch: e.String(), Since: time.Now()})
	return s.ID
}

// TestPermissionNamesAcceptedDisk: promise 5. The permission names the accepted disk and nothing else; it is given once per
// attempt; another session gets none.
func TestPermissionNamesAcceptedDisk(t *testing.T) {
	b := newBench(t)
	id := b.writing()
	env, err := b.inst.Permit(t.Context(), id, hardware("DISK-1"))
	if err != nil {
		t.Fatal(err)
	}
	var p intent.Permission
	if err := json.Unmarshal(env.Envelope.Payload, &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Disks) != 1 || p.Disks[0].Serial != "DISK-1" || p.Serial != "SN-M1" || p.Generation != 1 || p.Cause != "intent 1.1" || p.Claim == (intent.Epoch{}) {
		t.Errorf("permission %+v", p)
	}
	again, err := b.inst.Permit(t.Context(), id, hardware("DISK-1"))
	if err != nil || again.Envelope.Digest() != env.Envelope.Digest() {
		t.Errorf("asked again: %v; want the same permission", err)
	}
	for what, change := range map[string]func(*install.PermissionRequest){
		"another task":       func(r *install.PermissionRequest) { r.Task = "install/m1/1/2" },
		"another generation": func(r *install.PermissionRequest) { r.Generation = 2 },
		"another act":        func(r *install.PermissionRequest) { r.Act = intent.ActErase },
	} {
		r := hardware("DISK-1")
		change(&r)
		if _, err := b.inst.Permit(t.Context(), id, r); !errors.Is(err, install.ErrStale) {
			t.Errorf("%s: %v, want %v", what, err, install.ErrStale)
		}
	}
}

// TestUnsoundStorePermitsNothing: while the store is on hold, behind, or not scrubbed since the start, no permission is given, not
// even the one that was given before; DHCP is answered all the same.
func TestUnsoundStorePermitsNothing(t *testing.T) {
	b := newBench(t)
	id := b.writing()
	for _, given := range []bool{false, true} {
		b.unfit = errors.New("on hold: intent")
		if env, err := b.inst.Permit(t.Context(), id, hardware("DISK-1")); !errors.Is(err, install.ErrBusy) || len(env.Envelope.Payload) > 0 {
			t.Fatalf("given before %v: %v; want %v", given, err, install.ErrBusy)
		}
		if b.answers.refresh(); b.answers.View() == nil || !b.answers.View().Known(must(dhcp.ParseMAC(testMAC))) {
			t.Fatal("the machine is not known to DHCP any more")
		}
		b.unfit = nil
		if _, err := b.inst.Permit(t.Context(), id, hardware("DISK-1")); err != nil {
			t.Fatal(err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestStaleIsNotPermitted is experiment F13, stale head and age: a machine whose act is not fresh waits without a permission, one event
// says why and what to do, and the permission that comes when it is fresh says by what.
func TestStaleIsNotPermitted(t *testing.T) {
	b := newBench(t)
	id := b.writing()
	waits := func() (n int) {
		t.Helper()
		if err := b.journal.Events(nil, func(e intent.Event) error {
			if e.Type == "permit.waits" && e.Machine == "m1" && strings.Contains(e.Message, "approve") {
				n++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, why := range []freshness.Stale{{Kind: "head", Text: "behind; approve"}, {Kind: "age", Text: "9d old; approve"}, {Kind: "age", Text: "10d old; approve"}} {
		b.stale = &why
		if env, err := b.inst.Permit(t.Context(), id, hardware("DISK-1")); !errors.Is(err, install.ErrBusy) || len(env.Envelope.Payload) > 0 {
			t.Fatalf("%s: %v; want %v", why.Text, err, install.ErrBusy)
		}
		if got := waits(); got != min(i+1, 2) {
			t.Errorf("%s: %d events", why.Text, got)
		}
	}
	if _, ok := b.journal.Latest(reconcile.KindPermission, "m1"); ok {
		t.Error("a permission was made")
	}
	b.stale = nil
	env, err := b.inst.Permit(t.Context(), id, hardware("DISK-1"))
	if err != nil {
		t.Fatal(err)
	}
	var p intent.Permission
	if err := json.Unmarshal(env.Envelope.Payload, &p); err != nil || p.Fresh != freshness.ByBeacon {
		t.Errorf("fresh by %q, %v", p.Fresh, err)
	}
}

// TestChangedHardwareIsRefused is experiment F13, wrong serial and disk, at the agent: a disk or serial that is not the accepted one gets no permission, and the machine is
// quarantined.
func TestChangedHardwareIsRefused(t *testing.T) {
	for what, change := range map[string]func(*install.PermissionRequest){
		"disk":   func(r *install.PermissionRequest) { r.Disks[0].Serial = "DISK-2" },
		"size":   func(r *install.PermissionRequest) { r.Disks[0].SizeBytes++ },
		"serial": func(r *install.PermissionRequest) { r.Serial = "SN-M9" },
		"uuid":   func(r *install.PermissionRequest) { r.UUID = "" },
	} {
		b := newBench(t)
		id := b.writing()
		r := hardware("DISK-1")
		change(&r)
		if _, err := b.inst.Permit(t.Context(), id, r); !errors.Is(err, install.ErrStale) {
			t.Errorf("another %s: %v, want %v", what, err, install.ErrStale)
		}
		if v, _ := b.inst.control.View("m1"); reconcile.PlanMachine(v).Status.State != intent.StateQuarantined {
			t.Errorf("another %s: the machine is not quarantined", what)
		}
		if _, ok := b.journal.Latest(reconcile.KindPermission, "m1"); ok {
			t.Errorf("another %s: a permission was made", what)
		}
	}
}

// TestFailedInstallTriesAgain: a failed installation is an event and a broken machine with its reason; the next attempt is
// another task, and its success counts.
func TestFailedInstallTriesAgain(t *testing.T) {
	b := newBench(t)
	id := b.writing()
	failed := install.Done{Task: "install/m1/1/1", Generation: 1, Code: "sources", Error: "no source gives verified content"}
	for range 2 { // it is told until somebody took it
		if err := b.inst.Done(t.Context(), id, failed); err != nil {
			t.Fatal(err)
		}
	}
	events := 0
	err := b.journal.Events(nil, func(e intent.Event) error {
		if e.Type == "image.failed" {
			events++
		}
		return nil
	})
	if err != nil || events != 1 {
		t.Errorf("%d image.failed events (%v), want 1", events, err)
	}
	v, _ := b.inst.control.View("m1")
	step := reconcile.PlanMachine(v)
	if step.Status.State != intent.StateBroken || step.Status.Reason != "sources: no source gives verified content" {
		t.Fatalf("planned %q %q, want broken with the reason", step.Status.State, step.Status.Reason)
	}
	v.Status = step.Status
	v.Now = v.Now.Add(time.Hour)
	if step = reconcile.PlanMachine(v); step.Status.State != intent.StateAllocated {
		t.Fatalf("after its rest planned %q, want allocated", step.Status.State)
	}
	v.Status, v.LastWord = step.Status, v.Now
	step = reconcile.PlanMachine(v)
	v.Status = step.Status
	if step.Status.State != intent.StateInstalling || v.TaskID() == failed.Task {
		t.Errorf("then %q as task %s, want installing as another task", step.Status.State, v.TaskID())
	}
}

// TestScriptTokenOnlyToLeasedAddress: a token goes out only while a power-on awaits its boot, and only to the address that is
// leased to the MAC.
func TestScriptTokenOnlyToLeasedAddress(t *testing.T) {
	b := newBench(t)
	f := func(what, from string, want bool) {
		t.Helper()
		text, _, err := b.answers.Script(t.Context(), httpboot.ScriptRequest{MAC: "52-54-00-88-00-01", Remote: netip.MustParseAddr(from)})
		if err != nil {
			t.Fatal(err)
		}
		if got := containsToken(text); got != want {
			t.Errorf("%s: token in script %v, want %v:\n%s", what, got, want, text)
		}
	}
	f("no power-on awaited", "10.88.0.21", false)
	token := b.window("n1")
	f("awaited", "10.88.0.21", true)
	f("another address", "10.88.0.99", false)
	if _, err := b.hello(token, "boot-1"); err != nil {
		t.Fatal(err)
	}
	f("the token is burnt", "10.88.0.21", false)
}

func containsToken(script string) bool {
	for i := range len(script) - 13 {
		if script[i:i+13] == "skerry.token=" {
			return true
		}
	}
	return false
}

// TestMetadataTokenDiesWithBinding: the token of an installed machine's documents is good for its binding only.
func TestMetadataTokenDiesWithBinding(t *testing.T) {
	b := newBench(t)
	b.writing()
	sg, err := b.inst.signers()
	if err != nil {
		t.Fatal(err)
	}
	bd, _ := claim.Load[reconcile.Binding](b.journal, reconcile.KindBinding, "inst")
	token := sg.metadata(bd)
	in, err := b.answers.ByToken(t.Context(), token)
	if err != nil || in.Hostname != "web-0" {
		t.Fatalf("ByToken = %q, %v; want web-0", in.Hostname, err)
	}
	if err := b.answers.PhoneHome(t.Context(), token, netip.MustParseAddr("10.88.0.21"), map[string]string{"hostname": "web-0"}); err != nil {
		t.Fatal(err)
	}
	bd.Released = true
	b.add(reconcile.KindBinding, "inst", intent.Epoch{Generation: 1, N: 2}, bd)
	if _, err := b.answers.ByToken(t.Context(), token); err == nil {
		t.Error("the token outlives its binding")
	}
}

// TestClear: an operator takes a quarantined machine back: the evidence is settled, nobody keeps a session, what belongs to an
// instance gets another generation, and the machine is inspected anew.
func TestClear(t *testing.T) {
	b := newBench(t)
	id := b.writing()
	r := hardware("DISK-2")
	if _, err := b.inst.Permit(t.Context(), id, r); !errors.Is(err, install.ErrStale) {
		t.Fatal(err)
	}
	v, _ := b.inst.control.View("m1")
	b.add(reconcile.KindMachine, "m1", intent.Epoch{Generation: 1, N: 1}, reconcile.PlanMachine(v).Status)
	v, _ = b.inst.control.View("m1")
	if v.Status.State != intent.StateQuarantined {
		t.Fatalf("state %q, want quarantined", v.Status.State)
	}
	if err := b.inst.control.Clear(t.Context(), v, "ana: disk swapped on purpose"); err != nil {
		t.Fatal(err)
	}
	v, _ = b.inst.control.View("m1")
	if step := reconcile.PlanMachine(v); v.Status.State != intent.StateExpected || step.Status.State == intent.StateQuarantined || step.Status.State == intent.StateAvailable {
		t.Errorf("cleared to %q, planned %q; want expected, and nothing before another inspection", v.Status.State, step.Status.State)
	}
	if v.Binding.Generation != 2 {
		t.Errorf("generation %d, want 2", v.Binding.Generation)
	}
	if _, err := b.inst.Work(t.Context(), id, time.Millisecond); !errors.Is(err, install.ErrSession) {
		t.Errorf("the old session: %v, want %v", err, install.ErrSession)
	}
}

// TestFetched: that a machine has all of the ramdisk is known, for this boot alone; a kernel, a part, or another's download is not taken for it.
func TestFetched(t *testing.T) {
	b := newBench(t)
	f := func(what, from, asset string, status int, octets int64, want bool) {
		t.Helper()
		b.answers.served(httpboot.Served{What: "asset", Remote: netip.MustParseAddr(from), Name: intent.DigestOf([]byte(asset)).Hex(), Status: status, Octets: octets})
		b.drain()
		v, _ := reconcile.BuildView(b.journal, b.site.Now().Overlay.Catalog, b.site.Around(), "m1")
		if got := !v.Fetched.IsZero(); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	f("no boot is awaited", "10.88.0.21", "ramdisk", 200, 4096, false)
	b.window("n1")
	f("the kernel", "10.88.0.21", "kernel", 200, 4096, false)
	f("half of it", "10.88.0.21", "ramdisk", 200, 2048, false)
	f("a range", "10.88.0.21", "ramdisk", 206, 4096, false)
	f("somebody else", "10.88.0.99", "ramdisk", 200, 4096, false)
	f("all of it", "10.88.0.21", "ramdisk", 200, 4096, true)
	b.window("n2")
	f("the kernel of the next boot", "10.88.0.21", "kernel", 200, 4096, false)
	f("the next boot", "10.88.0.21", "ramdisk", 200, 4096, true)
}
