package claim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// journalNet joins journals in memory. What a peer is sent goes through JSON, as on the wire.
type journalNet struct {
	journals map[string]*Journal
	live     map[string][]string // who sees whom
	deaf     map[string]bool     // does not answer pushes
}

type netPeer struct {
	net  *journalNet
	self string
}

func (p netPeer) Live() []string { return p.net.live[p.self] }

func (p netPeer) Push(_ context.Context, peer string, page Page) (uint64, error) {
	if p.net.deaf[peer] {
		return 0, errors.New("no answer")
	}
	b, err := json.Marshal(page)
	if err != nil {
		return 0, err
	}
	var sent Page
	if err := json.Unmarshal(b, &sent); err != nil {
		return 0, err
	}
	last, err := p.net.journals[peer].Receive(p.self, sent)
	if errors.Is(err, ErrChain) {
		return last, nil // as the agent's handler does
	}
	return last, err
}

func (p netPeer) Heads(_ context.Context, peer string) (map[string]uint64, error) {
	return p.net.journals[peer].Heads(), nil
}

func (p netPeer) Pull(_ context.Context, peer, agent string, from uint64) (Page, error) {
	return p.net.journals[peer].Range(agent, from, MaxPull)
}

func newNet(t testing.TB, names ...string) *journalNet {
	n := &journalNet{journals: map[string]*Journal{}, live: map[string][]string{}, deaf: map[string]bool{}}
	for _, name := range names {
		db := openStore(t, filepath.Join(quickDir(t), "state"))
		t.Cleanup(func() { _ = db.Close() })
		n.journals[name] = openJournal(t, db, name)
		for _, o := range names {
			if o != name {
				n.live[name] = append(n.live[name], o)
			}
		}
	}
	for _, name := range names {
		n.journals[name].SetPeers(netPeer{n, name})
	}
	return n
}

// journal returns the journal of one, with records of its own that others with another number of them do not link to.
func (n *journalNet) journal(name string, records int) *Journal {
	for range records {
		if err := n.journals[name].Append(context.Background(), Local, Draft{Kind: "note", Key: "x", Body: records}); err != nil {
			panic(err)
		}
	}
	return n.journals[name]
}

