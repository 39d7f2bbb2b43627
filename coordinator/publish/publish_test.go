package publish

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/tally"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/storage/state"
)

func obj(k intent.Kind, project, site, name string, spec intent.Spec) *intent.Object {
	return &intent.Object{APIVersion: intent.APIVersion, Kind: k, Metadata: intent.Metadata{Name: name, Project: project, Site: site, UID: "u-" + site + "-" + project + "-" + name, Rev: 1}, Spec: spec}
}

func TestCompile(t *testing.T) {
	site := func(n string) *intent.Object {
		return obj(intent.KindSite, "", "", n, &intent.SiteSpec{Region: "eu", Zone: "z"})
	}
	user := func(n string, b ...intent.RoleBinding) *intent.Object {
		return obj(intent.KindUser, "", "", n, &intent.UserSpec{Bindings: b})
	}
	lon1 := site("lon1")
	lon1.Spec.(*intent.SiteSpec).Peers = []string{"ams1"}
	c := intent.NewCatalog(
		lon1, site("par1"), site("ams1"),
		obj(intent.KindAgent, "", "lon1", "a1", &intent.AgentSpec{}), obj(intent.KindAgent, "", "par1", "a1", &intent.AgentSpec{}),
		obj(intent.KindAgent, "", "ams1", "a1", &intent.AgentSpec{}), obj(intent.KindAgent, "", "ams1", "s1", &intent.AgentSpec{Spare: true}),
		obj(intent.KindProject, "", "", "both", &intent.ProjectSpec{Sites: []string{"lon1", "par1"}}),
		obj(intent.KindProject, "", "", "paris", &intent.ProjectSpec{Sites: []string{"par1"}}),
		obj(intent.KindMachineType, "", "", "small", &intent.MachineTypeSpec{}),
		obj(intent.KindMachine, "", "lon1", "m1", &intent.MachineSpec{}),
		obj(intent.KindMachine, "", "par1", "m1", &intent.MachineSpec{}),
		obj(intent.KindSecret, "", "lon1", "bmc", &intent.SecretSpec{Type: "bmc", Ver: 3, Data: map[string]string{"password": "hunter2"}}),
		obj(intent.KindSSHKey, "both", "", "k", &intent.SSHKeySpec{}),
		obj(intent.KindSSHKey, "paris", "", "k", &intent.SSHKeySpec{}),
		obj(intent.KindNetwork, "both", "lon1", "n", &intent.NetworkSpec{}),
		obj(intent.KindNetwork, "both", "par1", "p", &intent.NetworkSpec{}),
		user("everywhere", intent.RoleBinding{Role: "operator"}),
		user("londoner", intent.RoleBinding{Role: "operator", Site: "lon1"}),
		user("parisian", intent.RoleBinding{Role: "operator", Site: "par1"}),
		user("member", intent.RoleBinding{Role: "member", Project: "both"}),
		user("foreigner", intent.RoleBinding{Role: "member", Project: "paris"}),
		user("stranger"), user("grouped"), user("elsewhere"),
		obj(intent.KindGroup, "", "", "ops", &intent.GroupSpec{Members: []string{"grouped"}, Bindings: []intent.RoleBinding{{Role: "operator", Site: "lon1"}}}),
		obj(intent.KindGroup, "", "", "paris-ops", &intent.GroupSpec{Members: []string{"elsewhere"}, Bindings: []intent.RoleBinding{{Role: "operator", Site: "par1"}}}),
	)
	var got []string
	for _, o := range Compile(c, "lon1") {
		got = append(got, o.Key().String())
		if s, ok := o.Spec.(*intent.SecretSpec); ok && (len(s.Data) > 0 || s.Ver != 3) {
			t.Errorf("the chain would carry %+v", s)
		}
	}
	want := []string{
		"Site lon1", "Agent ams1/a1", "Agent lon1/a1", "MachineType small", "Secret lon1/bmc", "Machine lon1/m1", "Project both", "User everywhere", "User grouped", "User londoner", "User member",
		"Group ops",
		"SSHKey both/k", "Network both/n",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if c.Get(intent.Key{Kind: intent.KindSecret, Scope: "lon1", Name: "bmc"}).Spec.(*intent.SecretSpec).Data == nil {
		t.Error("Compile changed the catalog")
	}
}

func TestDiff(t *testing.T) {
	o := func(n string, rev uint64) *intent.Object {
		x := obj(intent.KindSSHKey, "p", "", n, &intent.SSHKeySpec{PublicKey: "ssh-ed25519 A"})
		x.Metadata.UID, x.Metadata.Rev, x.Status = n, rev, json.RawMessage(`{"seen":1}`)
		return x
	}
	f := func(want []*intent.Object, was map[string]uint64, tombs, puts string) {
		t.Helper()
		p := map[string]Published{}
		for uid, rev := range was {
			p[uid] = Published{Key: intent.Key{Kind: intent.KindSSHKey, Scope: "p", Name: uid}, Rev: rev}
		}
		gotTombs, gotPuts, err := Diff(want, p)
		if err != nil {
			t.Fatal(err)
		}
		var ts, ps []string
		for _, b := range gotTombs {
			for _, x := range b.Objects {
				ts = append(ts, fmt.Sprintf("%s@%d", x.UID, x.Rev))
			}
		}
		for _, b := range gotPuts {
			for _, x := range b.Objects {
				ps = append(ps, fmt.Sprintf("%s@%d", x.UID, x.Rev))
				if bytes.Contains(x.Doc, []byte("seen")) {
					t.Errorf("a status is published: %s", x.Doc)
				}
			}
		}
		if strings.Join(ts, " ") != tombs || strings.Join(ps, " ") != puts {
			t.Errorf("tombs %q, puts %q; want %q, %q", ts, ps, tombs, puts)
		}
	}
	f(nil, nil, "", "")
	f([]*intent.Object{o("a", 1)}, nil, "", "a@1")
	f([]*intent.Object{o("a", 1)}, map[string]uint64{"a": 1}, "", "")
	f([]*intent.Object{o("a", 2), o("b", 1)}, map[string]uint64{"a": 1, "b": 1}, "", "a@2")
	f(nil, map[string]uint64{"b": 7, "a": 1}, "a@2 b@8", "")
	f([]*intent.Object{o("c", 1)}, map[string]uint64{"a": 1}, "a@2", "c@1")
}

// An entry stays within its bounds, however much there is to say.
func TestDiffSplits(t *testing.T) {
	var want []*intent.Object
	was := map[string]Published{}
	for i := range intent.MaxObjects + 1 {
		o := obj(intent.KindInstanceArray, "p", "lon1", fmt.Sprintf("a%d", i), &intent.InstanceArraySpec{UserData: strings.Repeat("x", 60<<10)})
		want = append(want, o)
		was[fmt.Sprintf("gone-%d", i)] = Published{}
	}
	tombs, puts, err := Diff(want, was)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range puts {
		b, err := json.Marshal(p)
		if err != nil || len(b) > intent.MaxEnvelope*3/4-1000 {
			t.Errorf("an entry of %d octets, %v", len(b), err)
		}
		n += len(p.Objects)
	}
	if n != len(want) || len(tombs) != 2 || len(tombs[0].Objects) != intent.MaxObjects {
		t.Errorf("%d of %d objects in %d entries, %d of tombstones", n, len(want), len(puts), len(tombs))
	}
}

func publisher(t testing.TB) *Publisher {
	t.Helper()
	db, err := state.Open(state.Config{Dir: filepath.Join(t.TempDir(), "s"), Key: bytes.Repeat([]byte{1}, 32), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenBadger(db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &Publisher{
		Store: s, Signer: func() crypto.Signer { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)) }, Epoch: func(crypto.PublicKey) (uint64, error) { return 1, nil },
		Now:      func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
		Catalog:  func() *intent.Catalog { return intent.NewCatalog() },
		Requires: func() intent.Requires { return intent.Requires{} },
	}
}

// An entry says how long a beacon counts: what the Site says, or the default.
func TestStaleAfter(t *testing.T) {
	p := publisher(t)
	site := &intent.Object{APIVersion: intent.APIVersion, Kind: intent.KindSite, Metadata: intent.Metadata{Name: "lon1", UID: "s1", Rev: 1}, Spec: &intent.SiteSpec{Region: "eu", Zone: "a", StaleAfter: "12h"}}
	p.Catalog = func() *intent.Catalog { return intent.NewCatalog(site) }
	for name, want := range map[string]string{"lon1": "12h", "par1": "168h0m0s"} {
		ch, err := p.Open(t.Context(), name)
		if err == nil {
			err = ch.Append(t.Context(), intent.EntryPut, intent.PutBody{Objects: []intent.PutObject{}}, store.Commit{})
		}
		if err != nil {
			t.Fatal(err)
		}
		env, err := At(t.Context(), p.Store, name, 1)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := intent.DecodeEntry(env.Payload); err != nil || e.StaleAfter != want {
			t.Errorf("%s: %v, %v; want %s", name, e, err, want)
		}
	}
}

// replay verifies a chain as a site does, entry by entry, and returns what it adds up to.
func replay(t testing.TB, p *Publisher, site string) (map[string]string, intent.Head) {
	t.Helper()
	chain := document.IntentChain{Site: site, Writers: []intent.Writer{{Key: document.MarshalKey(p.Signer().Public().(ed25519.PublicKey)), Epoch: 1, Mode: intent.ModeContinue, State: intent.KeyUse}}}
	have := map[string]string{}
	err := p.Feed(context.Background(), site, 1, func(env *intent.Envelope) error {
		e, err := chain.Accept(env)
		if err != nil {
			return err
		}
		body, err := e.DecodeBody()
		if err != nil {
			return err
		}
		switch b := body.(type) {
		case *intent.PutBody:
			for _, o := range b.Objects {
				have[o.UID] = string(o.Doc)
			}
		case *intent.TombstoneBody:
			for _, o := range b.Objects {
				if _, ok := have[o.UID]; !ok {
					return fmt.Errorf("a tombstone for %s, which was never put", o.UID)
				}
				delete(have, o.UID)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return have, chain.Head
}

// The law of publication: whatever happened to the catalog, replaying the chain gives what Compile gives now.
func TestReplayLaw(t *testing.T) {
	p, cases := publisher(t), 0
	rapid.Check(t, func(rt *rapid.T) {
		cases++ // each case has a chain of its own
		lon := fmt.Sprintf("lon%d", cases)
		c := intent.NewCatalog(obj(intent.KindSite, "", "", lon, &intent.SiteSpec{Region: "eu", Zone: "z"}), obj(intent.KindSite, "", "", "par1", &intent.SiteSpec{Region: "eu", Zone: "z"}))
		uid := 0
		for range rapid.IntRange(1, 4).Draw(rt, "syncs") {
			for range rapid.IntRange(0, 5).Draw(rt, "changes") {
				site := rapid.SampledFrom([]string{lon, "par1"}).Draw(rt, "site")
				k := intent.Key{Kind: intent.KindMachine, Scope: site, Name: rapid.SampledFrom([]string{"m1", "m2", "m3"}).Draw(rt, "name")}
				old := c.Get(k)
				switch {
				case old == nil:
					uid++
					o := obj(intent.KindMachine, "", site, k.Name, &intent.MachineSpec{NICs: []intent.NIC{{MAC: "52:54:00:00:00:01"}}})
					o.Metadata.UID = fmt.Sprintf("u%d", uid)
					c.Put(o)
				case rapid.Bool().Draw(rt, "delete"):
					c.Delete(k)
				default:
					o := old.Clone()
					o.Metadata.Rev++
					o.Spec.(*intent.MachineSpec).Position++
					c.Put(o)
				}
			}
			head, err := syncTo(t, p, c, lon)
			if err != nil {
				rt.Fatal(err)
			}
			want := map[string]string{}
			for _, o := range Compile(c, lon) {
				b, err := json.Marshal(o)
				if err != nil {
					rt.Fatal(err)
				}
				want[o.Metadata.UID] = string(b)
			}
			have, seen := replay(t, p, lon)
			if d := cmp.Diff(want, have); d != "" {
				rt.Fatalf("the chain adds up to something else: -want +got\n%s", d)
			}
			if seen != head {
				rt.Fatalf("head is %+v, the chain ends at %+v", head, seen)
			}
			again, err := syncTo(t, p, c, lon)
			if err != nil || again != head {
				rt.Fatalf("nothing to say moved the head from %+v to %+v, %v", head, again, err)
			}
		}
	})
}

// A name that is taken again in one step: the tombstone of the old one comes first.
func TestTombstoneBeforePut(t *testing.T) {
	p := publisher(t)
	first := obj(intent.KindMachine, "", "lon1", "m1", &intent.MachineSpec{})
	first.Metadata.UID = "old"
	c := intent.NewCatalog(first)
	if _, err := syncTo(t, p, c, "lon1"); err != nil {
		t.Fatal(err)
	}
	second := first.Clone()
	second.Metadata.UID = "aaa" // sorts before "old"
	c.Put(second)
	if _, err := syncTo(t, p, c, "lon1"); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	err := p.Feed(t.Context(), "lon1", 1, func(env *intent.Envelope) error {
		e, err := intent.DecodeEntry(env.Payload)
		if err == nil {
			kinds = append(kinds, string(e.Kind))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"put", "tombstone", "put"}, kinds); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// Two writers on one chain: the slower one writes nothing.
func TestSecondWriterLoses(t *testing.T) {
	p := publisher(t)
	slow := *p
	body := intent.TombstoneBody{Objects: []intent.TombstoneObject{{Kind: intent.KindSite, UID: "u", Rev: 1}}}
	slow.Now = func() time.Time { // between reading the head and writing, the other one appends
		slow.Now = p.Now
		if err := open(t, p, "lon1").Append(t.Context(), intent.EntryTombstone, body, store.Commit{}); err != nil {
			t.Fatal(err)
		}
		return p.Now()
	}
	err := open(t, &slow, "lon1").Append(t.Context(), intent.EntryTombstone, body, store.Commit{Put: map[string][]byte{"beside": nil}})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("the second writer got %v", err)
	}
	if _, err := p.Store.Get(t.Context(), "beside"); !errors.Is(err, store.ErrAbsent) {
		t.Errorf("it wrote beside: %v", err)
	}
	if head, _, err := p.Head(t.Context(), "lon1"); err != nil || head.Seq != 1 {
		t.Errorf("the chain has %d entries, %v", head.Seq, err)
	}
}

func open(t testing.TB, p *Publisher, site string) *Chain {
	t.Helper()
	c, err := p.Open(t.Context(), site)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func syncTo(t testing.TB, p *Publisher, c *intent.Catalog, site string) (intent.Head, error) {
	t.Helper()
	ch := open(t, p, site)
	err := ch.Sync(t.Context(), c)
	return ch.Head(), err
}

// A held site gets nothing, also when it becomes held between reading its head and writing.
func TestHeld(t *testing.T) {
	p := publisher(t)
	body := intent.TombstoneBody{Objects: []intent.TombstoneObject{{Kind: intent.KindSite, UID: "u", Rev: 1}}}
	late := open(t, p, "lon1")
	if _, err := p.Store.Commit(t.Context(), store.Commit{Put: map[string][]byte{HeldKey("lon1"): nil}}); err != nil {
		t.Fatal(err)
	}
	if err := late.Append(t.Context(), intent.EntryTombstone, body, store.Commit{}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a chain that was opened before gives %v", err)
	}
	if _, err := p.Open(t.Context(), "lon1"); !errors.Is(err, ErrHeld) {
		t.Errorf("Open = %v", err)
	}
	if err := open(t, p, "par1").Append(t.Context(), intent.EntryTombstone, body, store.Commit{}); err != nil {
		t.Errorf("another site: %v", err)
	}
}

func TestAppendRefusesItsOwnBadEntry(t *testing.T) {
	p := publisher(t)
	if err := open(t, p, "lon1").Append(t.Context(), "dance", struct{}{}, store.Commit{}); err == nil || !strings.Contains(err.Error(), "own entry is refused") {
		t.Errorf("an unknown entry gives %v", err)
	}
	if h, _, err := p.Head(t.Context(), "lon1"); err != nil || h != (intent.Head{}) {
		t.Errorf("head is %+v, %v", h, err)
	}
}

// Each 256th entry says what the chain adds up to by then, in one commit with the entry before it, and so does the first entry of a new
// epoch. What follows a tombstone, an ack or a change is in it, whether the whole chain is read for it or what came since the last one.
func TestSnapshots(t *testing.T) {
	for name, folds := range map[string]*Folds{"all is read": nil, "what came since": {}} {
		t.Run(name, func(t *testing.T) { snapshots(t, folds) })
	}
}

func snapshots(t *testing.T, folds *Folds) {
	p := publisher(t)
	p.Folds = folds
	c := intent.NewCatalog(obj(intent.KindSite, "", "", "lon1", &intent.SiteSpec{Region: "eu", Zone: "z"}))
	m := obj(intent.KindMachine, "", "lon1", "m1", &intent.MachineSpec{})
	c.Put(m)
	gone := obj(intent.KindMachine, "", "lon1", "m2", &intent.MachineSpec{})
	c.Put(gone)
	ch := open(t, p, "lon1")
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(ch.Sync(t.Context(), c))
	c.Delete(gone.Key())
	step(ch.Append(t.Context(), intent.EntryAck, intent.AckBody{Override: "o1", Decision: "adopt", Rev: 7}, store.Commit{}))
	want := tally.Sum{}
	for ch.Head().Seq < 2*SnapshotEvery {
		o := m.Clone()
		o.Metadata.Rev = ch.Head().Seq
		c.Put(o)
		m = o
		before := ch.Head().Seq
		step(ch.Sync(t.Context(), c))
		if head, _, err := p.Head(t.Context(), "lon1"); err != nil || head != ch.Head() {
			t.Fatalf("the store has head %v, %v; want %v", head, err, ch.Head())
		}
		if after := ch.Head().Seq; after%SnapshotEvery == 0 && after != before+2 {
			t.Fatalf("entry %d is alone", after)
		}
	}
	want.Object("u-lon1--m1", m.Metadata.Rev)
	want.Object("u---lon1", 1)
	want.Tombstone(intent.TombstoneObject{UID: "u-lon1--m2", Rev: 2})
	want.Ack(intent.AckBody{Override: "o1", Decision: "adopt", Rev: 7})
	var at []uint64
	var last intent.SnapshotBody
	read := func() {
		at = nil
		step(p.Feed(t.Context(), "lon1", 1, func(env *intent.Envelope) error {
			e, err := intent.DecodeEntry(env.Payload)
			if err == nil && e.Kind == intent.EntrySnapshot {
				at = append(at, e.Seq)
				err = json.Unmarshal(e.Body, &last)
			}
			return err
		}))
	}
	read()
	if d := cmp.Diff([]uint64{SnapshotEvery, 2 * SnapshotEvery}, at); d != "" || last != want.Body() {
		t.Errorf("snapshots -want +got\n%s\nthe last: %+v, want %+v", d, last, want.Body())
	}
	p.Epoch = func(crypto.PublicKey) (uint64, error) { return 2, nil }
	folds.give("lon1", &fold{seq: 3, hash: "of a chain that was here before", objects: map[string]uint64{"evil": 1}})
	step(ch.Vouch(t.Context()))
	step(ch.Vouch(t.Context())) // once
	if read(); len(at) != 3 || at[2] != 2*SnapshotEvery+1 || last != want.Body() {
		t.Errorf("snapshots at %v, the last %+v; want one more, the same", at, last)
	}
}
