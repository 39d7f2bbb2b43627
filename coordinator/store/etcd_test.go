package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/test/sim/etcd"
)

func TestEtcdConfig(t *testing.T) {
	f := func(want string, cfg EtcdConfig) {
		t.Helper()
		_, err := OpenEtcd(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
	f("name its members, like --etcd-endpoints", EtcdConfig{})
	f("it is https://HOST:PORT", EtcdConfig{Endpoints: []string{"10.0.0.1:2379"}})
	f("plain http is for loopback only", EtcdConfig{Endpoints: []string{"http://10.0.0.1:2379"}})
	f("plain http is for loopback only", EtcdConfig{Endpoints: []string{"http://localhost.example:2379"}})
	f("give the three PEM files", EtcdConfig{Endpoints: []string{"https://10.0.0.1:2379"}, CA: "x"})
	f("cannot read CA of etcd", EtcdConfig{Endpoints: []string{"https://10.0.0.1:2379"}, CA: "/no/such", Cert: "x", Key: "x"})
	f("without blanks", EtcdConfig{Endpoints: []string{"http://127.0.0.1:1"}, Prefix: "a b"})
	f("without blanks", EtcdConfig{Endpoints: []string{"http://127.0.0.1:1"}, Prefix: "/"})
}

// A cluster with etcd's own limits is refused at the start, with what to do, and not at the first large commit.
func TestEtcdDefaultLimits(t *testing.T) {
	f := func(flags ...string) {
		t.Helper()
		c := etcd.New(t, 1, flags...)
		_, err := OpenEtcd(t.Context(), EtcdConfig{Endpoints: c.Endpoints()})
		if err == nil || !strings.Contains(err.Error(), "--max-txn-ops=4096 --max-request-bytes=4194304") {
			t.Errorf("with %v: %v", flags, err)
		}
	}
	f(etcd.Limits()[0])
	f(etcd.Limits()[1])
}

func TestEtcdFull(t *testing.T) {
	c := etcd.New(t, 1, append(etcd.Limits(), "--quota-backend-bytes=8000000")...)
	s := openEtcd(t, c, t.Name())
	defer s.Close()
	var err error
	for i := 0; err == nil && i < 20; i++ {
		_, err = s.Commit(t.Context(), Commit{Put: map[string][]byte{fmt.Sprint("k", i): make([]byte, 1<<20)}})
	}
	if !errors.Is(err, state.ErrFull) || !strings.Contains(err.Error(), "etcdctl alarm disarm") {
		t.Fatalf("a full etcd says %v", err)
	}
	if _, err := s.Get(t.Context(), "k0"); err != nil {
		t.Errorf("a full etcd does not read: %v", err)
	}
}

// proxy stands between a client and a member.
type proxy struct {
	ln     net.Listener
	drop   atomic.Bool // answers are lost: the connection breaks where the next one comes
	hold   atomic.Bool // what is sent stays on the way until release; the sender's connection breaks
	broken atomic.Int64
	echoes atomic.Int64 // answers that came to nobody

	mu    sync.Mutex // guards what follows
	kept  []func()
	conns []net.Conn
}

// release lets what was held arrive, and waits until each was answered.
func (p *proxy) release(t *testing.T) {
	t.Helper()
	p.hold.Store(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.kept) == 0 {
		t.Error("nothing was held: this test saw nothing")
	}
	for _, send := range p.kept {
		send()
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); p.echoes.Load() < int64(len(p.kept)); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d requests were answered", p.echoes.Load(), len(p.kept))
		}
	}
	<-time.After(500 * time.Millisecond) // the first answer may only say that the request came; a commit takes some 10 ms
	for _, c := range p.conns {
		_ = c.Close()
	}
}

func newProxy(t *testing.T, endpoint string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln}
	var g sync.WaitGroup
	g.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			g.Go(func() { p.serve(c, u.Host) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); g.Wait() })
	return p, "http://" + ln.Addr().String()
}

func (p *proxy) serve(c net.Conn, to string) {
	m, err := net.Dial("tcp", to)
	if err != nil {
		_ = c.Close()
		return
	}
	held := &atomic.Bool{}
	end := func() {
		_ = c.Close()
		if !held.Load() {
			_ = m.Close()
		}
	}
	var g sync.WaitGroup
	g.Go(func() { _, _ = io.Copy(&gate{m, p, held, true}, c); end() })
	g.Go(func() { _, _ = io.Copy(&gate{c, p, held, false}, m); _ = c.Close(); _ = m.Close() })
	g.Wait()
}

type gate struct {
	to   net.Conn
	p    *proxy
	held *atomic.Bool
	up   bool
}

