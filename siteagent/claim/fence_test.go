package claim

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// cut is the sight of an agent behind a cut: its only peer has counted as dead for an hour. The device's fence is real.
type cut struct {
	alone
	epoch intent.Epoch
}

func (c *cut) ReadFence(context.Context) (intent.Epoch, intent.Strength, error) {
	return c.epoch, intent.StrengthHard, nil
}

func (c *cut) RaiseFence(_ context.Context, e intent.Epoch) error {
	c.epoch = e
	return nil
}

// TestFenceIsNotFoughtOver: an agent that loses a device by its fence while it believes the peer dead does not take it back
// for a quarter of an hour: the peer is alive behind a cut.
func TestFenceIsNotFoughtOver(t *testing.T) {
	db := openStore(t, filepath.Join(quickDir(t), "state"))
	defer db.Close()
	now := time.Now()
	f := &cut{alone: alone{ms: []Member{{ID: "a1", Alive: true}, {ID: "a2", Rank: 1, Since: now.Add(-time.Hour)}}}}
	c := NewClaims(db, "a1", "boot", f, f, slog.New(slog.DiscardHandler))
	c.now = func() time.Time { return now }
	cl, err := c.Acquire(t.Context(), "machine/m1", f)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Confirm(t.Context(), cl, f); err != nil {
		t.Fatal(err)
	}
	f.epoch = cl.Epoch.Next(cl.Epoch.Generation, 1) // the peer took it
	if err := c.Confirm(t.Context(), cl, f); err == nil {
		t.Fatal("confirmed under a fence that somebody else raised")
	}
	if _, err := c.Acquire(t.Context(), "machine/m1", f); !errors.Is(err, ErrNoMajority) {
		t.Fatalf("taken back at once: %v, want %v", err, ErrNoMajority)
	}
	now = now.Add(fenceRest)
	if _, err := c.Acquire(t.Context(), "machine/m1", f); err != nil {
		t.Fatalf("after the rest: %v", err)
	}
}
