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
	"sync"
	"sync/atomic"
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
	mu    sync.Mutex // guards what follows
	m     *chunk.Manifest
	b     []byte
	have  []byte
	holes map[int]bool // chunks that ReadChunk does not have
	rot   map[int]bool // chunks that it gives wrongly
	full  error        // of Put and WriteChunk
	slow  time.Duration
	puts  int
	chunk int // written
}

var errAbsent = errors.New("absent")

func newMem(m *chunk.Manifest, b []byte) *mem {
	s := &mem{m: m, b: b}
	if m != nil {
		s.have = full(len(m.Chunks))
	}
	return s
}

func (s *mem) Manifest(d intent.Digest) (*chunk.Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil || d != s.m.Content {
		return nil, errAbsent
	}
	return s.m, nil
}

func (s *mem) ReadChunk(_ intent.Digest, i int, buf []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.have), count(s.have) == len(s.m.Chunks), nil
}

func (s *mem) Put(_ context.Context, m *chunk.Manifest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	s.m, s.b, s.have = m, make([]byte, m.Size), make([]byte, (len(m.Chunks)+7)/8)
	return s.full
}

func (s *mem) WriteChunk(_ intent.Digest, i int, b []byte) error {
	time.Sleep(s.slow) // of a bubble, where it is not 0
	s.mu.Lock()
	defer s.mu.Unlock()
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
	return source(t, name, handlerOf(s))
}

// handlerOf serves a store whose agent fetches nothing.
func handlerOf(s Store) http.Handler {
	return New(Config{Store: s, Log: slog.New(slog.DiscardHandler)}).Handler()
}

// fetch is Fetch of an agent without a coordinator. It meets each source when the one before was asked, so that the first is asked first.
func fetch(ctx context.Context, store Store, d, manifest intent.Digest, sources []Source, p Progress) error {
	asked := make([]*once, len(sources))
	var known []Source
	for i, s := range sources {
		asked[i] = &once{rt: s.RT, first: make(chan struct{})}
		s.RT = asked[i]
		known = append(known, s)
	}
	peers := func() []Source {
		for i, a := range asked {
			select {
			case <-a.first:
			default:
				return known[:i+1]
			}
		}
		return known
	}
	_, err := New(Config{Self: "me", Store: store, Peers: peers, Log: slog.New(slog.DiscardHandler)}).Fetch(ctx, d, manifest, Wanted, p)
	return err
}

// once tells when a source was first asked for something, and answered or failed.
type once struct {
	rt    http.RoundTripper
	sync  sync.Once
	first chan struct{}
}

func (o *once) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := o.rt.RoundTrip(r)
	o.sync.Do(func() { close(o.first) })
	return res, err
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
		err := fetch(t.Context(), sink, m.Content, m.Digest(), sources, func(s Source, octets, have, chunks int) {
			by[have-1], last = s.Name[0], have
			if _, n := m.ChunkRange(have - 1); octets != n || chunks != len(m.Chunks) {
				t.Errorf("%s: progress says %d octets of chunk %d of %d", name, octets, have, chunks)
			}
		})
		if err != nil {
			t.Fatalf("%s: %v (at chunk %d)", name, err, last)
		}
		for i := range want {
			if want[i] == '?' && (by[i] == 'a' || by[i] == 'b') {
				by[i] = '?'
			}
		}
		if d := cmp.Diff(want, string(by)); d != "" || !bytes.Equal(sink.b, b) {
			t.Fatalf("%s: -want +got\n%s same octets: %v", name, d, bytes.Equal(sink.b, b))
		}
	}
	all := strings.Repeat("a", 20)
	a, other := served(t, "a", good), served(t, "b", good)
	f("one source", nil, all, a)
	f("two sources: the first has a run, both are asked then", nil, strings.Repeat("a", maxRun)+"????", a, other)
	f("resumed: only what is missing is asked for", []byte{0b11110000, 0xff, 0b01110000}, "----aaaa--------a---", a)
	f("nothing is missing", []byte{0xff, 0xff, 0xf0}, strings.Repeat("-", 20), Source{Name: "a", RT: router("127.0.0.1:1")})
	hole := newMem(m, b)
	hole.holes = map[int]bool{6: true}
	f("a hole: the next fills it", nil, "aaaaaab?????????????", served(t, "a", hole), other)
	rot := newMem(m, b)
	rot.rot = map[int]bool{3: true}
	f("a liar's bad chunk comes from the next, its good ones stay", nil, "aaab????????????????", served(t, "a", rot), other)
	f("it has nothing", nil, strings.Repeat("b", 20), served(t, "a", &mem{}), other)
	f("it is dead", nil, strings.Repeat("b", 20), Source{Name: "a", RT: router("127.0.0.1:1")}, other)
}