func openJournal(t testing.TB, db *state.DB, name string) *Journal {
	t.Helper()
	j, err := OpenJournal(db, "lon1", name, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func put(t testing.TB, j *Journal, c Copies, kind, key string, body any) {
	t.Helper()
	if err := j.Append(t.Context(), c, Draft{Kind: kind, Key: key, Body: body}); err != nil {
		t.Fatal(err)
	}
}

func chain(t testing.TB, j *Journal, agent string) []Record {
	t.Helper()
	var out []Record
	for {
		from := uint64(1)
		if len(out) > 0 {
			from = out[len(out)-1].Seq + 1
		}
		p, err := j.Range(agent, from, MaxPull)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Records) == 0 {
			return out
		}
		out = append(out, p.Records...)
	}
}

func TestJournalChain(t *testing.T) {
	n := newNet(t, "a", "b")
	a, b := n.journals["a"], n.journals["b"]
	for i := range 5 {
		put(t, a, Local, "machine", "m1", map[string]any{"n": i, "text": "<&>\u2028 é"})
	}
	own := chain(t, a, "a")
	f := func(name string, send []Record, last uint64, refused bool) {
		t.Helper()
		got, err := b.Receive("a", Page{Records: send})
		if got != last || errors.Is(err, ErrChain) != refused {
			t.Fatalf("%s: last %d, %v; want %d, refused %v", name, got, err, last, refused)
		}
	}
	bad := func(i int, change func(*Record)) []Record {
		r := own[i]
		change(&r)
		return []Record{r}
	}
	f("a gap", own[1:], 0, true)
	f("the first two", own[:2], 2, false)
	f("replayed", own[:2], 2, false)
	f("replayed and more", own[:3], 3, false)
	f("a gap after three", own[4:], 3, true)
	f("another agent's name", bad(3, func(r *Record) { r.Agent = "c" }), 3, true)
	f("another past", bad(3, func(r *Record) { r.Prev[0]++ }), 3, true)
	f("no kind", bad(3, func(r *Record) { r.Kind = "" }), 3, true)
	f("a kind that looks like a key", bad(3, func(r *Record) { r.Kind = "machine/m2" }), 3, true)
	f("a clock at the end of time", bad(3, func(r *Record) { r.Clock = 1 << 63 }), 3, true)
	f("a huge body", bad(3, func(r *Record) { r.Body = json.RawMessage(fmt.Sprintf("%q", bytes.Repeat([]byte("x"), maxBody))) }), 3, true)
	f("no JSON", bad(3, func(r *Record) { r.Body = json.RawMessage("{") }), 3, true)
	f("a changed body breaks the next one", append(bad(3, func(r *Record) { r.Body = json.RawMessage(`{"n":9}`) }), own[4]), 4, true)
	if last, err := b.Receive("b", Page{Records: own}); err != nil || last != 0 {
		t.Fatalf("own chain from outside: %d, %v", last, err)
	}
}

// TestJournalView: whatever the order in which chains arrive, every agent ends with the same view.
func TestJournalView(t *testing.T) {
	n := newNet(t, "a", "b", "c")
	rapid.Check(t, func(rt *rapid.T) {
		round := fmt.Sprintf("r%d/", n.journals["a"].rev)
		for i := range rapid.IntRange(1, 12).Draw(rt, "records") {
			who := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "agent")
			e := intent.Epoch{Generation: 1, N: uint64(rapid.IntRange(0, 3).Draw(rt, "epoch"))}
			key := round + rapid.SampledFrom([]string{"k1", "k2"}).Draw(rt, "key")
			if err := n.journals[who].Append(rt.Context(), Local, Draft{Kind: "machine", Key: key, Epoch: e, Body: i}); err != nil {
				rt.Fatal(err)
			}
		}
		for _, to := range rapid.Permutation([]string{"a", "b", "c"}).Draw(rt, "to") {
			for _, from := range rapid.Permutation([]string{"a", "b", "c"}).Draw(rt, "from") {
				for to != from {
					rs, err := n.journals[from].Range(from, n.journals[to].Heads()[from]+1, 1+rapid.IntRange(0, 5).Draw(rt, "batch"))
					if err != nil {
						rt.Fatal(err)
					}
					if len(rs.Records) == 0 {
						break
					}
					if _, err := n.journals[to].Receive(from, rs); err != nil {
						rt.Fatal(err)
					}
				}
			}
		}
		want := n.journals["a"].View("machine")
		for _, o := range []string{"b", "c"} {
			if d := cmp.Diff(want, n.journals[o].View("machine"), sameRecord()); d != "" {
				rt.Fatalf("%s sees another world than a:\n%s", o, d)
			}
		}
	})
}

func sameRecord() cmp.Option {
	return cmp.Comparer(func(x, y Record) bool {
		hx, err1 := hashRecord(x)
		hy, err2 := hashRecord(y)
		return err1 == nil && err2 == nil && hx == hy
	})
}

func TestJournalReplicated(t *testing.T) {
	n := newNet(t, "a", "b", "c")
	a := n.journals["a"]
	put(t, a, Replicated, "machine", "m1", 1)
	for _, o := range []string{"b", "c"} {
		if got := n.journals[o].Heads()["a"]; got != 1 {
			t.Fatalf("%s has %d", o, got)
		}
	}
	n.deaf["b"] = true
	err := a.Append(t.Context(), Replicated, Draft{Kind: "machine", Key: "m1", Body: 2})
	if !errors.Is(err, ErrWaitingPeer) {
		t.Fatalf("a live peer has no copy, and Append says %v", err)
	}
	if v, _ := Load[int](a, "machine", "m1"); v != 2 {
		t.Fatal("it is not written here either")
	}
	n.live["a"] = []string{"c"} // gossip doubts b
	put(t, a, Replicated, "machine", "m1", 3)
	n.live["a"], n.deaf["b"] = []string{"b", "c"}, false
	put(t, a, Replicated, "machine", "m1", 4)
	if got := n.journals["b"].Heads()["a"]; got != 4 {
		t.Fatalf("b is back and has %d of 4", got)
	}
}

