package claim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/mesh/intent"
)

func members(names ...string) []Member {
	var out []Member
	for i, n := range names {
		out = append(out, Member{ID: n, Rank: uint16(i), Alive: true})
	}
	return out
}

func TestOwnerLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := at(0)
		var ms []Member
		for i := range rapid.IntRange(0, 7).Draw(t, "agents") {
			ms = append(ms, Member{ID: fmt.Sprintf("agent-%d", i), Alive: rapid.Bool().Draw(t, "alive"), Since: now.Add(-time.Duration(rapid.IntRange(0, 60).Draw(t, "since")) * time.Second)})
		}
		id := rapid.StringMatching(`machine/[a-z]{1,8}`).Draw(t, "id")
		owner := Owner(id, ms, now)
		if got := Owner(id, rapid.Permutation(ms).Draw(t, "order"), now); got != owner {
			t.Fatalf("another order, another owner: %s, %s", owner, got)
		}
		usable := func(m Member) bool { return m.Alive || now.Sub(m.Since) < HoldOff }
		if owner == "" {
			if slices.ContainsFunc(ms, usable) {
				t.Fatal("nobody owns it though somebody could")
			}
			return
		}
		i := slices.IndexFunc(ms, func(m Member) bool { return m.ID == owner })
		if !usable(ms[i]) {
			t.Fatalf("%s owns it and is dead", owner)
		}
		others := slices.DeleteFunc(slices.Clone(ms), func(m Member) bool { return m.ID != owner && rapid.Bool().Draw(t, "leaves") })
		if got := Owner(id, others, now); got != owner {
			t.Fatalf("others left, and the owner moved from %s to %s", owner, got)
		}
	})
}

func TestPromiseTable(t *testing.T) {
	db := openStore(t, filepath.Join(quickDir(t), "state"))
	defer db.Close()
	own := promises{db}
	e := func(n uint64) intent.Epoch { return intent.Epoch{Generation: 1, N: n} }
	f := func(name string, p Promise, alive bool, why string) {
		t.Helper()
		p.ID = "machine/m1"
		err := own.promise(p, func(string) bool { return alive })
		got := ""
		if r, ok := errors.AsType[*Refusal](err); ok {
			got = r.Why
		} else if err != nil {
			t.Fatal(err)
		}
		if got != why {
			t.Fatalf("%s: %q (%v), want %q", name, got, err, why)
		}
	}
	f("the first", Promise{Epoch: e(5), Owner: "a", Boot: "1"}, true, "")
	f("its reply was lost", Promise{Epoch: e(5), Owner: "a", Boot: "1"}, true, "")
	f("the same epoch, another life", Promise{Epoch: e(5), Owner: "a", Boot: "2"}, true, "lower")
	f("the same epoch, another owner", Promise{Epoch: e(5), Owner: "b", Boot: "1"}, false, "lower")
	f("lower", Promise{Epoch: e(4), Owner: "a", Boot: "1"}, true, "lower")
	f("lower, another owner, the holder dead", Promise{Epoch: e(4), Owner: "b", Boot: "1"}, false, "lower")
	f("higher, the holder alive", Promise{Epoch: e(6), Owner: "b", Boot: "1"}, true, "owner_alive")
	f("a yield of an earlier claim", Promise{Epoch: e(6), Owner: "b", Boot: "1", Yielded: map[string]intent.Epoch{"a": e(4)}}, true, "owner_alive")
	f("somebody else's yield", Promise{Epoch: e(6), Owner: "b", Boot: "1", Yielded: map[string]intent.Epoch{"c": e(5)}}, true, "owner_alive")
	f("higher, the holder yielded", Promise{Epoch: e(6), Owner: "b", Boot: "1", Yielded: map[string]intent.Epoch{"a": e(5)}}, true, "")
	f("higher, the holder dead", Promise{Epoch: e(7), Owner: "c", Boot: "1"}, false, "")
	f("an older roster", Promise{Epoch: intent.Epoch{N: 99}, Owner: "c", Boot: "1"}, false, "lower")
	f("a newer roster", Promise{Epoch: intent.Epoch{Generation: 2, N: 1}, Owner: "c", Boot: "2"}, true, "")
	if err := own.release(Promise{ID: "machine/m1", Epoch: e(99), Owner: "c"}); err != nil {
		t.Fatal(err)
	}
	f("an earlier release frees nothing", Promise{Epoch: intent.Epoch{Generation: 2, N: 2}, Owner: "a", Boot: "1"}, true, "owner_alive")
	if err := own.release(Promise{ID: "machine/m1", Epoch: intent.Epoch{Generation: 2, N: 1}, Owner: "c"}); err != nil {
		t.Fatal(err)
	}
	f("released", Promise{Epoch: intent.Epoch{Generation: 2, N: 2}, Owner: "a", Boot: "1"}, true, "")
	if err := own.release(Promise{ID: "machine/m1", Epoch: intent.Epoch{Generation: 2, N: 2}, Owner: "a"}); err != nil {
		t.Fatal(err)
	}
	f("an epoch that was given back", Promise{Epoch: intent.Epoch{Generation: 2, N: 2}, Owner: "a", Boot: "1"}, true, "lower")
	f("the next one", Promise{Epoch: intent.Epoch{Generation: 2, N: 3}, Owner: "a", Boot: "1"}, true, "")
	p, err := own.load("machine/m1")
	if err != nil || p.Owner != "a" || p.Released || p.Yielded != nil {
		t.Fatalf("the table holds %+v, %v", p, err)
	}
}

