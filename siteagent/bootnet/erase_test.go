package bootnet

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/install"
	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
)

// freeing brings m1, whose instance was taken away, to the phase in which it is erased.
func (b *bench) freeing() string {
	b.t.Helper()
	id := b.writing()
	e := intent.Epoch{Generation: 1, N: 1}
	bd := reconcile.Binding{Instance: "inst", Project: "acme", Array: "web", Machine: "m1", Generation: 1, Image: "tiny", Cause: "intent 1.1", Released: true}
	d := bd.Ends("intent 1.2", e)
	b.add(d.Kind, d.Key, d.Epoch, d.Body)
	b.add(reconcile.KindBinding, "inst", e, bd)
	b.erasing(1)
	return id
}

func (b *bench) erasing(attempt int) {
	b.t.Helper()
	e := intent.Epoch{Generation: 1, N: 1}
	b.add(reconcile.KindMachine, "m1", e, intent.MachineStatus{State: intent.StateErasing, Phase: reconcile.PhaseErase, Generation: 1, Attempts: attempt, Epoch: e.String(), Since: time.Now()})
}

func eraseRequest() install.PermissionRequest {
	r := hardware("DISK-1")
	r.Task, r.Act = "erase/m1/1/1", intent.ActErase
	return r
}

func proofOf(permission string) erasure.Proof {
	at := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	return erasure.Proof{
		Task: "erase/m1/1/1", Generation: 1, Permission: permission, Serial: "SN-M1", UUID: testUUID, Tool: erasure.Tool{Version: "t"},
		Drives: []erasure.Drive{{
			DiskID: intent.DiskID{Serial: "DISK-1", SizeBytes: 256 << 20}, Media: "nvme", Method: "nvme-format-crypto", Level: erasure.Purge,
			Start: at, End: at.Add(time.Minute), DeviceStatus: "format completed", Canary: erasure.Canary{Blocks: 66, SeedDigest: intent.DigestOf([]byte("seed"))},
		}},
	}
}

// TestReleaseToReceipt: the whole way at one agent: order, permission, proof, receipt, available; the receipt verifies offline.
func TestReleaseToReceipt(t *testing.T) {
	b := newBench(t)
	id := b.freeing()
	w, err := b.inst.Work(t.Context(), id, time.Second)
	if err != nil || w.Kind != install.WorkErase || w.Erase.Level != erasure.Purge || len(w.Erase.Disks) != 1 || w.Task != "erase/m1/1/1" {
		t.Fatalf("work %+v, %v", w, err)
	}
	env, err := b.inst.Permit(t.Context(), id, eraseRequest())
	if err != nil {
		t.Fatal(err)
	}
	var p intent.Permission
	if err := json.Unmarshal(env.Envelope.Payload, &p); err != nil || p.Act != intent.ActErase || fmt.Sprint(p.Disks) != fmt.Sprint(w.Erase.Disks) || p.Cause != "intent 1.2" || p.Fresh == "" {
		t.Fatalf("permission %+v, %v", p, err)
	}
	if v, _ := b.inst.control.View("m1"); reconcile.PlanMachine(v).Changed {
		t.Error("something is planned before the receipt")
	}
	at, err := b.inst.Receipt(t.Context(), id, proofOf(p.ID))
	if err != nil || at.Seq != 1 {
		t.Fatalf("%+v, %v", at, err)
	}
	if again, err := b.inst.Receipt(t.Context(), id, proofOf(p.ID)); err != nil || again != at {
		t.Errorf("told twice: %+v, %v", again, err)
	}
	v, _ := b.inst.control.View("m1")
	if step := reconcile.PlanMachine(v); step.Status.State != intent.StateAvailable || step.Status.Instance != "" {
		t.Errorf("with a receipt: %+v", step)
	}
	l, err := b.inst.receipts.Receipts(t.Context(), "lon1", "m1")
	if err != nil || len(l.Receipts) != 1 {
		t.Fatalf("%+v, %v", l, err)
	}
	r, err := document.OpenReceipt(l.Receipts[0], []ed25519.PublicKey{b.author.Writer.Public().(ed25519.PublicKey)})
	if err != nil || r.Project != "acme" || r.Permission != env.Envelope.Digest() || r.Machine.Serial != "SN-M1" || r.Claim != p.Claim {
		t.Errorf("%+v, %v", r, err)
	}
	// The next machine's receipt follows it in the chain.
	b.add(reconcile.KindErased, "m1", intent.Epoch{}, reconcile.Erased{})
	b.erasing(1)
	if at, err = b.inst.Receipt(t.Context(), id, proofOf(p.ID)); err != nil || at.Seq != 2 {
		t.Fatalf("%+v, %v", at, err)
	}
	if l, err = b.inst.receipts.Receipts(t.Context(), "lon1", ""); err != nil || len(l.Receipts) != 2 || len(l.Rosters) != 1 {
		t.Fatalf("%d receipts, %d rosters, %v", len(l.Receipts), len(l.Rosters), err)
	}
	var second erasure.Receipt
	if err := json.Unmarshal(l.Receipts[1].Payload, &second); err != nil || second.Prev != l.Receipts[0].Digest().String() {
		t.Errorf("the second names %s, %v", second.Prev, err)
	}
}

