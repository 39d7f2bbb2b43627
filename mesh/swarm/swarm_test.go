package swarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/storage/state"
)

// content has 20 chunks; chunks 1 to 4 compress, the last one is short.
func content(t testing.TB) ([]byte, *chunk.Manifest) {
	t.Helper()
	b := make([]byte, 19*chunk.Size+100)
	rand.NewChaCha8([32]byte{2}).Read(b)
	for i := chunk.Size; i < 5*chunk.Size; i++ {
		b[i] = byte(i >> 16)
	}
	m, err := chunk.ScanManifest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return b, m
}

// mem is a Store in memory. It checks what it is given, as storage/blob does, and gives out what it is told to.
type mem struct {
	m     *chunk.Manifest
	b     []byte
	have  []byte
	holes map[int]bool // chunks that ReadChunk does not have
	rot   map[int]bool // chunks that it gives wrongly
	full  error        // of Put and WriteChunk
	puts  int
	chunk int // written
}

var errAbsent = errors.New("absent")

func newMem(m *chunk.Manifest, b []byte) *mem {
	s := &mem{m: m, b: b}
	if m != nil {
		s.have = bytes.Repeat([]byte{0xff}, (len(m.Chunks)+7)/8)
	}
	return s
}

func (s *mem) Manifest(d intent.Digest) (*chunk.Manifest, error) {
	if s.m == nil || d != s.m.Content {
		return nil, errAbsent
	}
	return s.m, nil
}

func (s *mem) ReadChunk(_ intent.Digest, i int, buf []byte) ([]byte, error) {
	off, n := s.m.ChunkRange(i)
	if s.holes[i] {
		return nil, errAbsent
	}
	copy(buf, s.b[off:off+int64(n)])
	if s.rot[i] {
		buf[0] ^= 1
	}
	return buf[:n], nil
}

func (s *mem) Have(intent.Digest) ([]byte, bool, error) {
	first, _ := missing(s.have, len(s.m.Chunks))
	return s.have, first == len(s.m.Chunks), nil
}

func (s *mem) Put(_ context.Context, m *chunk.Manifest) error {
	s.puts++
	s.m, s.b, s.have = m, make([]byte, m.Size), make([]byte, (len(m.Chunks)+7)/8)
	return s.full
}

func (s *mem) WriteChunk(_ intent.Digest, i int, b []byte) error {
	if !s.m.VerifyChunk(i, b) {
		return fmt.Errorf("chunk %d: %w", i, chunk.ErrBad)
	}
	s.chunk++
	if s.full != nil {
		return s.full
	}
	off, _ := s.m.ChunkRange(i)
	copy(s.b[off:], b)
	s.have[i/8] |= 0x80 >> (i % 8)
	return nil
}

var (
	_ Store = (*mem)(nil)
	_ Store = (*blob.Store)(nil)
)

// router sends every request to one test server, whatever the URL's host is.
type router string

func (r router) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Host = string(r)
	return http.DefaultTransport.RoundTrip(req)
}

func source(t *testing.T, name string, h http.Handler) Source {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return Source{Name: name, Tier: "peer", RT: router(srv.Listener.Addr().String())}
}

func served(t *testing.T, name string, s Store) Source {
	return source(t, name, NewHandler(s, slog.New(slog.DiscardHandler)))
}

