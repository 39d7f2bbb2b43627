package bmclogin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/boot/bmc"
	"github.com/skerry-metal/skerry/boot/bmc/redfish"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/reconcile"
	"github.com/skerry-metal/skerry/siteagent/reconcile/firmware"
	"github.com/skerry-metal/skerry/storage/state"
	sim "github.com/skerry-metal/skerry/test/sim/bmc"
	"github.com/skerry-metal/skerry/test/sim/vm"
)

const (
	before = "Before0the0change"
	after  = "After23456789abc"
)

// off is a machine that nobody powers on.
type off struct{}

func (off) On(context.Context) error       { return nil }
func (off) Off(context.Context) error      { return nil }
func (off) Reset(context.Context) error    { return nil }
func (off) Shutdown(context.Context) error { return nil }
func (off) PowerOn() bool                  { return false }

// bench is one simulated BMC and the lives of an agent over one store.
type bench struct {
	t    *testing.T
	sim  *sim.BMC
	addr string
	dir  string
	now  time.Time
	said string          // by events
	log  strings.Builder // all that the agent logs

	mu     sync.Mutex // guards what follows
	left   int        // requests until the agent dies; below zero: it does not
	late   bool       // it dies after the BMC did what was asked, before the answer
	die    context.CancelFunc
	dead   bool                // the BMC does not answer
	early  func(*http.Request) // called with each request; nil: nothing
	asked  int                 // requests
	logins int                 // that were refused
}

func newBench(t *testing.T, faults ...sim.Fault) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "skerry-bmclogin-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bench{t: t, dir: dir, left: -1, now: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC), sim: sim.New(sim.Config{User: "root", Password: before, Firmware: vm.UEFIPXE, LoginTime: time.Millisecond}, off{})}
	if err := b.sim.SetFaults(faults...); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(b.serve))
	t.Cleanup(srv.Close)
	b.addr = strings.TrimPrefix(srv.URL, "https://")
	return b
}

// status keeps what was answered.
type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) { s.code = code; s.ResponseWriter.WriteHeader(code) }

func (b *bench) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	dies := b.left == 0
	b.left--
	b.asked++
	dead, early := b.dead, b.early
	b.mu.Unlock()
	if early != nil {
		early(r)
	}
	switch {
	case dead:
		panic(http.ErrAbortHandler)
	case dies && b.late:
		b.sim.ServeHTTP(httptest.NewRecorder(), r)
		fallthrough
	case dies:
		b.die()
		panic(http.ErrAbortHandler)
	}
	s := &status{w, 200}
	b.sim.ServeHTTP(s, r)
	if s.code == http.StatusUnauthorized && r.Method == http.MethodPost {
		b.mu.Lock()
		b.logins++
		b.mu.Unlock()
	}
}

// wrong returns how many logins were refused since the last call.
func (b *bench) wrong() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.logins
	b.logins = 0
	return n
}

func (b *bench) set(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
}

// secret is a version of the BMC's secret, as a coordinator makes them.
func secret(ver uint64) values {
	return map[uint64]values{
		1: {Username: "root", Password: before},
		2: {Username: "root", Password: after, Previous: before},
		3: {Username: "root", Password: after},
	}[ver]
}