// TestJournalLostTail: an agent whose store lost records takes them back from a peer, unless it wrote others since.
func TestJournalLostTail(t *testing.T) {
	n := newNet(t, "a", "b")
	a, b := n.journals["a"], n.journals["b"]
	for i := range 300 {
		put(t, a, Local, "machine", "m1", i)
	}
	put(t, a, Replicated, "machine", "m1", 300)
	own := chain(t, a, "a")
	restore := func(keep int) *Journal {
		db := openStore(t, filepath.Join(quickDir(t), "state"))
		t.Cleanup(func() { _ = db.Close() })
		old := openJournal(t, db, "a")
		old.mu.Lock()
		_, err := old.take("a", Page{Records: own[:keep]})
		old.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		old.SetPeers(netPeer{n, "a"})
		return old
	}
	old := restore(3)
	if old.Level() {
		t.Fatal("level though its peer has more of its chain")
	}
	if err := old.replicate(t.Context(), netPeer{n, "a"}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(chain(t, a, "a"), chain(t, old, "a"), sameRecord()); d != "" {
		t.Fatalf("not what was lost:\n%s", d)
	}
	if !old.Level() {
		t.Fatal("not level after taking back what was lost")
	}
	if err := old.Append(t.Context(), Local, Draft{Kind: "machine", Key: "m1", Body: 301}); !errors.Is(err, ErrBehind) {
		t.Fatalf("a store that was behind writes before its recovery ended: %v", err)
	}
	if err := old.db.Recovered(); err != nil {
		t.Fatal(err)
	}
	put(t, old, Replicated, "machine", "m1", 301)
	if v, _ := Load[int](b, "machine", "m1"); v != 301 {
		t.Fatalf("b sees %d", v)
	}

	asked := restore(3) // and asks before its first word
	if err := asked.Append(t.Context(), Local, Draft{Kind: "machine", Key: "m1", Body: "forked"}); !errors.Is(err, ErrBehind) {
		t.Fatalf("a restored copy wrote over what its peer holds: %v", err)
	}

	forked, live := restore(3), n.live["a"]
	n.live["a"] = nil // it wrote before gossip had heard of its peer
	put(t, forked, Local, "machine", "m1", "forked")
	n.live["a"] = live
	err := forked.Append(t.Context(), Replicated, Draft{Kind: "machine", Key: "m1", Body: "forked"})
	if !errors.Is(err, ErrBehind) {
		t.Fatalf("a forked chain counts as copied: %v", err)
	}
	if err := forked.replicate(t.Context(), netPeer{n, "a"}); !errors.Is(err, ErrWaitingPeer) || !errors.Is(err, ErrChain) {
		t.Fatalf("a forked chain counts as copied: %v", err)
	}
}

// TestJournalReopen: thousands of records, read back from disk as they were.
func TestJournalReopen(t *testing.T) {
	dir := filepath.Join(quickDir(t), "state")
	db := openStore(t, dir)
	j := openJournal(t, db, "a")
	const total = 5000
	for i := range total / 50 {
		var ds []Draft
		for k := range 50 {
			ds = append(ds, Draft{Kind: "machine", Key: fmt.Sprintf("m%d", k), Epoch: intent.Epoch{Generation: 1, N: uint64(i)}, Body: i})
		}
		ds[7] = Draft{Kind: KindEvent, Body: intent.Event{Type: "machine.seen", Machine: "m7"}}
		if err := j.Append(t.Context(), Local, ds...); err != nil {
			t.Fatal(err)
		}
	}
	want := chain(t, j, "a")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openStore(t, dir)
	defer db.Close()
	again := openJournal(t, db, "a")
	if d := cmp.Diff(want, chain(t, again, "a"), sameRecord()); d != "" || len(want) != total {
		t.Fatalf("%d records, then:\n%s", len(want), d)
	}
	if d := cmp.Diff(j.View("machine"), again.View("machine"), sameRecord()); d != "" {
		t.Fatal(d)
	}
	put(t, again, Local, "machine", "m1", "after")
	if got := chain(t, again, "a"); len(got) != total+1 || got[total].Prev != mustHash(t, got[total-1]) {
		t.Fatal("the chain does not go on from where it was")
	}
	seen := 0
	if err := again.Events(nil, func(intent.Event) error { seen++; return nil }); err != nil || seen != total/50 {
		t.Fatalf("%d events, %v", seen, err)
	}
}

// TestEventsInOrder: the events of two chains come by their clocks, over more than a page of each, from where one left off, and no
// further than they are wanted.
func TestEventsInOrder(t *testing.T) {
	n := newNet(t, "a", "b")
	var want []string
	for i := range 3 * MaxPull {
		name := []string{"a", "b"}[i/(MaxPull+7)%2] // long runs of one: the other's page waits
		put(t, n.journals[name], Local, "other", "", nil)
		put(t, n.journals[name], Local, KindEvent, "", intent.Event{Type: fmt.Sprint(i)})
		want = append(want, fmt.Sprint(i))
		other := map[string]string{"a": "b", "b": "a"}[name]
		rs, err := n.journals[name].Range(name, n.journals[other].Heads()[name]+1, MaxPull)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.journals[other].Receive(name, rs); err != nil { // its clock goes on from there
			t.Fatal(err)
		}
	}
	var got []string
	ends := map[string]uint64{}
	stop := errors.New("enough")
	err := n.journals["a"].Events(nil, func(e intent.Event) error {
		if len(got) == MaxPull+20 {
			return stop
		}
		got, ends[e.Agent] = append(got, e.Type), e.Seq
		return nil
	})
	if !errors.Is(err, stop) || len(got) != MaxPull+20 {
		t.Fatalf("%d events, %v", len(got), err)
	}
	if err := n.journals["a"].Events(ends, func(e intent.Event) error { got = append(got, e.Type); return nil }); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}

func mustHash(t testing.TB, r Record) intent.Digest {
	t.Helper()
	h, err := hashRecord(r)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestJournalRun: what no push reached is pulled, and Run ends with its context.
func TestJournalRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, "a", "b")
		for i := range 3 * MaxPull {
			put(t, n.journals["a"], Local, "machine", "m1", i)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.journals["b"].Run(ctx) }()
		time.Sleep(2*pullEvery + time.Millisecond)
		synctest.Wait()
		if got := n.journals["b"].Heads()["a"]; got != 3*MaxPull {
			t.Errorf("b pulled %d", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestJournalOfWhoIsGone: a box that takes another's place learns all that its peers know of the one that is gone, and who was away learns
// from a peer what somebody said who went meanwhile.
func TestJournalOfWhoIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, "a", "b", "s")
		n.live = map[string][]string{"a": {"b"}, "b": {"a"}}
		for i := range MaxPull + 5 {
			put(t, n.journals["b"], Replicated, "binding", fmt.Sprint(i), "decided by b")
		}
		n.live = map[string][]string{"a": {"s"}, "s": {"a"}} // b burnt
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.journals["s"].Run(ctx) }()
		// What the box has of an agent before b is of another life of it, and links to nothing.
		if _, err := n.journals["s"].Receive("a0", Page{Records: chain(t, newNet(t, "a0x", "a0").journal("a0", 1), "a0")}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.journals["a"].Receive("a0", Page{Records: chain(t, newNet(t, "a0x", "a0").journal("a0", 2), "a0")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*pullEvery + time.Millisecond)
		synctest.Wait()
		if got := len(n.journals["s"].View("binding")); got != MaxPull+5 {
			t.Errorf("the box in its place knows %d of its decisions", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// FuzzReceive: records from a peer never panic, never leave a chain that does not link, and never lose what was there.
func FuzzReceive(f *testing.F) {
	n := newNet(f, "a", "b")
	for i := range 3 {
		put(f, n.journals["a"], Local, "machine", "m1", i)
	}
	own := chain(f, n.journals["a"], "a")
	for _, rs := range [][]Record{own, own[:1], own[1:], {own[0], own[2]}, nil} {
		b, err := json.Marshal(rs)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`[{"agent":"a","seq":1,"clock":18446744073709551615,"kind":"machine","key":"m1","body":null}]`))
	f.Add([]byte(`[{"agent":"a","seq":1,"kind":"machine","time":"9999-12-31T23:59:59-23:59"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var rs []Record
		if json.Unmarshal(b, &rs) != nil {
			return
		}
		db := openStore(t, filepath.Join(quickDir(t), "state"))
		defer db.Close()
		j := openJournal(t, db, "b")
		put(t, j, Local, "machine", "kept", 1)
		last, _ := j.Receive("a", Page{Records: rs})
		got := chain(t, j, "a")
		if uint64(len(got)) != last {
			t.Fatalf("says %d, has %d", last, len(got))
		}
		prev := intent.Digest{}
		for i, r := range got {
			if r.Prev != prev || r.Seq != uint64(i)+1 || r.Agent != "a" {
				t.Fatalf("record %d does not link", i)
			}
			prev = mustHash(t, r)
		}
		put(t, j, Local, "machine", "kept", 2)
		if v, ok := Load[int](j, "machine", "kept"); !ok || v != 2 {
			t.Fatalf("own record reads %d after the peer's", v)
		}
		again := openJournal(t, db, "b")
		if d := cmp.Diff(j.View("machine"), again.View("machine"), sameRecord()); d != "" {
			t.Fatal(d)
		}
	})
}