// TestNobody: a fetch without sources says so.
func TestNobody(t *testing.T) {
	_, m := content(t)
	err := fetch(t.Context(), &mem{}, m.Content, m.Digest(), nil, nil)
	if want := "cannot fetch " + m.Content.Short() + ": no source has it: 0 sources asked"; err == nil || err.Error() != want || !errors.Is(err, ErrSources) {
		t.Fatalf("%v, want %s", err, want)
	}
}

// TestBreaksOff: a source that dies within a chunk leaves what was whole, and the next one gives the rest.
func TestBreaksOff(t *testing.T) {
	b, m := content(t)
	inner := handlerOf(newMem(m, b))
	cut := source(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/chunks") {
			inner.ServeHTTP(&short{ResponseWriter: w, left: chunk.Size + chunk.Size/2}, r)
			panic(http.ErrAbortHandler) // the connection ends without the end of its answer
		}
		inner.ServeHTTP(w, r)
	}))
	by := map[string]int{}
	sink := &mem{}
	err := fetch(t.Context(), sink, m.Content, m.Digest(), []Source{cut, served(t, "b", newMem(m, b))}, func(s Source, _, _, _ int) { by[s.Name]++ })
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
	inner, asked := handlerOf(rot), 0
	liar := source(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/chunks") {
			asked++
		}
		inner.ServeHTTP(w, r)
	}))
	err := fetch(t.Context(), &mem{}, m.Content, m.Digest(), []Source{liar}, nil)
	if !errors.Is(err, ErrSources) || !errors.Is(err, ErrBadSource) || asked != strikes {
		t.Fatalf("%v after %d requests", err, asked)
	}
}

// TestSlowDisk: a disk that takes longer for a chunk than a peer may be silent is no silence of the peer: no answer is broken off.
func TestSlowDisk(t *testing.T) {
	b, m := content(t)
	synctest.Test(t, func(t *testing.T) {
		sink := &mem{m: m, b: make([]byte, m.Size), have: make([]byte, 3), slow: 2 * silence}
		inner, asked := New(Config{Store: newMem(m, b), Log: slog.New(slog.DiscardHandler)}).Handler(), atomic.Int64{}
		w := &wire{h: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/chunks") {
				asked.Add(1)
			}
			inner.ServeHTTP(w, r)
		})}
		s := New(Config{
			Self: "a", Store: sink, Log: slog.New(slog.DiscardHandler),
			Peers: func() []Source { return []Source{{Name: "b", Tier: TierPeer, RT: w}} },
		})
		if _, err := s.Fetch(t.Context(), m.Content, m.Digest(), Wanted, nil); err != nil {
			t.Fatal(err)
		}
		if n, want := asked.Load(), int64(len(m.Chunks)+maxRun-1)/maxRun; n != want {
			t.Errorf("asked %d times for %d runs", n, want)
		}
	})
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
		inner := handlerOf(a)
		other := source(t, "b", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/have") {
				asked++
			}
			inner.ServeHTTP(w, r)
		}))
		err := fetch(t.Context(), sink, m.Content, m.Digest(), []Source{served(t, "a", a), other}, nil)
		if !errors.Is(err, blob.ErrFull) || errors.Is(err, ErrSources) || sink.chunk > 1 || asked != 0 {
			t.Fatalf("put %v: %v, %d writes, the second source was asked %d times", put, err, sink.chunk, asked)
		}
	}
}