// open gives fn the logins of one process life of the agent, at a version of the secret.
func (b *bench) open(ver uint64, fn func(ctx context.Context, l *Logins, v reconcile.MachineView)) {
	b.t.Helper()
	log := slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db, err := state.Open(state.Config{Dir: filepath.Join(b.dir, "state"), Key: make([]byte, 32), Logger: slog.New(slog.DiscardHandler), UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	if err != nil {
		b.t.Fatal(err)
	}
	defer db.Close()
	j, err := claim.OpenJournal(db, "lon1", "a1", log)
	if err != nil {
		b.t.Fatal(err)
	}
	l := &Logins{Config{
		Site: "lon1", Journal: j, Log: log, Now: func() time.Time { return b.now }, Rate: 500,
		Secret: func(string) (seal.Secret, error) {
			v, err := json.Marshal(secret(ver))
			return seal.NewSecret(v), err
		},
		Version: func(string) uint64 { return ver },
	}}
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	b.set(func() { b.die = cancel })
	spec := &intent.BMCSpec{Address: b.addr, Protocol: "redfish", Secret: "bmc"}
	fn(ctx, l, reconcile.MachineView{Name: "m1", Spec: &intent.MachineSpec{BMC: spec}})
	b.records(j)
}

// life does what there is to do in one life, once. It says what was journaled as taken, and why it failed.
func (b *bench) life(ver uint64) (got uint64, err error) {
	b.t.Helper()
	b.open(ver, func(ctx context.Context, l *Logins, v reconcile.MachineView) {
		err = b.chore(ctx, l, v)
		got = l.Taken("m1", v.Spec.BMC)
	})
	return got, err
}

// dials opens sessions as steps and power commands do, in one life.
func (b *bench) dials(n int, ver uint64) (refused int) {
	b.t.Helper()
	b.open(ver, func(ctx context.Context, l *Logins, v reconcile.MachineView) {
		for range n {
			ctl, err := l.Dial(ctx, "m1", v.Spec.BMC)
			switch {
			case errors.Is(err, bmc.ErrAuth):
				refused++
			case err != nil:
				b.t.Error(err)
			default:
				if err := ctl.Close(ctx); err != nil {
					b.t.Error(err)
				}
			}
		}
	})
	return refused
}

// chore does as reconcile's loop; what the process's death interrupts is told to nobody.
func (b *bench) chore(ctx context.Context, l *Logins, v reconcile.MachineView) error {
	ch := l.Chore(v)
	if ch == nil {
		return nil
	}
	ctl, err := l.Dial(ctx, v.Name, v.Spec.BMC)
	if err == nil {
		cl := intent.Claim{ID: "machine/m1", Epoch: intent.Epoch{Generation: 1, N: 1 << 16}, Owner: "a1"}
		err = ch.Do(ctx, cl, ctl)
		if cerr := ctl.Close(ctx); cerr != nil && err == nil && ctx.Err() == nil {
			b.t.Error(cerr)
		}
	}
	if err != nil && ctx.Err() == nil {
		ch.Failed(ctx, err)
	}
	return err
}

// records greps what is written for passwords.
func (b *bench) records(j *claim.Journal) {
	b.t.Helper()
	rs, err := j.Range("a1", 1, claim.MaxPull)
	if err != nil {
		b.t.Fatal(err)
	}
	text := string(marshal(b.t, rs)) + b.log.String()
	if strings.Contains(text, before) || strings.Contains(text, after) {
		b.t.Error("a password stands in the journal or the log")
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// events lists what was told, with the version that it is about.
func (b *bench) events() (out []string) {
	b.t.Helper()
	b.open(1, func(_ context.Context, l *Logins, _ reconcile.MachineView) {
		err := l.Journal.Events(nil, func(e intent.Event) error {
			if b.said += e.Message; e.Type != "bmc.pinned" {
				out = append(out, e.Type+" "+e.Fields["version"])
			}
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	})
	return out
}

// byHand gives the BMC another password behind our back.
func (b *bench) byHand() {
	b.t.Helper()
	ctl, err := redfish.New(redfish.Config{Address: b.addr, User: "root", Password: b.sim.Password(), Site: "lon1", Logger: slog.New(slog.DiscardHandler), RatePerSec: 500})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := ctl.SetPassword(b.t.Context(), intent.Claim{Epoch: intent.Epoch{Generation: 9, N: 1}}, "By0hand0by0hand"); err != nil {
		b.t.Fatal(err)
	}
	if err := ctl.Close(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.wrong()
}

// TestCrashes ends the agent before and after each request of a change of password that the BMC sees. The next life, under the same
// versions, always ends with the new password in use and journaled; at no time does the BMC see more than two wrong logins in a row.
func TestCrashes(t *testing.T) {
	for _, late := range []bool{false, true} {
		for n := 0; ; n++ {
			b := newBench(t)
			if got, err := b.life(1); got != 1 || err != nil {
				t.Fatalf("before the change: version %d, %v", got, err)
			}
			b.set(func() { b.left, b.late = n, late })
			got, err := b.life(2)
			if at := b.sim.Password(); at != before && at != after {
				t.Fatalf("request %d, late %v: the BMC takes something else", n, late)
			}
			if err == nil {
				if got != 2 || b.sim.Password() != after || n < 8 {
					t.Fatalf("without a crash at request %d: version %d, the new password %v", n, got, b.sim.Password() == after)
				}
				t.Logf("late %v: %d requests", late, n)
				break
			}
			b.set(func() { b.left = -1 })
			if got, err := b.life(2); got != 2 || err != nil || b.sim.Password() != after {
				t.Fatalf("request %d, late %v: the next life ends with version %d, %v; the new password %v", n, late, got, err, b.sim.Password() == after)
			}
			if k := b.wrong(); k > 2 {
				t.Fatalf("request %d, late %v: %d wrong logins", n, late, k)
			}
			if got, err := b.life(3); got != 3 || err != nil {
				t.Fatalf("request %d, late %v: version 3: %d, %v", n, late, got, err)
			}
		}
	}
}

// TestFaults: whatever the BMC does, what is journaled as taken works, a refusal is told once, and the next try waits.
func TestFaults(t *testing.T) {
	f := func(fault sim.Fault, want uint64, events ...string) {
		t.Run(string(fault), func(t *testing.T) {
			b := newBench(t)
			if got, err := b.life(1); got != 1 || err != nil {
				t.Fatal(got, err)
			}
			if err := b.sim.SetFaults(fault); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				got, err := b.life(2)
				if got != want || (want == 2) != (err == nil) && i == 0 {
					t.Fatalf("version %d, %v", got, err)
				}
				if k := b.wrong(); k > 2 || i > 0 && k > 0 && i < 2 {
					t.Errorf("time %d: %d wrong logins", i, k)
				}
				if i == 1 {
					b.now = b.now.Add(loginRest)
				}
			}
			if (b.sim.Password() == after) != (want == 2) {
				t.Errorf("the BMC takes the new password: %v", b.sim.Password() == after)
			}
			if d := cmp.Diff(append([]string{"bmc.login.proven 1"}, events...), b.events()); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
			if fault == sim.PasswordDenied && !strings.Contains(b.said, "InsufficientPrivilege") {
				t.Errorf("the controller's reason is not told: %s", b.said)
			}
			if want == 2 {
				return
			}
			if err := b.sim.SetFaults(); err != nil { // somebody mended it
				t.Fatal(err)
			}
			b.now = b.now.Add(lastRest)
			if got, err := b.life(2); got != 2 || err != nil || b.sim.Password() != after {
				t.Errorf("mended: version %d, %v", got, err)
			}
		})
	}
	f(sim.PasswordIgnored, 1, "bmc.login.refused 2")
	f(sim.PasswordPolicy, 1, "bmc.login.refused 2")
	f(sim.PasswordDenied, 1, "bmc.login.refused 2")
	f(sim.PasswordLogout, 2, "bmc.login.proven 2")
	f(sim.PasswordLost, 2, "bmc.login.proven 2")
	f(sim.ETagRequired, 2, "bmc.login.proven 2")
	f(sim.ETagBare, 2, "bmc.login.proven 2")
	f(sim.Lockout3, 2, "bmc.login.proven 2")
	f(sim.SessionCap8, 2, "bmc.login.proven 2")
	f(sim.NodeBusy, 2, "bmc.login.proven 2")
	f(sim.Storm503, 2, "bmc.login.proven 2")
}

// TestChangedByHand: somebody set another password at the BMC. It sees what we have once, then nothing for a quarter of an hour, whoever
// asks, chore, step or power command, and whatever restarts; whether a change is under way or not.
func TestChangedByHand(t *testing.T) {
	f := func(name string, ver uint64, have uint64, wrong int) {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, sim.Lockout3)
			for v := uint64(1); v <= have; v++ {
				if got, err := b.life(v); got != v || err != nil {
					t.Fatal(got, err)
				}
			}
			b.byHand()
			for range 2 { // now, and a quarter of an hour later
				if _, err := b.life(ver); ver > have && !errors.Is(err, bmc.ErrAuth) {
					t.Errorf("the chore ends with %v", err)
				}
				for range 2 {
					if n := b.dials(3, ver); n != 3 {
						t.Errorf("%d of 3 dials were refused", n)
					}
				}
				if k := b.wrong(); k != wrong {
					t.Errorf("%d wrong logins, want %d", k, wrong)
				}
				b.now = b.now.Add(loginRest)
				if err := b.sim.SetFaults(); err != nil { // an account that was locked is open by then
					t.Fatal(err)
				}
			}
		})
	}
	f("never proven", 1, 0, 1)
	f("proven", 1, 1, 1)
	f("while a change is under way", 2, 1, 2)
	f("after a change", 2, 2, 1)
	f("the version after a change", 3, 2, 1)
}

// TestAnotherBMC: a machine whose BMC has another address by now has another BMC, which has taken nothing.
func TestAnotherBMC(t *testing.T) {
	b := newBench(t)
	if got, err := b.life(1); got != 1 || err != nil {
		t.Fatal(got, err)
	}
	b.addr = newBench(t).addr
	b.open(1, func(_ context.Context, l *Logins, v reconcile.MachineView) {
		if got := l.Taken("m1", v.Spec.BMC); got != 0 || l.Chore(v) == nil {
			t.Errorf("another BMC counts as having taken version %d", got)
		}
	})
}

// TestUnreachable: a BMC that is away keeps its version, is asked less and less often, and takes the change when it is back.
func TestUnreachable(t *testing.T) {
	b := newBench(t)
	if got, err := b.life(1); got != 1 || err != nil {
		t.Fatal(got, err)
	}
	b.set(func() { b.dead, b.asked = true, 0 })
	var waits []time.Duration
	for last := b.now; len(waits) < 9; {
		if got, _ := b.life(2); got != 1 {
			t.Fatalf("version %d of a BMC that does not answer", got)
		}
		b.set(func() {
			if b.asked > 0 {
				waits, last, b.asked = append(waits, b.now.Sub(last)), b.now, 0
			}
		})
		b.now = b.now.Add(time.Minute)
	}
	want := []time.Duration{0, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour}
	if d := cmp.Diff(want, waits); d != "" {
		t.Errorf("waits (-want +got)\n%s", d)
	}
	if d := cmp.Diff([]string{"bmc.login.proven 1", "bmc.login.refused 2"}, b.events()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	b.now = b.now.Add(time.Hour)
	b.set(func() { b.dead = false })
	if got, err := b.life(2); got != 2 || err != nil || b.sim.Password() != after {
		t.Errorf("back: version %d, %v", got, err)
	}
}

// TestNotesAccounts: the accounts of a BMC are listed when it is first used, and that list stays; one that cannot be listed is used all the
// same.
func TestNotesAccounts(t *testing.T) {
	b := newBench(t)
	known := func(ver uint64) (names []string) {
		b.open(ver, func(_ context.Context, l *Logins, v reconcile.MachineView) {
			names = firmware.Known(l.Journal, "m1", v.Spec.BMC.Address)
		})
		return names
	}
	if names := known(1); names != nil {
		t.Fatalf("before it is used: %q", names)
	}
	for ver := uint64(1); ver <= 2; ver++ {
		if got, err := b.life(ver); got != ver || err != nil {
			t.Fatal(got, err)
		}
		if names := known(ver); !slices.Equal(names, []string{"root", "operator"}) {
			t.Errorf("version %d: %q", ver, names)
		}
		b.sim.AddAccount("mallory")
	}
}