// TestFetch: who gave each chunk, by the first letter of the name; '-' was there before.
func TestFetch(t *testing.T) {
	b, m := content(t)
	good := newMem(m, b)
	f := func(name string, have []byte, want string, sources ...Source) {
		t.Helper()
		sink := &mem{}
		if have != nil {
			sink = &mem{m: m, b: make([]byte, m.Size), have: bytes.Clone(have)}
			for i := range m.Chunks {
				if off, n := m.ChunkRange(i); have[i/8]&(0x80>>(i%8)) != 0 {
					copy(sink.b[off:], b[off:off+int64(n)])
				}
			}
		}
		by, last := []byte(strings.Repeat("-", len(m.Chunks))), 0
		err := Fetch(t.Context(), sink, m.Content, m.Digest(), sources, func(s Source, octets, have, chunks int) {
			by[have-1], last = s.Name[0], have
			if _, n := m.ChunkRange(have - 1); octets != n || chunks != len(m.Chunks) {
				t.Errorf("%s: progress says %d octets of chunk %d of %d", name, octets, have, chunks)
			}
		})
		if err != nil {
			t.Fatalf("%s: %v (at chunk %d)", name, err, last)
		}
		if d := cmp.Diff(want, string(by)); d != "" || !bytes.Equal(sink.b, b) {
			t.Fatalf("%s: -want +got\n%s same octets: %v", name, d, bytes.Equal(sink.b, b))
		}
	}
	all := strings.Repeat("a", 20)
	a, other := served(t, "a", good), served(t, "b", good)
	f("one source", nil, all, a)
	f("the first is enough", nil, all, a, other)
	f("resumed: only what is missing is asked for", []byte{0b11110000, 0xff, 0b01110000}, "----aaaa--------a---", a)
	f("nothing is missing", []byte{0xff, 0xff, 0xf0}, strings.Repeat("-", 20), Source{Name: "a", RT: router("127.0.0.1:1")})
	hole := newMem(m, b)
	hole.holes = map[int]bool{6: true}
	f("a hole: the rest comes from the next", nil, "aaaaaabbbbbbbbbbbbbb", served(t, "a", hole), other)
	rot := newMem(m, b)
	rot.rot = map[int]bool{3: true}
	f("a liar is left for the next, its good chunks stay", nil, "aaabbbbbbbbbbbbbbbbb", served(t, "a", rot), other)
	f("it has nothing", nil, strings.Repeat("b", 20), served(t, "a", &mem{}), other)
	f("it is dead", nil, strings.Repeat("b", 20), Source{Name: "a", RT: router("127.0.0.1:1")}, other)
}

// TestNobody: a fetch without sources says so.
func TestNobody(t *testing.T) {
	_, m := content(t)
	err := Fetch(t.Context(), &mem{}, m.Content, m.Digest(), nil, nil)
	if want := "cannot fetch " + m.Content.Short() + ": no source has it: 0 sources asked"; err == nil || err.Error() != want || !errors.Is(err, ErrSources) {
		t.Fatalf("%v, want %s", err, want)
	}
}

// TestBreaksOff: a source that dies within a chunk leaves what was whole, and the next one gives the rest.
func TestBreaksOff(t *testing.T) {
	b, m := content(t)
	inner := NewHandler(newMem(m, b), slog.New(slog.DiscardHandler))
	cut := source(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/chunks") {
			inner.ServeHTTP(&short{ResponseWriter: w, left: chunk.Size + chunk.Size/2}, r)
			panic(http.ErrAbortHandler) // the connection ends without the end of its answer
		}
		inner.ServeHTTP(w, r)
	}))
	by := map[string]int{}
	sink := &mem{}
	err := Fetch(t.Context(), sink, m.Content, m.Digest(), []Source{cut, served(t, "b", newMem(m, b))}, func(s Source, _, _, _ int) { by[s.Name]++ })
	if err != nil || !bytes.Equal(sink.b, b) || by["a"] == 0 || by["a"]+by["b"] != len(m.Chunks) {
		t.Fatalf("%v, chunks by %v", err, by)
	}
}

// short passes on only so many octets.
type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Write(b []byte) (int, error) {
	n := min(len(b), s.left)
	s.left -= n
	if _, err := s.ResponseWriter.Write(b[:n]); err != nil {
		return 0, err
	}
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// TestThreeStrikes: a liar is asked three times and no more; with nobody else the fetch ends.
func TestThreeStrikes(t *testing.T) {
	b, m := content(t)
	rot := newMem(m, b)
	rot.rot = map[int]bool{0: true}
	inner, asked := NewHandler(rot, slog.New(slog.DiscardHandler)), 0
	liar := source(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/chunks") {
			asked++
		}
		inner.ServeHTTP(w, r)
	}))
	err := Fetch(t.Context(), &mem{}, m.Content, m.Digest(), []Source{liar}, nil)
	if !errors.Is(err, ErrSources) || !errors.Is(err, ErrBadSource) || asked != strikes {
		t.Fatalf("%v after %d requests", err, asked)
	}
}

