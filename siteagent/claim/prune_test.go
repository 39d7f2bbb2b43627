package claim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// worth is what pruning must keep of a journal: the view, the events, and the audit records of each agent.
type worth struct {
	View   map[string]string
	Events []string
	Audit  []string
}

func worthOf(t testing.TB, j *Journal) (w worth) {
	t.Helper()
	w.View = map[string]string{}
	j.mu.Lock()
	for k, r := range j.view {
		w.View[k.kind+"/"+k.key] = fmt.Sprintf("%s/%d %s", r.Agent, r.Seq, r.Body)
	}
	j.mu.Unlock()
	if err := j.Events(nil, func(e intent.Event) error {
		w.Events = append(w.Events, fmt.Sprintf("%s/%d %s", e.Agent, e.Seq, e.Type))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, agent := range []string{"a", "b", "c"} {
		for _, r := range chain(t, j, agent) {
			if r.Kind == KindAudit {
				w.Audit = append(w.Audit, fmt.Sprintf("%s/%d %s", r.Agent, r.Seq, r.Body))
			}
		}
	}
	return w
}

// churn writes records of few keys, and events and audit records among them.
func churn(t testing.TB, rnd *rand.Rand, j *Journal, n int) {
	t.Helper()
	for range n {
		d := Draft{Kind: "lease", Key: fmt.Sprint(rnd.IntN(5)), Body: rnd.Uint64()}
		switch rnd.IntN(12) {
		case 0:
			d = Draft{Kind: KindEvent, Body: intent.Event{Type: fmt.Sprint(rnd.Uint64())}}
		case 1:
			d = Draft{Kind: KindAudit, Link: func(json.RawMessage) (json.RawMessage, error) { return json.Marshal(rnd.Uint64()) }}
		}
		if err := j.Append(t.Context(), Local, d); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPrune: what newer records replaced goes, everything else stays, also over a restart; a chain stays dense for as long as was said.
func TestPrune(t *testing.T) {
	n := newNet(t, "a")
	a := n.journals["a"]
	rnd := rand.New(rand.NewPCG(1, 1))
	churn(t, rnd, a, 450)
	if err := a.Prune(t.Context(), 400); err != nil {
		t.Fatal(err)
	}
	if got := len(chain(t, a, "a")); got != 450 {
		t.Fatalf("%d records after pruning what is not long enough", got)
	}
	churn(t, rnd, a, 550)
	want := worthOf(t, a)
	f := func(what string, j *Journal) {
		t.Helper()
		got := worthOf(t, j)
		delete(got.View, "base/a")
		delete(want.View, "base/a")
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s:\n%s", what, d)
		}
	}
	if err := a.Prune(t.Context(), 400); err != nil {
		t.Fatal(err)
	}
	f("pruned", a)
	rs := chain(t, a, "a")
	dense := rs[len(rs)-401:] // the base is a record too
	kept := len(rs) - len(dense)
	if dense[0].Seq != 601 || dense[400].Seq != 1001 || kept < 50 || kept > 150 {
		t.Fatalf("%d records below the base, then from %d to %d", kept, dense[0].Seq, dense[400].Seq)
	}
	again := openJournal(t, a.db, "a")
	f("opened again", again)
	if d := cmp.Diff(rs, chain(t, again, "a"), sameRecord()); d != "" {
		t.Fatal(d)
	}
	churn(t, rnd, again, 1000)
	want = worthOf(t, again)
	if err := again.Prune(t.Context(), 400); err != nil {
		t.Fatal(err)
	}
	f("pruned again", again)
	if got := len(chain(t, again, "a")); got > 401+350 {
		t.Fatalf("%d records", got)
	}
}

// TestPrunedChainsReachAll: agents write, prune, are away and come back, one with an empty store; all end with the same view, events and
// audit records. A few seeds, printed.
func TestPrunedChainsReachAll(t *testing.T) {
	for range 8 {
		seed := rand.Uint64()
		n := newNet(t, "a", "b", "c")
		rnd := rand.New(rand.NewPCG(seed, 2))
		all := map[string][]string{"a": {"b", "c"}, "b": {"a", "c"}, "c": {"a", "b"}}
		for range 12 {
			name := []string{"a", "b"}[rnd.IntN(2)]
			n.live = map[string][]string{"a": {"b"}, "b": {"a"}}
			if rnd.IntN(3) == 0 {
				n.live = map[string][]string{}
			} else if rnd.IntN(4) == 0 {
				n.live = all
			}
			j := n.journals[name]
			churn(t, rnd, j, rnd.IntN(150))
			if err := errors.Join(j.replicate(t.Context(), netPeer{n, name}), j.Catch(t.Context()), j.Prune(t.Context(), 40)); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		n.live = all
		for range 2 {
			for _, name := range []string{"a", "b", "c"} {
				j := n.journals[name]
				if err := errors.Join(j.replicate(t.Context(), netPeer{n, name}), j.Catch(t.Context())); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		}
		want := worthOf(t, n.journals["a"])
		for _, name := range []string{"b", "c"} {
			if d := cmp.Diff(want, worthOf(t, n.journals[name])); d != "" {
				t.Fatalf("seed %d: %s is not level with a:\n%s", seed, name, d)
			}
		}
	}
}

// TestGaps: records over a gap are taken below the base alone, and of an agent's own chain only by a store that has none of it.
func TestGaps(t *testing.T) {
	n := newNet(t, "a", "b")
	a := n.journals["a"]
	churn(t, rand.New(rand.NewPCG(1, 3)), a, 300)
	if err := a.Prune(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	whole := chain(t, a, "a") // base 200, and one more record that says so
	i := slices.IndexFunc(whole, func(r Record) bool { return r.Seq == 201 })
	f := func(name string, head int, p Page, last uint64, refused bool) {
		t.Helper()
		db := openStore(t, filepath.Join(quickDir(t), "state"))
		t.Cleanup(func() { _ = db.Close() })
		j := openJournal(t, db, "b")
		if got, err := j.Receive("a", Page{200, whole[:head]}); err != nil || head > 0 && got != whole[head-1].Seq {
			t.Fatalf("%s begins at %d, %v", name, got, err)
		}
		got, err := j.Receive("a", p)
		if got != last || errors.Is(err, ErrChain) != refused {
			t.Fatalf("%s: last %d, %v; want %d, refused %v", name, got, err, last, refused)
		}
	}
	f("all", 0, Page{200, whole}, 301, false)
	f("from the middle", 5, Page{200, whole[5:]}, 301, false)
	f("no base said", 0, Page{0, whole}, last(whole, 0), true)
	f("a base that is too low", 0, Page{100, whole}, last(whole, 101), true)
	far := whole[len(whole)-1]
	far.Seq = 1<<64 - 1
	f("a number that no agent reaches", 0, Page{1<<64 - 2, append(slices.Clone(whole[:i]), far)}, whole[i-1].Seq, true)
	f("a gap above the base", 0, Page{200, append(slices.Clone(whole[:i+5]), whole[i+6:]...)}, whole[i+4].Seq, true)
	f("a gap over the base", 0, Page{200, append(slices.Clone(whole[:i]), whole[i+1:]...)}, whole[i-1].Seq, true)

	if _, err := n.journals["b"].Receive("a", Page{200, whole}); err != nil {
		t.Fatal(err)
	}
	b := n.journals["b"]
	if err := b.Append(t.Context(), Local, Draft{Kind: kindBase, Key: "b", Body: uint64(1) << 60}, Draft{Kind: kindBase, Key: "a", Body: 250}); err != nil {
		t.Fatal(err)
	}
	if p, err := b.Range("b", 1, 9); err != nil || p.Base != 0 || len(p.Records) != 2 {
		t.Fatalf("a base beyond the end counts: %+v, %v", p, err)
	}
}

// last returns the last number that comes without a gap or below the base, and one over it.
func last(rs []Record, over uint64) (seq uint64) {
	for _, r := range rs {
		if r.Seq > over && r.Seq != seq+1 {
			return seq
		}
		seq = r.Seq
	}
	return seq
}

// endless is a peer whose every answer ends with the highest number that there is.
type endless struct {
	Peers
	asked int
}

func (e *endless) Pull(_ context.Context, _, agent string, _ uint64) (Page, error) {
	if e.asked++; e.asked > 10 {
		return Page{}, errors.New("asked for ever")
	}
	return Page{Records: []Record{{Agent: agent, Seq: 1<<64 - 1, Kind: "lease"}}}, nil
}

// TestRepairEnds: a peer that gives nonsense ends a repair's questions to it.
func TestRepairEnds(t *testing.T) {
	e := &endless{}
	rep := &repairer{peers: e, found: map[recordID]Record{}}
	if err := rep.take(t.Context(), "x", "b", 1, 100); err != nil || e.asked != 1 || len(rep.found) != 0 {
		t.Fatalf("asked %d times, found %d, %v", e.asked, len(rep.found), err)
	}
}

// TestReclaimPruned: an agent whose store is gone, or older than what its peer pruned, takes its chain back; where the peer no longer has
// the record that an old store ends with nobody can tell it from a fork, and it stays as it is.
func TestReclaimPruned(t *testing.T) {
	n := newNet(t, "a", "b")
	churn(t, rand.New(rand.NewPCG(1, 5)), n.journals["a"], 900)
	old := chain(t, n.journals["a"], "a")
	if err := errors.Join(n.journals["a"].Prune(t.Context(), 100), n.journals["a"].replicate(t.Context(), netPeer{n, "a"}), n.journals["b"].Prune(t.Context(), 100)); err != nil {
		t.Fatal(err)
	}
	want := worthOf(t, n.journals["b"])
	at := map[uint64]bool{}
	for _, r := range chain(t, n.journals["b"], "a") {
		at[r.Seq] = true
	}
	f := func(name string, head uint64, refused bool) {
		t.Helper()
		db := openStore(t, filepath.Join(quickDir(t), "state"))
		t.Cleanup(func() { _ = db.Close() })
		j := openJournal(t, db, "a")
		j.mu.Lock()
		_, err := j.take("a", Page{Records: old[:head]})
		j.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		err = j.replicate(t.Context(), netPeer{n, "a"})
		if errors.Is(err, ErrChain) != refused || !j.db.Recovering() {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, worthOf(t, j)); d != "" && !refused {
			t.Fatalf("%s:\n%s", name, d)
		}
		if refused && j.Heads()["a"] != head {
			t.Fatalf("%s: went on to %d", name, j.Heads()["a"])
		}
	}
	kept, gone := uint64(300), uint64(300)
	for ; !at[kept]; kept++ {
	}
	for ; at[gone] || at[gone+1]; gone++ {
	}
	f("nothing", 0, false)
	f("a copy that ends with what the peer has", kept, false)
	f("a copy that ends with what the peer pruned", gone, true)
	f("a copy that ends above the base", 850, false)
}

// TestDamageBelowTheBase: a record that cannot be read below the base is no gap: who asks for it is refused. The other events are shown.
func TestDamageBelowTheBase(t *testing.T) {
	dir := filepath.Join(quickDir(t), "state")
	db := openStore(t, dir)
	j := openJournal(t, db, "a")
	churn(t, rand.New(rand.NewPCG(1, 4)), j, 300)
	if err := j.Prune(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	lost := slices.IndexFunc(chain(t, j, "a"), func(r Record) bool { return r.Kind == KindEvent })
	seq, events := chain(t, j, "a")[lost].Seq, len(worthOf(t, j).Events)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	foreign, err := state.Open(state.Config{Dir: dir, Key: bytes.Repeat([]byte{9}, 32), Logger: slog.New(slog.DiscardHandler), UserFraction: -1, UserFree: 1, VitalFree: 1, StopFree: 1})
	if err == nil {
		err = errors.Join(foreign.Update(func(tx *state.Tx) error { return tx.Put(bucketJournal, journalKey("a", seq), []byte("rotten")) }), foreign.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	db = openStore(t, dir)
	defer db.Close()
	j = openJournal(t, db, "a")
	if _, err := j.Range("a", 1, MaxPull); !errors.Is(err, state.ErrDamaged) {
		t.Fatalf("a lost record below the base looks like one that was pruned: %v", err)
	}
	seen := 0
	if err := j.Events(nil, func(intent.Event) error { seen++; return nil }); err != nil || seen != events-1 {
		t.Fatalf("%d of %d events can be read, %v", seen, events, err)
	}
	if p, err := j.Range("a", 201, MaxPull); err != nil || len(p.Records) != 101 {
		t.Fatalf("%d records above the base, %v", len(p.Records), err)
	}
}
