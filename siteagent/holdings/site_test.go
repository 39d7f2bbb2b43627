package holdings

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
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/mesh/chunk"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/siteagent/claim"
	"github.com/skerry-metal/skerry/storage/blob"
	"github.com/skerry-metal/skerry/storage/state"
)

// unit is how many octets of a test's disk one octet of an asset takes: 64 KiB are 1 GiB.
const unit = 1 << 14

// site is some agents with real stores, whose words go by calls.
type site struct {
	t     *testing.T
	nodes []*node

	mu      sync.Mutex // guards what follows
	content map[intent.Digest][]byte
	intent  Intent
	wan     []string
	wake    chan struct{}
	cut     map[[2]string]bool // who does not hear whom, both ways
	since   map[[2]string]time.Time
	events  map[string][]string           // messages by kind
	onEvent func(n *node, message string) // of an eviction; set before anything runs
}

type node struct {
	*Keeper
	s     *site
	name  string
	dir   string
	total uint64 // of its disk
	other uint64 // octets that something else takes
	sure  bool
	bad   bool   // gives wrong octets
	wait  waiter // for chunks that are being fetched
}

func newSite(t *testing.T, disk uint64, names ...string) *site {
	t.Helper()
	s := &site{t: t, content: map[intent.Digest][]byte{}, wake: make(chan struct{}), events: map[string][]string{}, cut: map[[2]string]bool{}, since: map[[2]string]time.Time{}}
	log := slog.New(slog.DiscardHandler)
	for _, name := range names {
		n := &node{s: s, name: name, dir: filepath.Join(t.TempDir(), name), total: disk, sure: true}
		db, err := state.Open(state.Config{Dir: filepath.Join(n.dir, "state"), Key: make([]byte, 32), Logger: log, UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1})
		if err != nil {
			t.Fatal(err)
		}
		blobs, err := blob.Open(blob.Config{Dir: filepath.Join(n.dir, "assets"), State: db, Logger: log, Statfs: n.statfs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(blobs.Close(), db.Close()); err != nil {
				t.Error(err)
			}
		})
		n.Keeper = New(Config{
			Self: name, Blobs: blobs, Log: log, Fetch: n.fetch, Reader: n.reader, Urgent: func(a *intent.AssetSpec) bool { return a.Class == classBoot }, Came: func(intent.Digest) map[string]int64 { return nil }, Forget: func(func(intent.Digest) bool) {},
			Intent: s.now, Members: n.members, WAN: func() []string { s.mu.Lock(); defer s.mu.Unlock(); return s.wan }, Sure: func() bool { s.mu.Lock(); defer s.mu.Unlock(); return n.sure },
			Peers: Remote(func(agent string) http.RoundTripper { return wire{n, agent} }),
			Event: func(kind, message string, _ map[string]string) error {
				s.mu.Lock()
				s.events[kind] = append(s.events[kind], message)
				s.mu.Unlock()
				if s.onEvent != nil && kind == "asset.evicted" {
					s.onEvent(n, message)
				}
				return nil
			},
		})
		s.nodes = append(s.nodes, n)
	}
	return s
}

// waiter is a Reader that asks a test.
type waiter func(ctx context.Context, i int) error

// Wait implements Reader.
func (w waiter) Wait(ctx context.Context, i int) error { return w(ctx, i) }

// Close implements Reader.
func (w waiter) Close() {}

func (n *node) reader(intent.Digest) Reader { return n.wait }

// statfs counts what is allocated, times unit.
func (n *node) statfs(dir string) (free, total uint64, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.blob"))
	n.s.mu.Lock()
	used := n.other
	n.s.mu.Unlock()
	for _, f := range files {
		if fi, err := os.Stat(f); err == nil {
			used += uint64(fi.Sys().(*syscall.Stat_t).Blocks) * 512 * unit
		}
	}
	return n.total - min(used, n.total), n.total, err
}

func (s *site) now() Intent {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.intent
	in.Wake = s.wake
	return in
}

// told returns the messages of the events of a kind, of all agents.
func (s *site) told(kind string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events[kind])
}

// want publishes the next intent.
func (s *site) want(specs ...*intent.AssetSpec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intent = Intent{Head: headAt(s.intent.Head.Seq + 1), Wanted: specs}
	close(s.wake)
	s.wake = make(chan struct{})
}