// TestFullDiskEnds: our own disk is full: asking other sources would waste their links.
func TestFullDiskEnds(t *testing.T) {
	b, m := content(t)
	full := fmt.Errorf("cannot store: %w", blob.ErrFull)
	for _, put := range []bool{true, false} {
		sink := &mem{full: full}
		if !put {
			sink = &mem{m: m, b: make([]byte, m.Size), have: make([]byte, 3), full: full}
		}
		a, asked := newMem(m, b), 0
		other := source(t, "b", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
		err := Fetch(t.Context(), sink, m.Content, m.Digest(), []Source{served(t, "a", a), other}, nil)
		if !errors.Is(err, blob.ErrFull) || errors.Is(err, ErrSources) || sink.chunk > 1 || asked != 0 {
			t.Fatalf("put %v: %v, %d writes, the second source was asked %d times", put, err, sink.chunk, asked)
		}
	}
}

// TestManifestMustBeTheSignedOne: another manifest of the same asset, of another asset, or none, is not stored.
func TestManifestMustBeTheSignedOne(t *testing.T) {
	b, m := content(t)
	evil := *m
	evil.Chunks = append([]intent.Digest(nil), m.Chunks...)
	evil.Chunks[3] = intent.DigestOf([]byte("evil"))
	f := func(name string, h http.Handler) {
		t.Helper()
		sink := &mem{}
		err := Fetch(t.Context(), sink, m.Content, m.Digest(), []Source{source(t, "a", h)}, nil)
		if !errors.Is(err, ErrSources) || sink.puts != 0 {
			t.Fatalf("%s: %v, %d manifests stored", name, err, sink.puts)
		}
		if err := Fetch(t.Context(), sink, m.Content, m.Digest(), []Source{source(t, "a", h), served(t, "b", newMem(m, b))}, nil); err != nil {
			t.Fatalf("%s, and a good one behind it: %v", name, err)
		}
	}
	f("another list of chunks", NewHandler(newMem(&evil, b), slog.New(slog.DiscardHandler)))
	f("no manifest", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>captive portal</html>") }))
	f("endless", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 40 { // 40 MiB, more than any manifest
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	small := make([]byte, 10)
	sm, err := chunk.ScanManifest(bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	inner := NewHandler(newMem(sm, small), slog.New(slog.DiscardHandler))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, m.Content.Hex(), sm.Content.Hex(), 1)
		inner.ServeHTTP(w, r)
	})
	err = Fetch(t.Context(), &mem{}, m.Content, sm.Digest(), []Source{source(t, "a", h)}, nil)
	if !errors.Is(err, ErrBadSource) {
		t.Fatalf("of another asset: %v", err)
	}
}

// TestBlobStores: two real stores over HTTP; what arrived survives a restart and is not asked for again.
func TestBlobStores(t *testing.T) {
	b, m := content(t)
	from, _ := openBlob(t, t.TempDir())
	if _, err := from.Import(t.Context(), bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	to, closeTo := openBlob(t, dir)
	stop, cancel := context.WithCancel(t.Context())
	got := 0
	err := Fetch(stop, to, m.Content, m.Digest(), []Source{served(t, "a", from)}, func(Source, int, int, int) {
		if got++; got == 7 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("a canceled fetch: %v", err)
	}
	if _, err := to.Open(m.Content); !errors.Is(err, blob.ErrPending) {
		t.Fatalf("half an asset is open: %v", err)
	}
	closeTo()
	to, _ = openBlob(t, dir)
	if err := Fetch(t.Context(), to, m.Content, m.Digest(), []Source{served(t, "a", from)}, func(Source, int, int, int) { got++ }); err != nil {
		t.Fatal(err)
	}
	f, err := to.Open(m.Content)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	have, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(have, b) || got != len(m.Chunks) {
		t.Fatalf("%v, same octets %v, %d chunks came for %d", err, bytes.Equal(have, b), got, len(m.Chunks))
	}
}

func openBlob(t *testing.T, dir string) (*blob.Store, func()) {
	t.Helper()
	free := func(string) (uint64, uint64, error) { return 100 << 30, 200 << 30, nil }
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: filepath.Join(dir, "state"), Key: make([]byte, 32), Logger: log, Statfs: free})
	if err != nil {
		t.Fatal(err)
	}
	s, err := blob.Open(blob.Config{Dir: filepath.Join(dir, "assets"), State: db, Logger: log, Statfs: free})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	end := func() {
		if closed {
			return
		}
		closed = true
		if err := errors.Join(s.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(end)
	return s, end
}

// silent never answers; when begun is set it answers the headers and is silent then.
type silent struct{ begun bool }

func (s silent) RoundTrip(r *http.Request) (*http.Response, error) {
	if s.begun {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(waiting{r.Context()})}, nil
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

type waiting struct{ ctx context.Context }

func (w waiting) Read([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}

// TestSilence: whoever sends nothing for 15 s is left, be it before or after its headers, for a manifest or for chunks.
func TestSilence(t *testing.T) {
	_, m := content(t)
	for _, begun := range []bool{false, true} {
		for name, sink := range map[string]*mem{"manifest": {}, "chunks": {m: m, b: make([]byte, m.Size), have: make([]byte, 3)}} {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := Fetch(t.Context(), sink, m.Content, m.Digest(), []Source{{Name: "a", RT: silent{begun}}}, nil)
				if !errors.Is(err, ErrSources) || time.Since(start) != silence {
					t.Fatalf("%s, headers sent %v: %v after %v", name, begun, err, time.Since(start))
				}
			})
		}
	}
}

// thin is a source over a thin line: each second some octets come.
type thin struct {
	h      http.Handler
	octets int
}

func (l thin) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	l.h.ServeHTTP(w, r)
	res := w.Result()
	res.Body = io.NopCloser(&trickle{r.Context(), res.Body, l.octets})
	return res, nil
}

type trickle struct {
	ctx    context.Context
	r      io.Reader
	octets int
}

func (t *trickle) Read(b []byte) (int, error) {
	time.Sleep(time.Second)
	if t.ctx.Err() != nil {
		return 0, t.ctx.Err()
	}
	return t.r.Read(b[:min(len(b), t.octets)])
}

// TestThinLine: a chunk may take minutes, as long as something comes; who drips is left.
func TestThinLine(t *testing.T) {
	b := make([]byte, chunk.Size+100)
	rand.NewChaCha8([32]byte{3}).Read(b)
	m, err := chunk.ScanManifest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for octets, want := range map[int]error{4 << 10: nil, 1: ErrSources} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			sink := &mem{}
			err := Fetch(t.Context(), sink, m.Content, m.Digest(), []Source{{Name: "a", RT: thin{NewHandler(newMem(m, b), slog.New(slog.DiscardHandler)), octets}}}, nil)
			if !errors.Is(err, want) || want == nil && !bytes.Equal(sink.b, b) || time.Since(start) > 2*chunkWait {
				t.Errorf("%d octets a second: %v after %v", octets, err, time.Since(start))
			}
		})
	}
}