func (g *gate) Write(b []byte) (int, error) {
	if g.up && g.p.hold.Load() {
		g.held.Store(true)
		late := bytes.Clone(b)
		g.p.mu.Lock()
		defer g.p.mu.Unlock()
		g.p.kept, g.p.conns = append(g.p.kept, func() { _, _ = g.to.Write(late) }), append(g.p.conns, g.to)
		return 0, net.ErrClosed
	}
	if !g.up && g.held.Load() {
		g.p.echoes.Add(1)
		return len(b), nil
	}
	if !g.up && g.p.drop.Load() {
		g.p.broken.Add(1)
		return 0, net.ErrClosed
	}
	return g.to.Write(b)
}

// chain is what appendTo wrote, checked: dense, each item once.
func chain(t *testing.T, s Store) map[string]int {
	t.Helper()
	seen, next := map[string]int{}, 1
	err := s.Range(t.Context(), "chain/", "", func(e Entry) error {
		if e.Key != fmt.Sprintf("chain/%06d", next) {
			return fmt.Errorf("%s stands where %d should", e.Key, next)
		}
		next++
		seen[string(e.Value)]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for item, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", item, n)
		}
	}
	return seen
}

// appendTo puts item behind the last one. Errors: as Commit.
func appendTo(ctx context.Context, s Store, item string) error {
	e, err := s.Get(ctx, "head")
	if err != nil && !errors.Is(err, ErrAbsent) {
		return err
	}
	n := 0
	fmt.Sscan(string(e.Value), &n)
	_, err = s.Commit(ctx, Commit{
		If:  []Guard{{"head", e.Rev}},
		Put: map[string][]byte{"head": fmt.Append(nil, n+1), fmt.Sprintf("chain/%06d", n+1): []byte(item)},
	})
	return err
}

