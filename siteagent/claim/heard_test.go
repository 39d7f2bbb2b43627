package claim

import (
	"context"
	"testing"
)

// unread is a peer that says how far its chain goes, and cannot read the end of it.
type unread struct{ Peers }

func (unread) Live() []string { return []string{"b"} }

func (unread) Heads(context.Context, string) (map[string]uint64, error) {
	return map[string]uint64{"b": 3}, nil
}

func (unread) Pull(context.Context, string, string, uint64) (Page, error) { return Page{}, nil }

// TestHeardIsAll: a peer counts as heard only when all that it wrote is here: an address is given to another on the strength of it.
func TestHeardIsAll(t *testing.T) {
	j := newNet(t, "a").journals["a"]
	_ = j.pullAll(t.Context(), unread{}, "b")
	if at := j.Heard("b"); !at.IsZero() {
		t.Errorf("b has 3 records, %d are here, and it counts as heard at %v", j.Heads()["b"], at)
	}
}

// TestHeardBesideFork: a chain of a third agent that links to nothing does not keep b, whose own chain is all here, unheard for ever.
func TestHeardBesideFork(t *testing.T) {
	n := newNet(t, "a", "b", "x", "y")
	n.journal("x", 1)
	if _, err := n.journals["a"].Receive("x", must1(n.journals["x"].Range("x", 1, MaxPull))); err != nil {
		t.Fatal(err)
	}
	// Another x, with other records: as a restored copy writes them. b has its chain.
	fork := openJournal(t, openStore(t, quickDir(t)+"/fork"), "x")
	for range 2 {
		put(t, fork, Local, "note", "x", "other")
	}
	if _, err := n.journals["b"].Receive("x", must1(fork.Range("x", 1, MaxPull))); err != nil {
		t.Fatal(err)
	}
	n.journal("b", 2)
	a := n.journals["a"]
	_ = a.pullAll(t.Context(), netPeer{n, "a"}, "b")
	if a.Heads()["b"] != 2 || a.Heard("b").IsZero() {
		t.Errorf("b's chain is here to %d, and b counts as heard at %v", a.Heads()["b"], a.Heard("b"))
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