// TestFullDiskWastesNoLine: a chunk that could not be stored does not come again when it is tried again.
func TestFullDiskWastesNoLine(t *testing.T) {
	b, m := content(t)
	synctest.Test(t, func(t *testing.T) {
		sink := &mem{m: m, b: make([]byte, m.Size), have: make([]byte, 3), full: blob.ErrFull}
		w := &wire{h: handlerOf(newMem(m, b))}
		s := New(Config{Self: "a", Store: sink, Peers: func() []Source { return nil }, Origin: func() (Source, bool) { return Source{Name: "c", Tier: TierOrigin, RT: w}, true }})
		for range 20 {
			if _, err := s.Fetch(t.Context(), m.Content, m.Digest(), Wanted, nil); !errors.Is(err, blob.ErrFull) {
				t.Fatal(err)
			}
		}
		if n := w.sent.Load(); n > 3*chunk.Size { // of the run of eight some is on its way
			t.Errorf("%d octets came for one chunk", n)
		}
	})
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
		err := fetch(t.Context(), sink, m.Content, m.Digest(), []Source{source(t, "a", h)}, nil)
		if !errors.Is(err, ErrSources) || sink.puts != 0 {
			t.Fatalf("%s: %v, %d manifests stored", name, err, sink.puts)
		}
		if err := fetch(t.Context(), sink, m.Content, m.Digest(), []Source{source(t, "a", h), served(t, "b", newMem(m, b))}, nil); err != nil {
			t.Fatalf("%s, and a good one behind it: %v", name, err)
		}
	}
	f("another list of chunks", handlerOf(newMem(&evil, b)))
	f("no manifest", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>captive portal</html>") }))
	f("endless", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 40 { // 40 MiB, more than any manifest
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	lied, evilManifest := handlerOf(newMem(m, b)), handlerOf(newMem(&evil, b))
	f("another list, and words of the signed one", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/manifest") {
			evilManifest.ServeHTTP(w, r)
			return
		}
		lied.ServeHTTP(w, r)
	}))
	small := make([]byte, 10)
	sm, err := chunk.ScanManifest(bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	inner := handlerOf(newMem(sm, small))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, m.Content.Hex(), sm.Content.Hex(), 1)
		inner.ServeHTTP(w, r)
	})
	err = fetch(t.Context(), &mem{}, m.Content, sm.Digest(), []Source{source(t, "a", h)}, nil)
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
	err := fetch(stop, to, m.Content, m.Digest(), []Source{served(t, "a", from)}, func(Source, int, int, int) {
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
	if err := fetch(t.Context(), to, m.Content, m.Digest(), []Source{served(t, "a", from)}, func(Source, int, int, int) { got++ }); err != nil {
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

// afterWords is silent for all but words.
type afterWords struct {
	wire
	silent
}

func (s *afterWords) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/have") {
		return s.wire.RoundTrip(r)
	}
	return s.silent.RoundTrip(r)
}

// TestSilenceAfterWords: who says that it has all and gives nothing for 15 s is asked five times, and left alone.
func TestSilenceAfterWords(t *testing.T) {
	b, m := content(t)
	for _, begun := range []bool{false, true} {
		for name, sink := range map[string]*mem{"manifest": {}, "chunks": {m: m, b: make([]byte, m.Size), have: make([]byte, 3)}} {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := fetch(t.Context(), sink, m.Content, m.Digest(), []Source{{Name: "a", RT: &afterWords{wire{h: handlerOf(newMem(m, b))}, silent{begun}}}}, nil)
				if want := fails*silence + (fails-1)*restEmpty; !errors.Is(err, ErrSources) || time.Since(start).Round(time.Second) > want+2*lookAgain || time.Since(start) < want {
					t.Fatalf("%s, headers sent %v: %v after %v", name, begun, err, time.Since(start))
				}
			})
		}
	}
}

// TestSilence: whoever sends nothing for 15 s is left, be it before or after its headers, for a manifest or for chunks.
func TestSilence(t *testing.T) {
	_, m := content(t)
	for _, begun := range []bool{false, true} {
		for name, sink := range map[string]*mem{"manifest": {}, "chunks": {m: m, b: make([]byte, m.Size), have: make([]byte, 3)}} {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := fetch(t.Context(), sink, m.Content, m.Digest(), []Source{{Name: "a", RT: silent{begun}}}, nil)
				if !errors.Is(err, ErrSources) || time.Since(start) != silence {
					t.Fatalf("%s, headers sent %v: %v after %v", name, begun, err, time.Since(start))
				}
			})
		}
	}
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
			err := fetch(t.Context(), sink, m.Content, m.Digest(), []Source{{Name: "a", RT: &wire{h: handlerOf(newMem(m, b)), octets: octets}}}, nil)
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
	f("GET", p+"/chunks?first=0&n=17", 400)
	f("GET", p+"/chunks?first=0&n=0", 400)
	f("GET", p+"/chunks?first=99999999999999999999&n=1", 400)
	f("GET", p+"/chunks", 400)
	f("GET", p+"/chunks?first=19&n=1&skip=99", 200)
	f("GET", p+"/chunks?first=19&n=1&skip=100", 400)
	f("GET", p+"/chunks?first=0&n=1&skip=-1", 400)
	f("GET", p+"/chunks?first=0&n=1&skip=", 400)
	f("GET", p+"/chunks?first=0&n=1&skip=99999999999999999999", 400)
	f("GET", p+"/have", 404) // a coordinator has no words
	f("GET", p, 404)
	f("POST", p+"/manifest", 405)
	f("GET", "/m/1/assets/"+intent.DigestOf(nil).Hex()+"/manifest", 404)
	f("GET", "/m/1/assets/zz/manifest", 400)
}
