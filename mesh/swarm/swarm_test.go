package swarm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
)

func asset(t testing.TB) ([]byte, *intent.Manifest) {
	t.Helper()
	b := make([]byte, 19*intent.ChunkSize+100)
	rand.NewChaCha8([32]byte{2}).Read(b)
	clear(b[intent.ChunkSize : 5*intent.ChunkSize])
	m, err := intent.ScanManifest(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return b, m
}

// mem is a Store and the sink of a fetch.
type mem struct {
	m     *intent.Manifest
	b     []byte
	holes map[int]bool // chunks that ReadChunk does not have
	rot   map[int]bool // chunks that it gives wrongly
}

func (s *mem) Manifest(d intent.Digest) (*intent.Manifest, error) {
	if d != s.m.Content {
		return nil, errors.New("absent")
	}
	return s.m, nil
}

func (s *mem) ReadChunk(_ intent.Digest, i int, buf []byte) ([]byte, error) {
	off, n := s.m.ChunkRange(i)
	if s.holes[i] {
		return nil, errors.New("absent")
	}
	copy(buf, s.b[off:off+int64(n)])
	if s.rot[i] {
		buf[0] ^= 1
	}
	return buf[:n], nil
}

func (s *mem) write(i int, b []byte) error {
	if !s.m.VerifyChunk(i, b) {
		return fmt.Errorf("chunk %d: %w", i, chunk.ErrBad)
	}
	off, _ := s.m.ChunkRange(i)
	copy(s.b[off:], b)
	return nil
}

func codec(t testing.TB) *chunk.Codec {
	t.Helper()
	c, err := chunk.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func source(t *testing.T, name string, s Store, wan bool) Source {
	c := codec(t)
	srv := httptest.NewServer(NewHandler(s, c, slog.New(slog.DiscardHandler)))
	t.Cleanup(srv.Close)
	return &HTTPSource{PeerName: name, Base: srv.URL, Via: http.DefaultTransport, Codec: c, WAN: wan}
}

// fetchAll runs a fetch and returns who gave each chunk, and the strikes.
func fetchAll(t *testing.T, m *intent.Manifest, have []byte, sources ...Source) (by map[int]string, strikes []string, got []byte, err error) {
	t.Helper()
	sink := &mem{m: m, b: make([]byte, m.Size)}
	by = map[int]string{}
	err = Fetch(context.Background(), Job{Manifest: m, Have: have, Sources: sources, Write: sink.write,
		Progress: func(p Progress) { by[p.Chunk] = p.Source },
		Strike:   func(s string, i int) { strikes = append(strikes, fmt.Sprint(s, " ", i)) }})
	return by, strikes, sink.b, err
}

func TestFetch(t *testing.T) {
	b, m := asset(t)
	good := &mem{m: m, b: b}
	f := func(name string, have []byte, want string, wantStrikes []string, sources ...Source) {
		t.Helper()
		by, strikes, got, err := fetchAll(t, m, have, sources...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var s strings.Builder
		for i := range m.Chunks {
			if by[i] == "" {
				s.WriteByte('-')
				off, n := m.ChunkRange(i)
				copy(got[off:], b[off:off+int64(n)])
			} else {
				s.WriteString(by[i][:1])
			}
		}
		if s.String() != want || !bytes.Equal(got, b) {
			t.Fatalf("%s: chunks by %s, want %s", name, s.String(), want)
		}
		if d := cmp.Diff(wantStrikes, strikes); d != "" {
			t.Fatalf("%s: strikes %s", name, d)
		}
	}
	all := strings.Repeat("a", 20)
	f("one", nil, all, nil, source(t, "a", good, false))
	f("compressed", nil, all, nil, source(t, "a", good, true))
	f("the first is enough", nil, all, nil, source(t, "a", good, false), source(t, "b", good, false))
	f("only what is missing", []byte{0b11110000, 0xff, 0b01110000}, "----aaaa--------a---", nil, source(t, "a", good, false))
	f("nothing missing", []byte{0xff, 0xff, 0xf0}, strings.Repeat("-", 20), nil)
	hole := &mem{m: m, b: b, holes: map[int]bool{6: true}}
	f("a hole", nil, "aaaaaabbbbbbbbbbbbbb", nil, source(t, "a", hole, false), source(t, "b", good, false))
	rot := &mem{m: m, b: b, rot: map[int]bool{0: true}}
	f("a bad chunk", nil, "bbbbbbbbbbbbbbbbbbbb", []string{"a 0"}, source(t, "a", rot, false), source(t, "b", good, false))
	f("absent", nil, strings.Repeat("b", 20), nil, source(t, "a", &mem{m: &intent.Manifest{}}, false), source(t, "b", good, false))
	dead := &HTTPSource{PeerName: "a", Base: "http://127.0.0.1:1", Via: http.DefaultTransport, Codec: codec(t)}
	f("dead", nil, strings.Repeat("b", 20), nil, dead, source(t, "b", good, false))
}

// TestThreeStrikes: a liar is left after three bad chunks, and a fetch with nobody else ends.
func TestThreeStrikes(t *testing.T) {
	b, m := asset(t)
	rot := &mem{m: m, b: b, rot: map[int]bool{0: true}}
	_, strikes, _, err := fetchAll(t, m, nil, source(t, "a", rot, false))
	if !errors.Is(err, ErrNoSource) || !errors.Is(err, chunk.ErrBad) || len(strikes) != 3 {
		t.Fatalf("%v, strikes %v", err, strikes)
	}
}

// TestWriteErrorEnds: a full disk ends the fetch at once; asking on would waste the WAN.
func TestWriteErrorEnds(t *testing.T) {
	b, m := asset(t)
	full := errors.New("no space")
	n := 0
	err := Fetch(context.Background(), Job{Manifest: m, Sources: []Source{source(t, "a", &mem{m: m, b: b}, false)},
		Write: func(int, []byte) error { n++; return full }})
	if !errors.Is(err, full) || n != 1 {
		t.Fatalf("%v after %d writes", err, n)
	}
}

func TestManifestMustBeTheSignedOne(t *testing.T) {
	b, m := asset(t)
	other := *m
	other.Chunks = append([]intent.Digest(nil), m.Chunks...)
	other.Chunks[3] = intent.DigestOf([]byte("evil"))
	liar, good := source(t, "a", &mem{m: &other, b: b}, false), source(t, "b", &mem{m: m, b: b}, false)
	got, err := CheckManifest(context.Background(), m.Content, m.Digest(), []Source{liar, good})
	if err != nil || got.Digest() != m.Digest() {
		t.Fatal(err)
	}
	if _, err := CheckManifest(context.Background(), m.Content, m.Digest(), []Source{liar}); !errors.Is(err, ErrNoSource) {
		t.Fatalf("a liar alone: %v", err)
	}
}

// silent never answers.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestSilence: whoever sends nothing for five seconds is left for the next source.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m := asset(t)
		s := &HTTPSource{PeerName: "a", Base: "http://a", Via: silent{}}
		start := time.Now()
		err := s.Chunks(context.Background(), m, 0, 1, nil)
		if err == nil || time.Since(start) != idleLimit {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
	})
}

func TestHandlerRefuses(t *testing.T) {
	b, m := asset(t)
	h := NewHandler(&mem{m: m, b: b}, codec(t), slog.New(slog.DiscardHandler))
	f := func(method, path string, want int) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != want {
			t.Fatalf("%s %s: %d, want %d", method, path, w.Code, want)
		}
	}
	p := pathPrefix + m.Content.Hex()
	f("GET", p+"/manifest", 200)
	f("GET", p+"/chunks?first=19&n=5", 200)
	f("GET", p+"/chunks?first=20&n=1", 400)
	f("GET", p+"/chunks?first=-1&n=1", 400)
	f("GET", p+"/chunks?first=0&n=65", 400)
	f("GET", p+"/chunks?first=0&n=0", 400)
	f("GET", p+"/chunks", 400)
	f("GET", p+"/other", 404)
	f("GET", p, 404)
	f("POST", p+"/manifest", 404)
	f("GET", pathPrefix+intent.DigestOf(nil).Hex()+"/manifest", 404)
	f("GET", pathPrefix+"zz/manifest", 404)
	f("GET", "/other", 404)
}

