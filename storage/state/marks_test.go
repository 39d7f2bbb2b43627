package state

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/skerry-metal/skerry/mesh/intent"
)

func errno(n string) syscall.Errno {
	return map[string]syscall.Errno{"ENOSPC": syscall.ENOSPC, "EACCES": syscall.EACCES, "EIO": syscall.EIO}[n]
}

func marks(n uint64) Marks {
	return Marks{
		Heads: map[string]intent.Head{"intent": {Epoch: 1, Seq: n, Hash: intent.DigestOf([]byte{byte(n)})}},
		Floor: time.Unix(int64(n), 0).UTC(), Boots: n, MaxVersion: n, Chains: map[string]uint64{"receipt": n},
	}
}

func TestMarks(t *testing.T) {
	dir := t.TempDir()
	f, m, err := OpenMarks(dir, testKey)
	if err != nil || m.Boots != 0 {
		t.Fatalf("no files: %+v %v", m, err)
	}
	for n := uint64(1); n <= 5; n++ {
		if err := f.Save(marks(n)); err != nil {
			t.Fatal(err)
		}
		_, got, err := OpenMarks(dir, testKey)
		if diff := cmp.Diff(marks(n), got); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
	}
	if _, _, err := OpenMarks(dir, []byte("another key")); !errors.Is(err, ErrMarks) {
		t.Fatalf("foreign key: %v", err)
	}
	big := marks(6)
	big.Chains = map[string]uint64{string(make([]byte, marksSize)): 1}
	if err := f.Save(big); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("too large: %v", err)
	}
}

// TestMarksTorn damages the newest file anywhere: the one before it must be found; both damaged is an error, never zero marks.
func TestMarksTorn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	f, _, _ := OpenMarks(dir, testKey)
	for n := uint64(1); n <= 4; n++ {
		if err := f.Save(marks(n)); err != nil {
			t.Fatal(err)
		}
	}
	newest := filepath.Join(dir, "marks.b")
	good, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		bad := append([]byte(nil), good...)
		if rnd.IntN(4) == 0 {
			bad = bad[:rnd.IntN(len(bad))]
		} else {
			bad[rnd.IntN(len(bad))] ^= 1 << rnd.IntN(8)
		}
		if err := os.WriteFile(newest, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, m, err := OpenMarks(dir, testKey); err != nil || m.Boots != 3 {
			t.Fatalf("marks %+v %v, want those of boot 3", m, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "marks.a"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenMarks(dir, testKey); !errors.Is(err, ErrMarks) {
		t.Fatalf("both damaged: %v", err)
	}
}