func TestHandlerRefuses(t *testing.T) {
	b, m := content(t)
	h := NewHandler(newMem(m, b), slog.New(slog.DiscardHandler))
	f := func(method, path string, want int) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != want {
			t.Fatalf("%s %s: %d, want %d", method, path, w.Code, want)
		}
	}
	p := "/m/1/assets/" + m.Content.Hex()
	f("GET", p+"/manifest", 200)
	f("GET", p+"/chunks?first=19&n=5", 200)
	f("GET", p+"/chunks?first=20&n=1", 400)
	f("GET", p+"/chunks?first=-1&n=1", 400)
	f("GET", p+"/chunks?first=0&n=9", 400)
	f("GET", p+"/chunks?first=0&n=0", 400)
	f("GET", p+"/chunks?first=99999999999999999999&n=1", 400)
	f("GET", p+"/chunks", 400)
	f("GET", p, 404)
	f("POST", p+"/manifest", 405)
	f("GET", "/m/1/assets/"+intent.DigestOf(nil).Hex()+"/manifest", 404)
	f("GET", "/m/1/assets/zz/manifest", 400)
}

// FuzzReadFrame: whatever a source sends, what comes out is no longer than the chunk, and nothing panics.
func FuzzReadFrame(f *testing.F) {
	raw := []byte(strings.Repeat("skerry", 100))
	m, err := chunk.ScanManifest(bytes.NewReader(raw))
	if err != nil {
		f.Fatal(err)
	}
	c, err := chunk.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	var b bytes.Buffer
	if err := writeFrame(&b, c, 0, raw); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	plain := append([]byte{typeData, 0, 0, 0, 0, 0, 2, 0x68, 0, 0, 0, 0, 0, 0, 0, 0, encRaw, 0, 0, 0, 0, 0, 2, 0x58}, raw...)
	f.Add(plain)
	f.Add(plain[:100])
	f.Add(append([]byte{typeData, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, plain[8:]...))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := readFrame(bytes.NewReader(in), c, m, 0)
		if err == nil && len(got) > len(raw) {
			t.Fatalf("%d octets for a chunk of %d", len(got), len(raw))
		}
	})
}
