package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/skerry-metal/skerry/mesh/chunk"
)

func TestTake(t *testing.T) {
	b := newBench(t)
	want, m := content(t)
	path := filepath.Join(b.dir, "assets", "sent.part")
	write := func() {
		t.Helper()
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	agree := func(*chunk.Manifest) error { return nil }
	write()
	boom := errors.New("not these")
	if _, err := b.s.Take(t.Context(), path, func(*chunk.Manifest) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("refused by check: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.s.Take(gone, path, agree); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) || len(b.s.List()) != 0 {
		t.Fatalf("what was not taken is not where it was: %v, %v", err, b.s.List())
	}
	// A crash after the new name was given and before the record leaves both names; the same Take again ends it.
	if err := os.Link(path, b.s.path(m.Content, ".blob")); err != nil {
		t.Fatal(err)
	}
	b.crash(t)
	b.open(t)
	for range 2 { // the second time it is an asset already
		if got, err := b.s.Take(t.Context(), path, agree); err != nil || got.Digest() != m.Digest() {
			t.Fatalf("Take = %v, %v", got, err)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the old name is there: %v", err)
		}
		write()
	}
	b.crash(t)
	b.open(t)
	r, err := b.s.Open(m.Content)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back: %d octets, %v", len(got), err)
	}
	if err := b.s.Room(int64(b.free)); !errors.Is(err, ErrFull) {
		t.Errorf("room for everything that is free: %v", err)
	}
}
