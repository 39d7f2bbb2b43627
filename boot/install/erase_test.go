package install

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/boot/inventory"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// fakeEraser is one disk in memory.
type fakeEraser struct {
	disk   inventory.Disk
	err    error
	runs   int
	gate   chan struct{} // if set, Run waits for it or for ctx
	closed bool
}

func (e *fakeEraser) Run(ctx context.Context, progress func(string, uint64, uint64)) error {
	e.runs++
	progress("erase", 1, 2)
	if e.gate != nil {
		select {
		case <-e.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return e.err
}

func (e *fakeEraser) Drive() erasure.Drive { return erasure.Drive{DiskID: e.disk.ID(), Method: "m"} }
func (e *fakeEraser) Begun() bool          { return e.runs > 0 }
func (e *fakeEraser) Close() error         { e.closed = true; return nil }

var _ Eraser = (*fakeEraser)(nil)

// eraseScene is a machine with two disks and a stick.
type eraseScene struct {
	*scene
	erasers map[string]*fakeEraser
	prepare func(*fakeEraser)
}

func newEraseScene(t *testing.T) *eraseScene {
	s := &eraseScene{scene: newScene(t), erasers: map[string]*fakeEraser{}}
	s.hw.Disks = append(s.hw.Disks, inventory.Disk{Name: "sdc", Serial: "STICK", SizeBytes: 1 << 30, Transport: "usb"})
	s.hw.Disks[1].Signatures = []string{"lvm", "zfs"}
	s.perm.Act = intent.ActErase
	s.perm.Disks = []intent.DiskID{{Serial: "D1", SizeBytes: diskBytes}, {Serial: "D2", SizeBytes: diskBytes}}
	return s
}

func (s *eraseScene) work() Work {
	return Work{
		Kind: WorkErase, Task: "e1", Generation: 3, Epoch: intent.Epoch{Generation: 1, N: 1},
		Erase: &EraseWork{Level: erasure.Purge, Disks: []intent.DiskID{{Serial: "D1", SizeBytes: diskBytes}, {Serial: "D2", SizeBytes: diskBytes}}},
	}
}

func (s *eraseScene) run(orders ...Work) WorkKind {
	s.t.Helper()
	s.order = orders
	a, p, _ := agent(s.t, NewHandler(s.site))
	in := &Installer{
		Client: newClient(s.t, p, a), Version: "t", Log: quiet(),
		Collect: func(context.Context) (*inventory.Report, error) {
			r := s.hw
			r.Disks = slices.Clone(r.Disks)
			return &r, nil
		},
		Erase: func(d inventory.Disk, want erasure.Level) (Eraser, error) {
			if want != erasure.Purge {
				s.t.Errorf("level %s", want)
			}
			e := &fakeEraser{disk: d}
			if s.prepare != nil {
				s.prepare(e)
			}
			s.erasers[d.Name] = e
			return e, nil
		},
		Verifier: func([][]byte) (Verifier, error) { return noVerifier{s.verify}, nil },
	}
	kind, err := in.Run(deadline(s.t))
	if err != nil {
		s.t.Fatal(err)
	}
	return kind
}

func TestErase(t *testing.T) {
	s := newEraseScene(t)
	if kind := s.run(s.work()); kind != WorkReboot {
		t.Errorf("ended with %s", kind)
	}
	if len(s.site.proofs) != 1 || len(s.site.dones) != 0 {
		t.Fatalf("%d proofs, dones %+v", len(s.site.proofs), s.site.dones)
	}
	p := s.site.proofs[0]
	if len(p.Drives) != 2 || p.Drives[1].Serial != "D2" || p.Permission != "p1" || p.Serial != "SN1" || len(p.Exceptions) != 1 {
		t.Errorf("%+v", p)
	}
	if len(s.erasers) != 2 || !s.erasers["sda"].closed || !s.erasers["sdb"].closed {
		t.Errorf("%+v", s.erasers)
	}
}

// TestEraseRefused: promise 5. Whatever is wrong, no disk is opened.
func TestEraseRefused(t *testing.T) {
	f := func(name, code string, set func(s *eraseScene, w *Work)) {
		t.Helper()
		s := newEraseScene(t)
		w := s.work()
		set(s, &w)
		s.run(w)
		if len(s.erasers) != 0 || len(s.site.proofs) != 0 || len(s.site.dones) != 1 || s.site.dones[0].Code != code || s.site.dones[0].Wrote {
			t.Errorf("%s: opened %d, proofs %d, dones %+v", name, len(s.erasers), len(s.site.proofs), s.site.dones)
		}
	}
	f("permission to write", "permission", func(s *eraseScene, _ *Work) { s.perm.Act = intent.ActInstall })
	f("another machine", "permission", func(s *eraseScene, _ *Work) { s.perm.Serial = "SN2" })
	f("another UUID", "permission", func(s *eraseScene, _ *Work) { s.perm.UUID = "u2" })
	f("another generation", "permission", func(s *eraseScene, _ *Work) { s.perm.Generation = 4 })
	f("an older claim", "permission", func(s *eraseScene, _ *Work) { s.perm.Claim = intent.Epoch{} })
	f("fewer disks than ordered", "permission", func(s *eraseScene, _ *Work) { s.perm.Disks = s.perm.Disks[:1] })
	f("another disk than ordered", "permission", func(s *eraseScene, w *Work) { w.Erase.Disks[0].Serial = "D9" })
	f("no disk ordered", "permission", func(s *eraseScene, w *Work) { w.Erase.Disks, s.perm.Disks = nil, nil })
	f("bad signature", "permission", func(s *eraseScene, _ *Work) { s.verify = errors.New("bad signature") })
	f("no details", "erase", func(_ *eraseScene, w *Work) { w.Erase = nil })
	f("a disk is gone", "disk", func(s *eraseScene, _ *Work) { s.hw.Disks = s.hw.Disks[:1] })
	f("a disk has another size", "disk", func(s *eraseScene, _ *Work) { s.hw.Disks[0].SizeBytes++ })
	f("a disk is mounted", "disk", func(s *eraseScene, _ *Work) { s.hw.Disks[0].InUse = []string{"/"} })
	f("a disk more", "disk", func(s *eraseScene, _ *Work) {
		s.hw.Disks = append(s.hw.Disks, inventory.Disk{Name: "sdd", Serial: "D4", SizeBytes: diskBytes})
	})
}

// TestEraseFails: one disk fails, the other is erased all the same, and nothing is handed in.
func TestEraseFails(t *testing.T) {
	s := newEraseScene(t)
	s.prepare = func(e *fakeEraser) {
		if e.disk.Name == "sda" {
			e.err = errors.New("the canary can still be read")
		}
	}
	s.run(s.work())
	if len(s.site.proofs) != 0 || len(s.site.dones) != 1 || s.site.dones[0].Code != "erase" || !s.site.dones[0].Wrote || s.erasers["sdb"].runs != 1 {
		t.Errorf("proofs %d, dones %+v", len(s.site.proofs), s.site.dones)
	}
}

// TestReceiptRefused: an installer whose proof is not taken stops where it is.
func TestReceiptRefused(t *testing.T) {
	s := newEraseScene(t)
	s.site.ReceiptFunc = func(erasure.Proof) (ReceiptPlace, error) { return ReceiptPlace{}, ErrStale }
	if kind := s.run(s.work()); kind != WorkHalt || len(s.site.dones) != 1 || s.site.dones[0].OK {
		t.Errorf("%s, dones %+v", kind, s.site.dones)
	}
}

// TestEraseGoesOnUnderAnotherClaim: the claim moves in the middle; the disks stay open, and go on under the new owner's permission.
func TestEraseGoesOnUnderAnotherClaim(t *testing.T) {
	s := newEraseScene(t)
	gate := make(chan struct{})
	s.prepare = func(e *fakeEraser) { e.gate = gate }
	asked := 0
	s.site.PermitFunc = func(PermissionRequest) (PermissionEnvelope, error) {
		p := s.perm
		if asked++; asked > 1 {
			p.ID, p.Claim.N = "p2", 2
			close(gate)
		}
		b, err := json.Marshal(p)
		return PermissionEnvelope{intent.Envelope{Payload: b}}, err
	}
	s.site.ControlFn = func(Progress) (Control, error) {
		return Control{Epoch: intent.Epoch{Generation: 1, N: 2}}, nil
	}
	at := time.Now()
	s.run(s.work(), s.work())
	if len(s.site.proofs) != 1 || s.site.proofs[0].Permission != "p2" || len(s.erasers) != 2 || s.erasers["sda"].runs != 2 {
		t.Errorf("proofs %+v after %v, %d erasers", s.site.proofs, time.Since(at), len(s.erasers))
	}
}
