package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/siteagent/sitetest"
	"github.com/skerry-metal/skerry/storage/state"
)

// What a person accepted survives the repair of the trust stream; where that record itself is lost, the document is offered again, and
// the agent is recovering until he says so once more.
func TestRepairKeepsAcceptance(t *testing.T) {
	for what, lost := range map[string]string{"document 1": fmt.Sprintf("%016x", 1), "the accepted document": fmt.Sprintf("%016x", 2), "the acceptance": "accepted/"} {
		x := newTheft(t)
		lone := x.doc(place(x.a.Env, 1), x.next.Root, x.takeOver)
		x.add(document.ErrOffered, place(x.a.Env, 1), lone)
		x.accept(lone, nil)
		if err := x.db.Close(); err != nil {
			t.Fatal(err)
		}
		foreign, err := state.Open(state.Config{
			Dir: filepath.Join(x.dir, "state"), Key: bytes.Repeat([]byte{9}, 32), Logger: slog.New(slog.DiscardHandler), UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1,
		})
		if err != nil {
			t.Fatal(err)
		}
		if lost == "accepted/" {
			lost += lone.Digest().Hex()
		}
		err = foreign.Update(func(tx *state.Tx) error { return tx.Put("trust", lost, []byte("rotten")) })
		if err := errors.Join(err, foreign.Close()); err != nil {
			t.Fatal(err)
		}
		x.open()
		from := replica.Sources{
			Trust:       func(context.Context) []*intent.Envelope { return []*intent.Envelope{x.a.Env, lone} },
			Revocations: func(context.Context) []*intent.Envelope { return nil },
		}
		err = x.s.AddTrust([]*intent.Envelope{x.a.Env, lone}) // as a peer brings it
		if what == "the acceptance" {
			if !errors.Is(err, document.ErrOffered) || x.s.TrustHead().Seq != 1 || x.s.Level() {
				t.Errorf("%s: %v, head %v, level %v", what, err, x.s.TrustHead(), x.s.Level())
			}
			x.accept(lone, nil)
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := x.s.Repair(t.Context(), from); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if x.s.TrustHead() != place(lone, 2) || !x.s.Level() {
			t.Errorf("%s: head %v, level %v", what, x.s.TrustHead(), x.s.Level())
		}
		if rep, err := x.db.Scrub(t.Context()); err != nil || rep.Held != nil {
			t.Errorf("%s: scrub %+v, %v", what, rep, err)
		}
	}
}

// TestRepairTakesOnlyTheLost: a lost envelope is known by the hash that its successor names. Another domain's, a fork's by the right
// writer, or a shifted one is refused, whoever gives it, and the one that was lost is taken from whoever has it.
func TestRepairTakesOnlyTheLost(t *testing.T) {
	a, dir := sitetest.NewAuthor(t), t.TempDir()
	s, db := sitetest.OpenReplica(t, dir, a, "a1")
	var chain, forked []*intent.Envelope
	for i := range 6 {
		before := a.Head
		chain = append(chain, a.Put(sitetest.MachineTypeDoc(fmt.Sprintf("t%d", i), 1)))
		forked = append(forked, a.At(before).Put(sitetest.MachineTypeDoc(fmt.Sprintf("f%d", i), 1)))
	}
	if n, err := s.Receive(t.Context(), chain); n != 6 || err != nil {
		t.Fatalf("Receive = %d, %v", n, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	foreign, err := state.Open(state.Config{
		Dir: filepath.Join(dir, "state"), Key: bytes.Repeat([]byte{9}, 32), Logger: slog.New(slog.DiscardHandler), UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	err = foreign.Update(func(tx *state.Tx) error {
		return errors.Join(tx.Put("intent", fmt.Sprintf("%016x", 3), []byte("rotten")), tx.Put("intent", fmt.Sprintf("%016x", 6), []byte("rotten")), tx.Put("object", "u-t1", []byte("rotten")))
	})
	if err := errors.Join(err, foreign.Close()); err != nil {
		t.Fatal(err)
	}
	s, db = sitetest.OpenReplica(t, dir, a, "a1")
	defer db.Close()
	if names(s)["t1"] {
		t.Fatal("a damaged object is served")
	}
	source := func(envs []*intent.Envelope) func(context.Context, uint64, func(*intent.Envelope) error) error {
		return func(_ context.Context, from uint64, fn func(*intent.Envelope) error) error {
			for i, env := range envs {
				if uint64(i+1) < from {
					continue
				}
				if err := fn(env); err != nil {
					return err
				}
			}
			return nil
		}
	}
	stranger := sitetest.NewAuthor(t)
	var others []*intent.Envelope
	for i := range 6 {
		others = append(others, stranger.Put(sitetest.MachineTypeDoc(fmt.Sprintf("t%d", i), 1)))
	}
	repair := func(sources ...[]*intent.Envelope) error {
		from := replica.Sources{
			Trust:       func(context.Context) []*intent.Envelope { return nil },
			Revocations: func(context.Context) []*intent.Envelope { return nil },
		}
		for _, envs := range sources {
			from.Intent = append(from.Intent, source(envs))
		}
		return s.Repair(t.Context(), from)
	}
	for what, envs := range map[string][]*intent.Envelope{"nobody": nil, "a fork": forked, "another domain": others, "half": chain[:4], "shifted": chain[1:]} {
		if err := repair(envs); err == nil {
			t.Fatalf("repaired from %s", what)
		}
	}
	if err := repair(forked, others, chain); err != nil {
		t.Fatal(err)
	}
	if n := names(s); len(n) != 6 || !n["t1"] || n["f2"] || s.State().Head != a.Head {
		t.Errorf("objects %v, head %v; want all six at %v", n, s.State().Head, a.Head)
	}
	if rep, err := db.Scrub(t.Context()); err != nil || rep.Held != nil {
		t.Errorf("scrub: %+v, %v", rep, err)
	}
}