// alone is a site of one agent.
type alone struct{ ms []Member }

func (a alone) Members() (uint64, []Member)                          { return 1, a.ms }
func (alone) Promise(context.Context, string, uint64, Promise) error { return errLost }
func (alone) Confirm(context.Context, string, Promise) error         { return errLost }
func (alone) Release(context.Context, string, Promise) error         { return errLost }
func (alone) Promises(context.Context, string) ([]Promise, error)    { return nil, errLost }
func (alone) ReadFence(context.Context) (intent.Epoch, intent.Strength, error) {
	return intent.Epoch{Generation: 1, N: 40 << 16}, intent.StrengthHard, nil
}
func (alone) RaiseFence(context.Context, intent.Epoch) error { return nil }

// TestAcquireShared: callers of one process that ask at once get one claim, above the device's epoch.
func TestAcquireShared(t *testing.T) {
	db := openStore(t, filepath.Join(quickDir(t), "state"))
	defer db.Close()
	site := alone{members("a")}
	c := NewClaims(db, "a", "boot", site, site, slog.New(slog.DiscardHandler))
	got := make([]intent.Claim, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			cl, err := c.Acquire(t.Context(), "machine/m1", site)
			if err != nil {
				t.Error(err)
			}
			got[i] = cl
		})
	}
	wg.Wait()
	for _, cl := range got {
		if cl != got[0] || cl.Epoch.N != 41<<16 {
			t.Fatalf("claims %v", got)
		}
	}
}

// TestBehind: an agent whose store is behind claims, promises and confirms nothing.
func TestBehind(t *testing.T) {
	db := openStore(t, filepath.Join(t.TempDir(), "state"))
	defer db.Close()
	site := alone{members("a", "b")}
	c := NewClaims(db, "a", "boot", site, site, slog.New(slog.DiscardHandler))
	c.now = func() time.Time { return time.Now().Add(time.Hour) }
	p := Promise{ID: "machine/m1", Epoch: intent.Epoch{Generation: 1, N: 1 << 16}, Owner: "b", Boot: "1"}
	if err := c.OnPromise(1, p); err != nil {
		t.Fatal(err)
	}
	if err := db.SetRecovering("restored"); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"promise": c.OnPromise(1, p), "confirm": c.OnConfirm(p)} {
		if r, ok := errors.AsType[*Refusal](err); !ok || r.Why != "recovering" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Acquire(t.Context(), "machine/m2", nil); !errors.Is(err, ErrNotHeld) {
		t.Errorf("acquire: %v", err)
	}
}

// Who is in the roster no more holds nothing, and refuses nobody what it held once it is there again.
func TestOutOfTheRoster(t *testing.T) {
	db := openStore(t, filepath.Join(quickDir(t), "state"))
	defer db.Close()
	site := &alone{members("a")}
	c := NewClaims(db, "a", "boot", site, site, slog.New(slog.DiscardHandler))
	cl, err := c.Acquire(t.Context(), "machine/m1", site)
	if err != nil {
		t.Fatal(err)
	}
	site.ms = members("b")
	if _, held := c.Held("machine/m1"); held {
		t.Error("it holds its claim out of the roster")
	}
	if got, err := c.Acquire(t.Context(), "machine/m1", site); !errors.Is(err, ErrNotHeld) {
		t.Errorf("Acquire = %v, %v", got, err)
	}
	site.ms = members("a", "b")
	if _, held := c.Held("machine/m1"); held {
		t.Error("it holds an old claim again")
	}
	c.started = c.started.Add(-lease)
	if err := c.OnPromise(1, Promise{ID: "machine/m1", Epoch: cl.Epoch.Next(1, 1), Owner: "b", Boot: "x"}); err != nil {
		t.Errorf("its peer is refused: %v", err)
	}
}
