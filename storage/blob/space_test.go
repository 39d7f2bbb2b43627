package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

// asset imports n chunks of random octets of that seed.
func asset(t *testing.T, s *Store, seed byte, n int) *chunk.Manifest {
	t.Helper()
	b := make([]byte, n*chunk.Size-100)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	m, err := s.Import(context.Background(), bytes.NewReader(b), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func info(t *testing.T, s *Store, d intent.Digest) Info {
	t.Helper()
	for _, i := range s.List() {
		if i.Digest == d {
			return i
		}
	}
	t.Fatalf("%s is not listed", d.Short())
	return Info{}
}

// TestAdmission: what pinned assets still need is kept for them; what nobody pins keeps nobody out.
func TestAdmission(t *testing.T) {
	b := newBench(t)
	want, first := content(t)
	if err := b.s.Put(context.Background(), first); err != nil {
		t.Fatal(err)
	}
	if err := b.s.WriteChunk(first.Content, 4, part(want, first, 4)); err != nil { // the short one
		t.Fatal(err)
	}
	if got := info(t, b.s, first.Content); got.Octets != chunk.Size+12345 || got.Have != 2 {
		t.Fatalf("%d octets, %d chunks", got.Octets, got.Have)
	}
	other := bytes.Repeat([]byte{7}, 2*chunk.Size)
	second, err := chunk.ScanManifest(bytes.NewReader(other))
	if err != nil {
		t.Fatal(err)
	}
	const reserve = 11 << 30
	b.free = reserve + 5*chunk.Size - 1 // 3 MiB for the first, 2 for the second
	b.s.SetPins([]intent.Digest{first.Content, second.Content})
	if err := b.s.Put(context.Background(), second); !errors.Is(err, ErrFull) {
		t.Fatalf("put beside one that needs the room: %v", err)
	}
	b.s.SetPins([]intent.Digest{second.Content})
	if err := b.s.Put(context.Background(), second); err != nil {
		t.Fatalf("put beside one that nobody wants: %v", err)
	}
}

// TestLeaveAndUse: what left the intent when, and the day of the last use, outlive a crash.
func TestLeaveAndUse(t *testing.T) {
	b := newBench(t)
	m := asset(t, b.s, 2, 1)
	head := intent.Head{Epoch: 1, Seq: 7, Hash: intent.DigestOf([]byte("7"))}
	if err := b.s.Leave(m.Content, head); err != nil {
		t.Fatal(err)
	}
	if err := b.s.Leave(intent.DigestOf(nil), head); !errors.Is(err, ErrAbsent) {
		t.Fatalf("leave of what is not here: %v", err)
	}
	e, _ := b.s.entry(m.Content)
	used := time.Now().Add(48 * time.Hour).UTC().Round(0)
	e.lastUsed = used
	if err := b.s.SaveUse(); err != nil {
		t.Fatal(err)
	}
	e.lastUsed = used.Truncate(day).Add(day - 1) // the same day: not worth a write
	if err := b.s.SaveUse(); err != nil {
		t.Fatal(err)
	}
	b.crash(t)
	b.open(t)
	if got := info(t, b.s, m.Content); got.Left != head || !got.LastUsed.Equal(used) {
		t.Fatalf("left %+v, used %v", got.Left, got.LastUsed)
	}
}

// TestDeletedStaysGone: somebody who still holds the entry of a deleted asset brings no record back.
func TestDeletedStaysGone(t *testing.T) {
	b := newBench(t)
	m := asset(t, b.s, 2, 1)
	e, _ := b.s.entry(m.Content)
	if err := b.s.Delete(m.Content); err != nil {
		t.Fatal(err)
	}
	if err := b.s.checkpoint(m.Content, e); !errors.Is(err, ErrAbsent) {
		t.Fatalf("checkpoint of a deleted asset: %v", err)
	}
	if err := b.s.scrub(t.Context(), m.Content, e, 1<<30, &Scrubbed{}); err != nil {
		t.Fatal(err)
	}
	err := b.db.View(func(tx *state.Tx) error { _, err := tx.Get(bucket, m.Content.Hex()); return err })
	if !errors.Is(err, state.ErrAbsent) {
		t.Fatalf("record: %v", err)
	}
}

// flip changes one octet of a chunk on disk.
func flip(t *testing.T, s *Store, m *chunk.Manifest, i int) {
	t.Helper()
	off, _ := m.ChunkRange(i)
	f, err := os.OpenFile(s.path(m.Content, ".blob"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, off+5); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 1
	if _, err := f.WriteAt(one, off+5); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestScrub: each chunk is hashed once in a pass, in small steps and through restarts; a bad one loses its bit though it was verified
// before, and is remembered; holes are not read.
func TestScrub(t *testing.T) {
	b := newBench(t)
	want, holey := content(t)
	if err := b.s.Put(context.Background(), holey); err != nil {
		t.Fatal(err)
	}
	for i := range holey.Chunks {
		if err := b.s.WriteChunk(holey.Content, i, part(want, holey, i)); err != nil {
			t.Fatal(err)
		}
	}
	m := asset(t, b.s, 3, 6)
	chunks := 0
	step := func(n uint64) Scrubbed {
		t.Helper()
		r, err := b.s.Scrub(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		chunks += r.Chunks
		return r
	}
	for k := 0; chunks < 10; k++ { // 4 and a hole, and 6
		if r := step(1); r.Chunks != 1 || r.Bad != 0 || k > 10 {
			t.Fatalf("step %d: %+v", k, r)
		}
		if k == 6 {
			b.close(t)
			b.open(t)
		}
	}
	first := info(t, b.s, m.Content).Scrubbed
	if first.IsZero() || info(t, b.s, holey.Content).Scrubbed.IsZero() {
		t.Fatal("a whole pass is not noted")
	}
	if r := step(1 << 30); r.Chunks != 10 {
		t.Fatalf("a call hashed %d chunks, each asset once is 10", r.Chunks)
	}
	if got := readAll(t, b.s, m.Content); len(got) != int(m.Size) {
		t.Fatal("not read")
	}
	flip(t, b.s, m, 2)
	flip(t, b.s, m, 5)
	if r := step(1 << 30); r.Bad != 2 || r.Chunks != 10 {
		t.Fatalf("after two flips: %+v", r)
	}
	b.crash(t)
	b.open(t)
	got := info(t, b.s, m.Content)
	if got.Have != 4 || got.Complete || len(got.Damaged) != 2 {
		t.Fatalf("after a crash: %+v", got)
	}
	if _, err := b.s.ReadChunk(m.Content, 2, make([]byte, chunk.Size)); !errors.Is(err, ErrPending) {
		t.Fatalf("a bad chunk is read: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.s.Scrub(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("scrub after its end: %v", err)
	}
}

// TestUnreadable: a chunk that the disk cannot read is damaged as one with another hash is; a closed file is no damage.
func TestUnreadable(t *testing.T) {
	b := newBench(t)
	m := asset(t, b.s, 4, 3)
	buf := make([]byte, chunk.Size)
	if err := os.Truncate(b.s.path(m.Content, ".blob"), chunk.Size); err != nil {
		t.Fatal(err)
	}
	if _, err := b.s.ReadChunk(m.Content, 1, buf); !errors.Is(err, ErrCorrupt) || !errors.Is(err, io.EOF) {
		t.Errorf("read behind the end: %v, want ErrCorrupt and its cause", err)
	}
	if got := info(t, b.s, m.Content); got.Have != 2 || got.Complete || len(got.Damaged) != 1 {
		t.Errorf("after it: %+v", got)
	}
	e, _ := b.s.entry(m.Content)
	if err := errors.Join(b.s.Close(), b.s.scrub(t.Context(), m.Content, e, 1, &Scrubbed{})); err != nil {
		t.Error(err)
	}
	b.s.blobs[m.Content] = e // who took it before Close
	if _, err := b.s.ReadChunk(m.Content, 0, buf); !errors.Is(err, ErrAbsent) || errors.Is(err, ErrCorrupt) {
		t.Errorf("read of a closed store: %v", err)
	}
	delete(b.s.blobs, m.Content)
	if e.have.count() != 2 || len(e.damaged) != 1 {
		t.Errorf("a closed store lost chunks: %08b, %d damaged", e.have, len(e.damaged))
	}
}