// TestBusy: the seventeenth stream at once is told to come back.
func TestBusy(t *testing.T) {
	b, m := asset(t)
	h := NewHandler(&mem{m: m, b: b}, codec(t), slog.New(slog.DiscardHandler))
	for range maxReads {
		h.gate <- struct{}{}
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	s := &HTTPSource{PeerName: "a", Base: srv.URL, Via: http.DefaultTransport, Codec: codec(t)}
	if err := s.Chunks(context.Background(), m, 0, 1, nil); !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
}

func FuzzFrames(f *testing.F) {
	m, err := intent.ScanManifest(strings.NewReader(strings.Repeat("skerry", 100)))
	if err != nil {
		f.Fatal(err)
	}
	c := codec(f)
	var b bytes.Buffer
	if err := writeData(&b, c, 0, []byte(strings.Repeat("skerry", 100)), true); err != nil {
		f.Fatal(err)
	}
	if err := writeEnd(&b, statusOK); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{99, flagSkip, 0, 0, 0, 0, 0, 1, 7, frameEnd, 0, 0, 0, 0, 0, 0, endLen, 0, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		_ = readFrames(bytes.NewReader(in), c, m, 0, 1, func(i int, b []byte) error {
			if i != 0 || len(b) != 600 {
				t.Fatalf("chunk %d of %d octets", i, len(b))
			}
			return nil
		})
	})
}
