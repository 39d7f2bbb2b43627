package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
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

// TestSameAtOnce: imports and Takes of the same octets, also of the same file, and a Delete among them, all succeed, and what is there
// in the end is whole, also after a restart.
func TestSameAtOnce(t *testing.T) {
	b := newBench(t)
	agree := func(*chunk.Manifest) error { return nil }
	for round := range byte(20) {
		want := bytes.Repeat([]byte{round, 1}, 1500)
		d := intent.DigestOf(want)
		path := filepath.Join(b.dir, "assets", "sent.part")
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		var begin, end sync.WaitGroup
		begin.Add(1)
		for i := range 7 {
			end.Go(func() {
				begin.Wait()
				var err error
				switch {
				case i < 4:
					_, err = b.s.Import(t.Context(), bytes.NewReader(want), 1<<20)
				case i < 6 && round%2 == 0:
					if _, err = b.s.Take(t.Context(), path, agree); errors.Is(err, fs.ErrNotExist) {
						err = nil // the other one has ended
					}
				case i == 6 && round%2 != 0:
					if err = b.s.Delete(d); errors.Is(err, ErrAbsent) {
						err = nil
					}
				}
				if err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		begin.Done()
		end.Wait()
	}
	b.close(t)
	b.open(t)
	for _, i := range b.s.List() {
		if err := b.s.Verify(i.Digest); err != nil || !i.Complete {
			t.Errorf("%s complete %v, %v", i.Digest.Short(), i.Complete, err)
		}
	}
	records := 0
	if err := b.db.View(func(tx *state.Tx) error {
		return tx.Walk(bucket, "", func(string, []byte) error { records++; return nil })
	}); err != nil || records != len(b.s.List()) || records < 10 {
		t.Errorf("%d records and %d assets of 20, %v", records, len(b.s.List()), err)
	}
}
