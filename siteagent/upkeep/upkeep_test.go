package upkeep_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/siteagent/upkeep"
	"github.com/skerry-metal/skerry/storage/state"
)

// life gives a1 something in every bucket that it owns.
func life(t *testing.T, n *sitetest.Net) {
	t.Helper()
	for i := range 12 {
		n.Publish(n.Author.Put(sitetest.MachineTypeDoc(fmt.Sprintf("t%d", i), 1)))
	}
	n.Publish(
		n.Author.Entry(intent.EntryTombstone, intent.TombstoneBody{Objects: []intent.TombstoneObject{{Kind: intent.KindMachineType, UID: "u-t3", Rev: 2}}}),
		n.Author.Entry(intent.EntryAck, intent.AckBody{Override: "lon1-1", Decision: "discard", Rev: 1}),
	)
	settle(t, n)
	for _, name := range []string{"a1", "a2"} {
		for i := range 20 {
			err := n.Agent(name).Journal.Append(t.Context(), claim.Replicated, claim.Draft{Kind: "lease", Key: fmt.Sprintf("%s-%d", name, i%7), Body: i})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 5 {
		if _, err := n.Agent("a2").Claims.Acquire(t.Context(), fmt.Sprintf("machine/m%d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func settle(t *testing.T, n *sitetest.Net) {
	t.Helper()
	for _, name := range []string{"a1", "a2"} {
		if err := n.Agent(name).Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// level waits until each agent has the other's journal: what only one has is lost with it.
func level(t *testing.T, n *sitetest.Net) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !maps.Equal(n.Agent("a1").Journal.Heads(), n.Agent("a2").Journal.Heads()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the journals do not get level")
		}
	}
}

// rot writes over records of a stopped agent's bucket with another MAC key, as no writer of ours could; with vanish it then
// takes them away.
func rot(t *testing.T, a *sitetest.NetAgent, bucket string, every int, vanish bool) (hurt int) {
	t.Helper()
	foreign := func(fn func(*state.DB) error) { // each in a life of its own: a read of damage holds the bucket
		t.Helper()
		db, err := state.Open(state.Config{
			Dir: filepath.Join(a.Dir, "state"), Key: bytes.Repeat([]byte{9}, 32), Logger: slog.New(slog.DiscardHandler), UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(fn(db), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	var lost []string
	foreign(func(db *state.DB) error {
		keys, err := db.Damaged(bucket) // with this key, all are
		for i := 0; i < len(keys); i += every {
			lost = append(lost, keys[i])
		}
		if every == theLast {
			keys = slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, a.Name+"/") })
			lost = keys[len(keys)-1:]
		}
		return err
	})
	if len(lost) == 0 {
		t.Fatalf("%s has no records: the test tests nothing", bucket)
	}
	each := func(fn func(tx *state.Tx, key string) error) {
		t.Helper()
		foreign(func(db *state.DB) error {
			return db.Update(func(tx *state.Tx) error {
				for _, k := range lost {
					if err := fn(tx, k); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	each(func(tx *state.Tx, k string) error { return tx.Put(bucket, k, []byte("rotten")) })
	if vanish {
		each(func(tx *state.Tx, k string) error { return tx.Delete(bucket, k) })
	}
	return len(lost)
}

// theLast, as every, hurts the last record of the agent itself alone.
const theLast = 1 << 30

// content is what a backup holds by bucket; nil where it is damaged.
func content(db *state.DB) map[string]state.Total {
	totals, err := db.Backup(context.Background(), io.Discard)
	if err != nil {
		return nil
	}
	return totals
}

// records lists what is in the journal.
func records(t *testing.T, j *claim.Journal) map[string]bool {
	t.Helper()
	m := map[string]bool{}
	for agent := range j.Heads() {
		for from := uint64(1); ; {
			p, err := j.Range(agent, from, claim.MaxPull)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Records) == 0 {
				break
			}
			for _, r := range p.Records {
				m[fmt.Sprintf("%s/%d", agent, r.Seq)] = true
				from = r.Seq + 1
			}
		}
	}
	return m
}

// hang ends a wait that nothing will end; a busy disk takes 20 s and more.
const hang = 2 * time.Minute

// run runs the keeper until done.
func run(t *testing.T, a *sitetest.NetAgent, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- a.Keeper.Run(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() && ctx.Err() == nil {
		<-tick.C
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func repaired(a *sitetest.NetAgent) func() bool {
	return func() bool { s := a.Keeper.Status(); return !s.Scrubbed.IsZero() && len(s.Held) == 0 }
}

// TestRepair: damage in any bucket, seen or vanished, holds it, forbids destructive steps, and is repaired to the very records that
// were there, from the chain and the peer.
func TestRepair(t *testing.T) {
	n := sitetest.NewNet(t, "a1", "a2")
	life(t, n)
	a := n.Agent("a1")
	f := func(bucket string, every int, vanish bool) {
		t.Run(fmt.Sprintf("%s/%d/%v", bucket, every, vanish), func(t *testing.T) {
			settle(t, n)
			level(t, n)
			want, had := content(a.DB), records(t, a.Journal)
			if want == nil {
				t.Fatal("damaged before it was hurt")
			}
			a.Stop()
			hurt := rot(t, a, bucket, every, vanish)
			a.Start() // an agent with damaged state starts
			if err := a.Keeper.Fit(); !errors.Is(err, upkeep.ErrUnfit) {
				t.Fatalf("a destructive step before the first scrub: %v", err)
			}
			rep, err := a.DB.Scrub(t.Context())
			if err != nil || rep.Held[bucket] == "" && bucket != "trust" { // the identity file gives trust back at once
				t.Fatalf("%d hurt, scrub: %+v, %v", hurt, rep, err)
			}
			if err := a.Keeper.Fit(); !errors.Is(err, upkeep.ErrUnfit) {
				t.Fatalf("a destructive step before the keeper's scrub, or on a hold: %v", err)
			}
			run(t, a, repaired(a))
			if s := a.Keeper.Status(); len(s.Held) > 0 {
				t.Fatalf("still held: %v", s.Held)
			}
			got, has := content(a.DB), records(t, a.Journal)
			for id := range had {
				if !has[id] {
					t.Errorf("the journal lost record %s", id)
				}
			}
			for b, w := range want {
				if b == "journal" || b == "view" || b == "promise" { // events of this very repair; promises count as given back
					if got[b].Count < w.Count && b != "promise" {
						t.Errorf("%s holds %d records, had %d", b, got[b].Count, w.Count)
					}
					continue
				}
				if got[b] != w {
					t.Errorf("%s holds %+v, had %+v", b, got[b], w)
				}
			}
			tick := time.NewTicker(time.Millisecond) // the journal's own goroutine compares with the peer
			defer tick.Stop()
			for range 10_000 {
				if settle(t, n); !a.DB.Recovering() {
					break
				}
				<-tick.C
			}
			if err := a.Keeper.Fit(); err != nil {
				t.Fatalf("unfit after the repair: %v", err)
			}
		})
	}
	for _, b := range []string{"meta", "trust", "intent", "object", "tomb", "ack", "roster", "journal", "view", "promise"} {
		f(b, 3, false)
		f(b, 2, true)
	}
	f("intent", 1, true)
	f("journal", 1, false)
	for _, name := range []string{"a1", "a2"} {
		for i := range 212 { // more than one answer of a peer holds
			d := claim.Draft{Kind: claim.KindEvent, Body: intent.Event{Type: "seen"}}
			if i >= 12 {
				d = claim.Draft{Kind: "lease", Key: "x", Body: i}
			}
			if err := n.Agent(name).Journal.Append(t.Context(), claim.Replicated, d); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"a1", "a2", "a1", "a2"} { // what the other says of its base comes between
		j := n.Agent(name).Journal
		if err := errors.Join(j.Catch(t.Context()), j.Prune(t.Context(), 10)); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := a.Journal.Range("a2", 1, 1); err != nil || p.Base == 0 {
		t.Fatalf("not pruned: %+v, %v", p, err)
	}
	for _, b := range []string{"journal", "view"} {
		f(b, 3, false)
		f(b, 2, true)
	}
	f("journal", 1, false)
	names := map[string]bool{}
	for _, o := range a.Replica.State().Objects {
		names[o.Metadata.Name] = true
	}
	if len(names) != 13 || names["t3"] || !names["lon1"] {
		t.Errorf("objects after all repairs: %v", slices.Sorted(maps.Keys(names)))
	}
}

// TestLostEnd: the end of an agent's chain is damaged before any peer had it. A record with a key is in the view still; an event is
// nowhere, and the chain ends before it.
func TestLostEnd(t *testing.T) {
	f := func(kind, key string) {
		n := sitetest.NewNet(t, "a1", "a2")
		life(t, n)
		settle(t, n)
		a := n.Agent("a1")
		n.Agent("a2").Stop()
		if err := a.Journal.Append(t.Context(), claim.Local, claim.Draft{Kind: kind, Key: key, Body: intent.Event{Type: "reached nobody"}}); err != nil {
			t.Fatal(err)
		}
		end := a.Journal.Heads()["a1"]
		a.Stop()
		rot(t, a, "journal", theLast, false)
		a.Start()
		n.Agent("a2").Start()
		run(t, a, repaired(a))
		if s := a.Keeper.Status(); len(s.Held) > 0 {
			t.Fatalf("%s: still held: %v", kind, s.Held)
		}
		if p, err := a.Journal.Range("a1", end, 1); err != nil || len(p.Records) == 0 && key != "" {
			t.Fatalf("%s: %+v, %v", kind, p, err)
		}
	}
	f("lease", "a1-1")
	f(claim.KindEvent, "")
}

// TestNothingToRepairFrom: what nobody has stays on hold and is named, and the rest is served; when the peer is back, it is repaired.
func TestNothingToRepairFrom(t *testing.T) {
	n := sitetest.NewNet(t, "a1", "a2")
	life(t, n)
	a := n.Agent("a1")
	a.Stop()
	n.Agent("a2").Stop()
	rot(t, a, "intent", 4, false)
	a.Start()
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	if err := a.Keeper.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if s := a.Keeper.Status(); s.Held["intent"] == "" || a.Keeper.Word() != "held intent" {
		t.Fatalf("held %v, %q", s.Held, a.Keeper.Word())
	}
	if len(a.Replica.State().Objects) != 13 {
		t.Fatalf("%d objects served, want 13", len(a.Replica.State().Objects))
	}
	held := 0
	if err := a.Journal.Events(nil, func(e intent.Event) error {
		if e.Type == "state.held" && strings.Contains(e.Message, "intent") {
			held++
		}
		return nil
	}); err != nil || held != 1 {
		t.Fatalf("%d events name the hold, %v", held, err)
	}
	n.Agent("a2").Start()
	run(t, a, repaired(a))
	if s := a.Keeper.Status(); len(s.Held) > 0 {
		t.Fatalf("still held with a peer: %v", s.Held)
	}
}

// TestTornTable: a flipped bit in a table block, which Badger may report as absent, is left behind with its file.
func TestTornTable(t *testing.T) {
	n := sitetest.NewNet(t, "a1", "a2")
	life(t, n)
	a := n.Agent("a1")
	a.Stop() // memtables become tables
	tables, err := filepath.Glob(filepath.Join(a.Dir, "state", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	b, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/4] ^= 4
	if err := os.WriteFile(tables[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	a.Start()
	if rep, err := a.DB.Scrub(t.Context()); err != nil || rep.Checksum == nil || !a.DB.Torn() {
		t.Fatalf("the flip was not seen: %+v, %v", rep, err)
	}
	run(t, a, repaired(a))
	if s := a.Keeper.Status(); len(s.Held) > 0 || a.DB.Torn() {
		t.Fatalf("held %v, torn %v", s.Held, a.DB.Torn())
	}
	if _, err := os.Stat(filepath.Join(a.Dir, "state.bad-1")); err != nil {
		t.Fatalf("the evidence is gone: %v", err)
	}
	a.Stop()
	a.Start()
	if rep, err := a.DB.Scrub(t.Context()); err != nil || rep.Held != nil || rep.Checksum != nil || len(a.Replica.State().Objects) != 13 {
		t.Fatalf("after a restart: %+v, %v", rep, err)
	}
}

// TestOffline: the commands on a stopped agent's directory.
func TestOffline(t *testing.T) {
	n := sitetest.NewNet(t, "a1", "a2")
	life(t, n)
	a := n.Agent("a1")
	log := slog.New(slog.DiscardHandler)
	if err := os.MkdirAll(filepath.Join(a.Dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.Dir, upkeep.KeyFile), make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := upkeep.OpenDirectory(a.Dir, log); !errors.Is(err, upkeep.ErrRunning) {
		t.Fatalf("under a running agent: %v", err)
	}
	if _, err := upkeep.FreeBallast(a.Dir); !errors.Is(err, upkeep.ErrRunning) {
		t.Fatalf("under a running agent: %v", err)
	}
	if _, err := upkeep.OpenDirectory(t.TempDir(), log); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("of nobody: %v", err)
	}
	a.Stop()
	with := func(fn func(*upkeep.Directory)) {
		t.Helper()
		d, err := upkeep.OpenDirectory(a.Dir, log)
		if err != nil {
			t.Fatal(err)
		}
		fn(d)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var backup bytes.Buffer
	with(func(d *upkeep.Directory) {
		if r, err := d.Scrub(t.Context()); err != nil || !r.Sound || r.Marks != "sound" || r.Buckets["intent"].Records != 16 {
			t.Errorf("scrub: %+v, %v", r, err)
		}
		if _, err := d.Backup(t.Context(), &backup); err != nil {
			t.Error(err)
		}
		if r, err := d.Restore(t.Context(), bytes.NewReader(backup.Bytes()), false); err != nil || !r.Same {
			t.Errorf("restore of the same: %+v, %v", r, err)
		}
	})
	a.Start()
	n.Publish(n.Author.Put(sitetest.MachineTypeDoc("late", 1)))
	settle(t, n)
	a.Stop()
	with(func(d *upkeep.Directory) {
		if _, err := d.Restore(t.Context(), bytes.NewReader(backup.Bytes()), false); !errors.Is(err, upkeep.ErrOccupied) {
			t.Errorf("restored over other records: %v", err)
		}
	})
	if err := os.RemoveAll(filepath.Join(a.Dir, "state")); err != nil {
		t.Fatal(err)
	}
	with(func(d *upkeep.Directory) {
		for _, dry := range []bool{true, false} {
			if r, err := d.Restore(t.Context(), bytes.NewReader(backup.Bytes()), dry); err != nil || r.Same || r.Buckets["intent"].Count != 16 {
				t.Errorf("restore, dry %v: %+v, %v", dry, r, err)
			}
		}
		r, err := d.Recover(true)
		if err != nil || !r.Behind || r.Lost[intent.StreamIntent].Seq != 17 || len(r.Peers) != 2 {
			t.Errorf("recover, dry: %+v, %v", r, err)
		}
		if r, err := d.Scrub(t.Context()); err != nil || !r.Recovering {
			t.Errorf("a dry run recovered: %+v, %v", r, err)
		}
		if _, err := d.Recover(false); err != nil {
			t.Error(err)
		}
	})
	a.Start()
	if a.DB.Recovering() || !a.Replica.Level() {
		t.Errorf("recovering %v, level %v after the operator's word", a.DB.Recovering(), a.Replica.Level())
	}
}