// Answers get lost on the way: a commit that happened is reported as such, and never as a conflict with itself.
func TestEtcdLostAnswers(t *testing.T) {
	etcd.Need(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	c, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	p, url := newProxy(t, c.Endpoints()[0])
	s, err := OpenEtcd(t.Context(), EtcdConfig{Endpoints: []string{url}, Prefix: "/lost" + fmt.Sprint(seed)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const rounds = 12
	for i := range rounds {
		e, err := s.Get(t.Context(), "head")
		if err != nil && !errors.Is(err, ErrAbsent) {
			t.Fatal(err)
		}
		p.drop.Store(true)
		back := time.AfterFunc(time.Duration(rng.IntN(400))*time.Millisecond, func() { p.drop.Store(false) })
		rev, err := s.Commit(t.Context(), Commit{
			If:  []Guard{{"head", e.Rev}},
			Put: map[string][]byte{"head": fmt.Append(nil, i+1), fmt.Sprintf("chain/%06d", i+1): fmt.Append(nil, i)},
		})
		back.Stop()
		p.drop.Store(false)
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if e, err = s.Get(t.Context(), "head"); err != nil || e.Rev != rev {
			t.Fatalf("round %d: committed at %d, head is at %d, %v", i, rev, e.Rev, err)
		}
	}
	if n := len(chain(t, s)); n != rounds {
		t.Errorf("%d entries of %d", n, rounds)
	}
	if p.broken.Load() == 0 {
		t.Error("no answer was lost: this test saw nothing")
	}
	t.Logf("%d connections broke", p.broken.Load())
}

// A commit that stays on the way is given up, made by another way, and arrives after all: it changes nothing then.
func TestEtcdLateEcho(t *testing.T) {
	etcd.Need(t)
	c, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	p, url := newProxy(t, c.Endpoints()[0])
	prefix := "/late" + fmt.Sprint(time.Now().UnixNano())
	s, err := OpenEtcd(t.Context(), EtcdConfig{Endpoints: []string{url, c.Endpoints()[1]}, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p.hold.Store(true)
	for i := range 4 { // both ways are taken in turn
		if _, err := s.Commit(t.Context(), Commit{Put: map[string][]byte{"a": fmt.Append(nil, i)}}); err != nil {
			t.Fatal(err)
		}
	}
	p.release(t)
	raw, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, DialTimeout: tryLimit})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	r, err := raw.Get(t.Context(), strings.TrimSuffix(prefix, "/")+"/k/a")
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "3" || r.Kvs[0].Version != 4 {
		t.Fatalf("a = %v, %v; want 3, written 4 times", r, err)
	}
}

// A caller that loses a commit's outcome is told so, and the next commit of the store finds it settled.
func TestEtcdUnknown(t *testing.T) {
	etcd.Need(t)
	c := etcd.New(t, 1, etcd.Limits()...)
	s := openEtcd(t, c, t.Name())
	defer s.Close()
	put(t, s, Commit{Put: one("a", "1")})
	s.pending = "c-never-arrived" // as if its answer, and every try to settle it, had failed
	put(t, s, Commit{Put: one("a", "2")})
	if s.pending != "" {
		t.Error("still open")
	}
	c.Kill(0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Get(ctx, "a"); err == nil {
		t.Error("a dead cluster answers")
	}
	if err := c.Restart(0); err != nil {
		t.Fatal(err)
	}
	if e, err := s.Get(t.Context(), "a"); err != nil || string(e.Value) != "2" {
		t.Errorf("a = %s, %v", e.Value, err)
	}
}

// The watch goes on over a compaction that swallowed what it missed.
func TestEtcdCompaction(t *testing.T) {
	etcd.Need(t)
	c, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	s := openEtcd(t, c, t.Name())
	defer s.Close()
	rev := put(t, s, Commit{Put: one("a", "1")})
	for range 3 {
		rev = put(t, s, Commit{Put: one("a", "2")})
	}
	if _, err := s.c.Compact(t.Context(), int64(rev)); err != nil {
		t.Fatal(err)
	}
	if err := s.follow(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("a watch from before says %v", err)
	}
	other := openEtcd(t, c, t.Name())
	defer other.Close()
	next := put(t, other, Commit{Put: one("a", "3")})
	if got, err := s.Wait(t.Context(), next-1); err != nil || got < next {
		t.Errorf("Wait = %d, %v; want %d", got, err, next)
	}
	var changed []string
	if err := s.Changes(t.Context(), "", rev, func(e Entry) error { changed = append(changed, e.Key); return nil }); err != nil || len(changed) != 1 {
		t.Errorf("changes %v, %v", changed, err)
	}
}

// Two stores append while members die and are cut off: what was acknowledged is there once, in one line, and both watches
// saw the end of it.
func TestEtcdMembersDie(t *testing.T) {
	c := etcd.New(t, 3, etcd.Limits()...)
	stores := []*Etcd{openEtcd(t, c, t.Name()), openEtcd(t, c, t.Name())}
	const writers, phases, perPhase = 3, 6, 12 // writers for each store
	var acked, unknown atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var g sync.WaitGroup
	var mu sync.Mutex
	sure, maybe := map[string]bool{}, map[string]bool{}
	for i, s := range stores {
		for w := range writers {
			g.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					item := fmt.Sprintf("%d/%d/%d", i, w, n)
					err := appendTo(ctx, s, item)
					for errors.Is(err, ErrConflict) {
						err = appendTo(ctx, s, item)
					}
					mu.Lock()
					switch {
					case err == nil:
						sure[item] = true
						acked.Add(1)
					case errors.Is(err, ErrUnknown):
						maybe[item] = true
						unknown.Add(1)
					case ctx.Err() == nil:
						t.Logf("%s: %v", item, err) // nothing was written
					}
					mu.Unlock()
				}
			})
		}
	}
	for phase := range phases {
		target, before := acked.Load()+perPhase, stores[0]
		var err error
		switch phase {
		case 1:
			c.Kill(0)
		case 2:
			err = c.Restart(0)
		case 3:
			c.Cut(1, true)
		case 4:
			c.Cut(1, false)
		case 5:
			c.Kill(2)
		}
		if err != nil {
			t.Error(err)
		}
		began := time.Now()
		for rev := uint64(0); acked.Load() < target; {
			// A watchdog, no law: on two busy cores an election, a dead link and a redial have taken a minute.
			wctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
			rev, err = before.Wait(wctx, rev)
			cancel()
			if err != nil {
				t.Errorf("phase %d: the watch ended: %v", phase, err)
				break
			}
		}
		t.Logf("phase %d: %d appends in %s", phase, perPhase, time.Since(began).Round(time.Millisecond))
	}
	stop()
	g.Wait()
	seen := chain(t, stores[1])
	for item := range sure {
		if seen[item] != 1 {
			t.Errorf("%s was acknowledged and is not there", item)
		}
	}
	for item := range seen {
		if !sure[item] && !maybe[item] {
			t.Errorf("%s is there and was reported as not made", item)
		}
	}
	last := put(t, stores[0], Commit{Put: one("end", "")})
	for _, s := range stores {
		if rev, err := s.Wait(t.Context(), last-1); err != nil || rev != last {
			t.Errorf("a watch stands at %d, %v; want %d", rev, err, last)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d acknowledged, %d unknown", acked.Load(), unknown.Load())
}

// mTLS by files: members that ask for a client certificate, and a coordinator that shows one.
func TestEtcdTLS(t *testing.T) {
	etcd.Need(t)
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	etcd.Certify(t, ca, cert, key)
	c := etcd.New(t, 1, append(etcd.Limits(), "--client-cert-auth", "--trusted-ca-file", ca, "--cert-file", cert, "--key-file", key)...)
	s, err := OpenEtcd(t.Context(), EtcdConfig{Endpoints: c.Endpoints(), CA: ca, Cert: cert, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, Commit{Put: one("a", "1")})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
