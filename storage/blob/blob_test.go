package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/state"
)

type bench struct {
	dir  string
	free uint64
	db   *state.DB
	s    *Store
}

func newBench(t *testing.T) *bench {
	b := &bench{dir: t.TempDir(), free: 100 << 30}
	b.open(t)
	t.Cleanup(func() { b.close(t) })
	return b
}

func (b *bench) open(t *testing.T) {
	t.Helper()
	statfs := func(string) (uint64, uint64, error) { return b.free, 200 << 30, nil }
	var err error
	b.db, err = state.Open(state.Config{
		Dir: filepath.Join(b.dir, "state"), Key: make([]byte, 32),
		Logger: slog.New(slog.DiscardHandler), Statfs: func(string) (uint64, uint64, error) { return 100 << 30, 200 << 30, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.s, err = Open(Config{Dir: filepath.Join(b.dir, "assets"), State: b.db, Logger: slog.New(slog.DiscardHandler), Statfs: statfs})
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) close(t *testing.T) {
	t.Helper()
	if err := errors.Join(b.s.Close(), b.db.Close()); err != nil {
		t.Fatal(err)
	}
}

// crash closes without the store's last checkpoint: what SIGKILL leaves, short of torn pages.
func (b *bench) crash(t *testing.T) {
	t.Helper()
	if err := b.db.Close(); err != nil {
		t.Fatal(err)
	}
}

// content has 5 chunks, the third of them zeros, the last one short.
func content(t *testing.T) ([]byte, *chunk.Manifest) {
	t.Helper()
	b := make([]byte, 4*chunk.Size+12345)
	rand.NewChaCha8([32]byte{1}).Read(b)
	clear(b[2*chunk.Size : 3*chunk.Size])
	m, err := chunk.ScanManifest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return b, m
}

func part(b []byte, m *chunk.Manifest, i int) []byte {
	off, n := m.ChunkRange(i)
	return b[off : off+int64(n)]
}

func readAll(t *testing.T, s *Store, d intent.Digest) []byte {
	t.Helper()
	r, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestZeroChunk(t *testing.T) {
	if zeroChunk() != intent.DigestOf(make([]byte, chunk.Size)) {
		t.Fatal("zeroChunk is wrong")
	}
}

func TestWriteReadResume(t *testing.T) {
	b := newBench(t)
	want, m := content(t)
	if err := b.s.WriteChunk(m.Content, 0, part(want, m, 0)); !errors.Is(err, ErrAbsent) {
		t.Fatalf("write before put: %v", err)
	}
	if err := b.s.Put(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	if _, err := b.s.Open(m.Content); !errors.Is(err, ErrPending) {
		t.Fatalf("open of a part: %v", err)
	}
	buf := make([]byte, m.ChunkSize)
	if _, err := b.s.ReadChunk(m.Content, 1, buf); !errors.Is(err, ErrPending) {
		t.Fatalf("read of a missing chunk: %v", err)
	}
	if _, err := b.s.ReadChunk(m.Content, 2, buf); err != nil {
		t.Fatalf("read of the zero chunk: %v", err)
	}
	for _, bad := range [][]byte{nil, part(want, m, 1), append([]byte{1}, part(want, m, 0)[1:]...), part(want, m, 0)[1:]} {
		if err := b.s.WriteChunk(m.Content, 0, bad); !errors.Is(err, chunk.ErrBad) {
			t.Fatalf("bad chunk: %v", err)
		}
	}
	for _, i := range []int{4, 0} {
		if err := b.s.WriteChunk(m.Content, i, part(want, m, i)); err != nil {
			t.Fatal(err)
		}
	}
	b.close(t)
	b.open(t)
	if have, complete, err := b.s.Have(m.Content); err != nil || complete || !bytes.Equal(have, []byte{0b10101000}) {
		t.Fatalf("after restart: %08b %v %v", have, complete, err)
	}
	for _, i := range []int{3, 1} {
		if err := b.s.WriteChunk(m.Content, i, part(want, m, i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := readAll(t, b.s, m.Content); !bytes.Equal(got, want) {
		t.Fatal("content differs")
	}
	l := b.s.List()
	if len(l) != 1 || !l[0].Complete || l[0].Have != 5 || l[0].Manifest != m.Digest() {
		t.Fatalf("list: %+v", l)
	}
}

// TestCrashKeepsCheckpoint: chunks written after the last checkpoint may be lost, those before it are not, and none is wrong.
func TestCrashKeepsCheckpoint(t *testing.T) {
	b := newBench(t)
	want, m := content(t)
	if err := b.s.Put(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	if err := b.s.WriteChunk(m.Content, 0, part(want, m, 0)); err != nil {
		t.Fatal(err)
	}
	e, _ := b.s.entry(m.Content)
	e.last = e.last.Add(-checkpointEvery)
	if err := b.s.WriteChunk(m.Content, 1, part(want, m, 1)); err != nil { // checkpoint by age
		t.Fatal(err)
	}
	if err := b.s.WriteChunk(m.Content, 3, part(want, m, 3)); err != nil { // after it
		t.Fatal(err)
	}
	b.crash(t)
	// The disk lied about chunk 1: recheck of the last checkpoint must see it.
	f, err := os.OpenFile(b.s.path(m.Content, ".blob"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("rot"), chunk.Size+5); err != nil {
		t.Fatal(err)
	}
	f.Close()
	b.open(t)
	if have, complete, err := b.s.Have(m.Content); err != nil || complete || !bytes.Equal(have, []byte{0b10100000}) {
		t.Fatalf("after the crash: %08b %v %v", have, complete, err)
	}
}

// TestDamageIsNeverServed: promise 7. A chunk that rotted on disk is not handed out, and is fetched again.
func TestDamageIsNeverServed(t *testing.T) {
	b := newBench(t)
	want, _ := content(t)
	m, err := b.s.Import(context.Background(), bytes.NewReader(want), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := b.s.Open(m.Content); err != nil {
		t.Fatal(err)
	} else if _, ok := r.(*os.File); !ok {
		t.Fatalf("a verified asset opens as %T, want *os.File", r)
	} else {
		r.Close()
	}
	b.close(t)
	f, err := os.OpenFile(b.s.path(m.Content, ".blob"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("rot"), 3*chunk.Size+100); err != nil {
		t.Fatal(err)
	}
	f.Close()
	b.open(t)
	r, err := b.s.Open(m.Content)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if !errors.Is(err, ErrCorrupt) || len(got) != 3*chunk.Size || !bytes.Equal(got, want[:len(got)]) {
		t.Fatalf("read %d octets, %v; want the 3 good chunks and ErrCorrupt", len(got), err)
	}
	if _, err := b.s.Open(m.Content); !errors.Is(err, ErrPending) {
		t.Fatalf("after damage: %v, want ErrPending", err)
	}
	if err := b.s.WriteChunk(m.Content, 3, part(want, m, 3)); err != nil {
		t.Fatal(err)
	}
	if err := b.s.Verify(m.Content); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, b.s, m.Content); !bytes.Equal(got, want) {
		t.Fatal("content differs after repair")
	}
}

func TestSeekReads(t *testing.T) {
	b := newBench(t)
	want, _ := content(t)
	m, err := b.s.Import(context.Background(), bytes.NewReader(want), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	b.close(t)
	b.open(t) // a fresh life: reads go through the verifying reader
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	r, err := b.s.Open(m.Content)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		off, n := rnd.IntN(len(want)), rnd.IntN(100_000)
		if _, err := r.Seek(int64(off-len(want)), io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.LimitReader(r, int64(n)))
		if err != nil || !bytes.Equal(got, want[off:min(off+n, len(want))]) {
			t.Fatalf("at %d, %d octets: %v", off, n, err)
		}
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Fatal("seek before the start")
	}
}

func TestFull(t *testing.T) {
	b := newBench(t)
	want, m := content(t)
	const reserve = 11 << 30                   // 5 % of 200 GiB and 1 GiB: storage/state stops below 10 GiB
	b.free = reserve + m.Size - chunk.Size - 1 // the chunk of zeros takes nothing
	if err := b.s.Put(context.Background(), m); !errors.Is(err, ErrFull) {
		t.Fatalf("put: %v", err)
	}
	if _, err := b.s.Import(context.Background(), bytes.NewReader(want), 1<<30); !errors.Is(err, ErrFull) {
		t.Fatalf("import: %v", err)
	}
	b.free = 100 << 30
	if err := b.s.Put(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	b.free = reserve
	if err := b.s.WriteChunk(m.Content, 0, part(want, m, 0)); !errors.Is(err, ErrFull) {
		t.Fatalf("write: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(b.s.cfg.Dir, "*.tmp")); len(left) > 0 {
		t.Fatalf("left %v", left)
	}
}

func TestImportDeletePins(t *testing.T) {
	b := newBench(t)
	want, m := content(t)
	if _, err := b.s.Import(context.Background(), bytes.NewReader(want), 1000); err == nil {
		t.Fatal("import beyond its limit")
	}
	for range 2 { // the second finds it complete
		if got, err := b.s.Import(context.Background(), bytes.NewReader(want), 1<<30); err != nil || got.Content != m.Content {
			t.Fatal(err)
		}
	}
	empty, err := b.s.Import(context.Background(), bytes.NewReader(nil), 0)
	if err != nil || len(readAll(t, b.s, empty.Content)) != 0 {
		t.Fatalf("empty asset: %v", err)
	}
	b.s.SetPins([]intent.Digest{m.Content})
	if err := b.s.Delete(m.Content); !errors.Is(err, ErrPinned) {
		t.Fatalf("delete of a pinned asset: %v", err)
	}
	b.s.SetPins(nil)
	if err := b.s.Delete(m.Content); err != nil {
		t.Fatal(err)
	}
	if err := b.s.Delete(m.Content); !errors.Is(err, ErrAbsent) {
		t.Fatalf("second delete: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(b.s.cfg.Dir, m.Content.Hex()+"*")); len(left) > 0 {
		t.Fatalf("left %v", left)
	}
	// An import over a half-fetched asset completes it.
	if err := b.s.Put(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	if _, err := b.s.Import(context.Background(), bytes.NewReader(want), 1<<30); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, b.s, m.Content); !bytes.Equal(got, want) {
		t.Fatal("content differs")
	}
}

// TestCloseDuringPut: an asset whose record cannot be written, and a Close that has begun, do not wait for each other.
func TestCloseDuringPut(t *testing.T) {
	b := newBench(t)
	_, m := content(t)
	f, err := os.Create(b.s.path(m.Content, ".blob"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // no checkpoint can sync it
	e := newEntry(m, f)
	e.mu.Lock() // both come this far
	adopted, closed := make(chan error, 1), make(chan error, 1)
	go func() { adopted <- b.s.adopt(m.Content, e) }()
	for in := false; !in; runtime.Gosched() {
		_, err := b.s.entry(m.Content)
		in = err == nil
	}
	go func() { closed <- b.s.Close() }()
	for b.s.mu.TryLock() {
		b.s.mu.Unlock()
		runtime.Gosched()
	}
	e.mu.Unlock()
	if err := <-adopted; err == nil {
		t.Error("an asset without a record was taken in")
	}
	<-closed
	if left := b.s.List(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