// upload makes an asset of kib KiB.
func (s *site) upload(seed, kib int, class string) *intent.AssetSpec {
	s.t.Helper()
	b := make([]byte, kib<<10)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	m, err := chunk.ScanManifest(bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content[m.Content] = b
	return &intent.AssetSpec{Digest: m.Content, Size: m.Size, Manifest: m.Digest(), Class: class}
}

// fetch is a swarm that has everything.
func (n *node) fetch(ctx context.Context, a *intent.AssetSpec, _ bool) (map[string]int64, error) {
	n.s.mu.Lock()
	b := n.s.content[a.Digest]
	n.s.mu.Unlock()
	if b == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	m, err := chunk.ScanManifest(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if err := n.cfg.Blobs.Put(ctx, m); err != nil {
		return nil, err
	}
	for i := range m.Chunks {
		off, size := m.ChunkRange(i)
		if err := n.cfg.Blobs.WriteChunk(a.Digest, i, b[off:off+int64(size)]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// hurt writes over some octets of an asset on the node's disk.
func (n *node) hurt(x *intent.AssetSpec) {
	n.s.t.Helper()
	f, err := os.OpenFile(filepath.Join(n.dir, "assets", x.Digest.Hex()+".blob"), os.O_RDWR, 0)
	if err != nil {
		n.s.t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("rot"), 1000); err != nil {
		n.s.t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		n.s.t.Fatal(err)
	}
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// hears tells whether two agents hear each other.
func (s *site) hears(a, b string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.cut[pair(a, b)]
}

func (s *site) setCut(a, b string, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := pair(a, b); s.cut[p] != cut {
		s.cut[p], s.since[p] = cut, time.Now()
	}
}

func (n *node) members() (out []claim.Member) {
	for _, o := range n.s.nodes {
		n.s.mu.Lock()
		p := pair(n.name, o.name)
		out = append(out, claim.Member{ID: o.name, Alive: o == n || !n.s.cut[p], Since: n.s.since[p]})
		n.s.mu.Unlock()
	}
	return out
}

// wire asks another node's handler.
type wire struct {
	from *node
	to   string
}

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(time.Millisecond) // of the bubble's clock
	if !w.from.s.hears(w.from.name, w.to) {
		return nil, errors.New("no answer")
	}
	o := w.from.s.node(w.to)
	rec := httptest.NewRecorder()
	o.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		for _, i := range o.cfg.Blobs.List() { // as mesh/swarm serves it
			if r.URL.Path == "/m/1/assets/"+i.Digest.Hex()+"/manifest" {
				m, err := o.cfg.Blobs.Manifest(i.Digest)
				if err == nil {
					_, _ = rw.Write(m.Encode())
				}
				return
			}
		}
		http.NotFound(rw, r)
	})).ServeHTTP(rec, r)
	res := rec.Result()
	if o.bad {
		b, err := io.ReadAll(res.Body)
		if err != nil {
			return nil, err
		}
		b[0] ^= 1
		res.Body = io.NopCloser(bytes.NewReader(b))
	}
	return res, nil
}

func (s *site) node(name string) *node {
	return s.nodes[slices.IndexFunc(s.nodes, func(n *node) bool { return n.name == name })]
}

// run runs every keeper until the test ends.
func (s *site) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, n := range s.nodes {
		wg.Go(func() {
			if err := n.Run(ctx); err != nil {
				s.t.Error(err)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// owners names who has all of an asset on disk.
func (s *site) owners(a *intent.AssetSpec) (out []string) {
	for _, n := range s.nodes {
		if n.here(a.Digest) {
			out = append(out, n.name)
		}
	}
	return out
}

func (s *site) wantOwners(what string, a *intent.AssetSpec, want ...string) {
	s.t.Helper()
	slices.Sort(want)
	if got := s.owners(a); !slices.Equal(got, want) {
		s.t.Fatalf("%s: on %v, want %v", what, got, want)
	}
}

func (s *site) names() (out []string) {
	for _, n := range s.nodes {
		out = append(out, n.name)
	}
	return out
}

func (s *site) String() string {
	out := ""
	for _, n := range s.nodes {
		sp, _ := n.cfg.Blobs.Space()
		out += fmt.Sprintf("%s: %d of %d GiB free\n", n.name, sp.Free>>30, sp.Total>>30)
		for _, i := range n.cfg.Blobs.List() {
			out += fmt.Sprintf("  %s %d of %d octets, left %d, used %v\n", i.Digest.Short(), i.Octets, i.Size, i.Left.Seq, i.LastUsed.Unix())
		}
	}
	return out
}