// TestProofIsCompared: each field that an installer could get wrong, or lie about, costs it the receipt.
func TestProofIsCompared(t *testing.T) {
	b := newBench(t)
	id := b.freeing()
	if _, err := b.inst.Receipt(t.Context(), id, proofOf("x")); !errors.Is(err, install.ErrStale) {
		t.Errorf("a proof before any permission: %v", err)
	}
	env, err := b.inst.Permit(t.Context(), id, eraseRequest())
	if err != nil {
		t.Fatal(err)
	}
	var p intent.Permission
	if err := json.Unmarshal(env.Envelope.Payload, &p); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*erasure.Proof){
		"another permission": func(q *erasure.Proof) { q.Permission = "other" },
		"another task":       func(q *erasure.Proof) { q.Task = "erase/m1/1/2" },
		"another generation": func(q *erasure.Proof) { q.Generation = 2 },
		"another serial":     func(q *erasure.Proof) { q.Serial = "SN-M2" },
		"another UUID":       func(q *erasure.Proof) { q.UUID = "" },
		"no disk":            func(q *erasure.Proof) { q.Drives = nil },
		"another disk":       func(q *erasure.Proof) { q.Drives[0].Serial = "DISK-2" },
		"another size":       func(q *erasure.Proof) { q.Drives[0].SizeBytes++ },
		"a disk twice":       func(q *erasure.Proof) { q.Drives = append(q.Drives, q.Drives[0]) },
		"a weaker level":     func(q *erasure.Proof) { q.Drives[0].Level = erasure.Clear },
		"no canary":          func(q *erasure.Proof) { q.Drives[0].Canary.Blocks = 63 },
		"no seed":            func(q *erasure.Proof) { q.Drives[0].Canary.SeedDigest = intent.Digest{} },
		"canary found":       func(q *erasure.Proof) { q.Drives[0].Canary.Found = 1 },
		"no device status":   func(q *erasure.Proof) { q.Drives[0].DeviceStatus = "" },
		"no method":          func(q *erasure.Proof) { q.Drives[0].Method = "" },
		"ends before":        func(q *erasure.Proof) { q.Drives[0].End = q.Drives[0].Start.Add(-1) },
		"a long text":        func(q *erasure.Proof) { q.Drives[0].Model = strings.Repeat("x", 300) },
		"a long exception":   func(q *erasure.Proof) { q.Exceptions = []string{strings.Repeat("x", 300)} },
	} {
		q := proofOf(p.ID)
		change(&q)
		if _, err := b.inst.Receipt(t.Context(), id, q); !errors.Is(err, install.ErrStale) {
			t.Errorf("%s: %v, want %v", name, err, install.ErrStale)
		}
	}
	if _, ok := claim.Load[reconcile.Erased](b.journal, reconcile.KindErased, "m1"); ok {
		t.Error("something was signed")
	}
}

// TestErasePermission: what keeps a permission to erase back.
func TestErasePermission(t *testing.T) {
	f := func(name string, want error, set func(b *bench, r *install.PermissionRequest)) {
		t.Helper()
		b := newBench(t)
		id := b.freeing()
		r := eraseRequest()
		set(b, &r)
		if _, err := b.inst.Permit(t.Context(), id, r); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	e := intent.Epoch{Generation: 1, N: 1}
	f("nothing wrong", nil, func(*bench, *install.PermissionRequest) {})
	f("to write, while it is erased", install.ErrStale, func(_ *bench, r *install.PermissionRequest) { r.Act = intent.ActInstall })
	f("another attempt", install.ErrStale, func(_ *bench, r *install.PermissionRequest) { r.Task = "erase/m1/1/2" })
	f("another generation", install.ErrStale, func(_ *bench, r *install.PermissionRequest) { r.Generation = 2 })
	f("another serial", install.ErrStale, func(_ *bench, r *install.PermissionRequest) { r.Serial = "SN-M2" })
	f("a disk is gone", install.ErrStale, func(_ *bench, r *install.PermissionRequest) { r.Disks = nil })
	f("a disk more", install.ErrStale, func(_ *bench, r *install.PermissionRequest) {
		r.Disks = append(r.Disks, inventory.Disk{Name: "vdb", Serial: "DISK-2", SizeBytes: 1 << 30})
	})
	f("a stick more", nil, func(_ *bench, r *install.PermissionRequest) {
		r.Disks = append(r.Disks, inventory.Disk{Name: "sdb", Serial: "STICK", SizeBytes: 1 << 30, Transport: "usb"})
	})
	f("a binding stands", install.ErrStale, func(b *bench, _ *install.PermissionRequest) {
		b.add(reconcile.KindBinding, "other", e, reconcile.Binding{Instance: "other", Machine: "m1", Generation: 2})
	})
	f("no release is known", install.ErrStale, func(b *bench, _ *install.PermissionRequest) {
		b.add(reconcile.KindRelease, "m1", e, reconcile.Release{})
	})
	f("deleted at the site a moment ago", install.ErrStale, func(b *bench, _ *install.PermissionRequest) {
		b.add(reconcile.KindRelease, "m1", e, reconcile.Release{Instance: "inst", Generation: 1, Cause: "override lon1-1", Time: time.Now().UTC()})
	})
	f("the store is not sound", install.ErrBusy, func(b *bench, _ *install.PermissionRequest) { b.unfit = errors.New("held") })
	f("no coordinator was heard", install.ErrBusy, func(b *bench, _ *install.PermissionRequest) { b.stale = errors.New("stale") })
}

// TestErasureIsNotDoneByWord: an installer that says that an erasure is done, without a proof, has failed.
func TestErasureIsNotDoneByWord(t *testing.T) {
	b := newBench(t)
	id := b.freeing()
	if err := b.inst.Done(t.Context(), id, install.Done{Task: "erase/m1/1/1", Generation: 1, OK: true}); err != nil {
		t.Fatal(err)
	}
	v, _ := b.inst.control.View("m1")
	if step := reconcile.PlanMachine(v); step.Status.State != intent.StateQuarantined || step.Event != "erase.failed" {
		t.Errorf("%+v", step)
	}
}

// TestReleaseAfterClear: a machine that was cleared, given to another instance and released again owes an erasure for that one: the record
// that the clearing wrote, under a claim's epoch, does not stand above it.
func TestReleaseAfterClear(t *testing.T) {
	b := newBench(t)
	b.freeing()
	b.add(reconcile.KindRelease, "m1", intent.Epoch{Generation: 1, N: 5}, reconcile.Release{Instance: "inst", Project: "acme", Generation: 2, Cause: "intent 1.2", Time: time.Now().UTC()})
	e := intent.Epoch{Generation: 1, N: 9}
	b.add(reconcile.KindErased, "m1", intent.Epoch{}, reconcile.Erased{Instance: "inst", Generation: 2})
	b.add(reconcile.KindBinding, "other", e, reconcile.Binding{Instance: "other", Project: "acme", Machine: "m1", Generation: 3, Cause: "intent 1.3"})
	b.add(reconcile.KindMachine, "m1", e, intent.MachineStatus{State: intent.StateRunning, Generation: 3, Epoch: e.String(), InstanceUID: "other", Since: time.Now()})
	v, _ := b.inst.control.View("m1")
	if err := b.inst.control.Release(t.Context(), v, "ana"); err != nil {
		t.Fatal(err)
	}
	v, _ = b.inst.control.View("m1")
	if step := reconcile.PlanMachine(v); v.Release.Instance != "other" || step.Status.Phase != reconcile.PhaseOff || step.Status.Generation != 3 {
		t.Errorf("release %+v, step %+v", v.Release, step)
	}
}

// TestOfflineDeleteIsHeld: F13. What was deleted at the site waits a day by this process's clock, whatever the records' clocks say.
func TestOfflineDeleteIsHeld(t *testing.T) {
	b := newBench(t)
	b.freeing()
	b.add(reconcile.KindRelease, "m1", intent.Epoch{Generation: 1, N: 1}, reconcile.Release{
		Instance: "inst", Project: "acme", Generation: 1, Cause: "override lon1-1", Time: time.Now().Add(-10 * 365 * 24 * time.Hour).UTC(),
	})
	v, _ := b.inst.control.View("m1")
	if err := v.MayErase(); err == nil {
		t.Error("it may be erased at once: its record is dated ten years back")
	}
	v.Now = v.Now.Add(25 * time.Hour)
	if err := v.MayErase(); err != nil {
		t.Errorf("a day later: %v", err)
	}
}
