package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skerry-metal/skerry/storage/state"
	"github.com/skerry-metal/skerry/test/sim/etcd"
)

// backends opens an empty store of every kind; a store can be opened again at the same place.
func backends() map[string]func(t *testing.T, dir string) Store {
	return map[string]func(t *testing.T, dir string) Store{
		"badger": func(t *testing.T, dir string) Store {
			t.Helper()
			db, err := state.Open(state.Config{Dir: filepath.Join(dir, "state"), Key: bytes.Repeat([]byte{7}, 32), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			s, err := OpenBadger(db)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		"etcd": func(t *testing.T, dir string) Store {
			t.Helper()
			etcd.Need(t)
			c, err := cluster()
			if err != nil {
				t.Fatal(err)
			}
			return openEtcd(t, c, dir)
		},
	}
}

// cluster is one of three members for all tests that do not harm it; TestMain ends it.
var cluster = sync.OnceValues(func() (*etcd.Cluster, error) {
	return etcd.Start(clusterDir, 3, etcd.Limits()...)
})

var clusterDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "skerry-etcd")
	if err != nil {
		panic(err)
	}
	clusterDir = dir
	code := m.Run()
	if _, err := exec.LookPath("etcd"); err == nil {
		if c, _ := cluster(); c != nil {
			c.Close()
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		code = 1
	}
	os.Exit(code)
}

// openEtcd opens a store below a prefix that stands for dir.
func openEtcd(t testing.TB, c *etcd.Cluster, dir string) *Etcd {
	t.Helper()
	s, err := OpenEtcd(t.Context(), EtcdConfig{Endpoints: c.Endpoints(), Prefix: fmt.Sprintf("/t%x", sha256.Sum256([]byte(dir)))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func each(t *testing.T, fn func(t *testing.T, s Store)) {
	for name, open := range backends() {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			fn(t, s)
		})
	}
}

func put(t *testing.T, s Store, c Commit) uint64 {
	t.Helper()
	rev, err := s.Commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func one(k, v string) map[string][]byte { return map[string][]byte{k: []byte(v)} }

func TestGuards(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		ctx := t.Context()
		if _, err := s.Get(ctx, "a"); !errors.Is(err, ErrAbsent) {
			t.Fatalf("an empty store says %v", err)
		}
		r1 := put(t, s, Commit{If: []Guard{{Key: "a"}}, Put: one("a", "1")})
		f := func(ok bool, c Commit) {
			t.Helper()
			before, errBefore := s.Get(ctx, "a")
			_, err := s.Commit(ctx, c)
			if ok != (err == nil) || (!ok && !errors.Is(err, ErrConflict)) {
				t.Fatalf("%+v: %v", c, err)
			}
			if after, errAfter := s.Get(ctx, "a"); !ok && (!cmp.Equal(before, after) || (errBefore == nil) != (errAfter == nil)) {
				t.Fatalf("%+v was refused and changed %+v to %+v", c, before, after)
			}
			if _, err := s.Get(ctx, "side"); !ok && !errors.Is(err, ErrAbsent) {
				t.Fatalf("%+v was refused and wrote beside: %v", c, err)
			}
		}
		f(false, Commit{If: []Guard{{Key: "a"}}, Put: one("side", "x")})
		f(false, Commit{If: []Guard{{Key: "a", Rev: r1 + 1}}, Put: one("side", "x"), Delete: []string{"a"}})
		f(false, Commit{If: []Guard{{Key: "a", Rev: r1}, {Key: "b", Rev: 1}}, Put: one("side", "x")})
		f(true, Commit{If: []Guard{{Key: "a", Rev: r1}, {Key: "b"}}, Put: one("a", "2")})
		f(false, Commit{If: []Guard{{Key: "a", Rev: r1}}, Put: one("a", "3")}) // the revision moved
		f(true, Commit{Delete: []string{"a", "never"}})
		f(true, Commit{If: []Guard{{Key: "a"}}, Put: one("a", "4")}) // gone is as good as never there
		e, err := s.Get(ctx, "a")
		if err != nil || string(e.Value) != "4" || e.Key != "a" {
			t.Fatalf("Get = %+v, %v", e, err)
		}
	})
}

func TestBadKeys(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		for _, k := range []string{"", strings.Repeat("k", maxKey+1)} {
			if _, err := s.Commit(t.Context(), Commit{Put: map[string][]byte{"good": nil, k: nil}}); err == nil {
				t.Errorf("a key of %d octets is taken", len(k))
			}
		}
		if _, err := s.Get(t.Context(), "good"); !errors.Is(err, ErrAbsent) {
			t.Errorf("half of a refused commit is there: %v", err)
		}
	})
}

func TestBounds(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		f := func(ok bool, c Commit) {
			t.Helper()
			if _, err := s.Commit(t.Context(), c); ok != (err == nil) {
				t.Errorf("%d puts, %d guards: %v", len(c.Put), len(c.If), err)
			}
		}
		many := Commit{Put: map[string][]byte{}}
		for i := range maxKeys {
			k := fmt.Sprintf("many/%05d", i)
			many.Put[k], many.If = []byte("v"), append(many.If, Guard{Key: k})
		}
		f(true, many) // all as new, in one
		big := Commit{Put: map[string][]byte{}}
		for i := range 4 {
			big.Put[fmt.Sprint("big/", i)] = make([]byte, maxCommit/4-10)
		}
		f(true, big)
		big.Put["big/more"] = make([]byte, 100)
		f(false, big)
		many.Put["one-more"], many.If = nil, nil
		f(false, many)
		f(false, Commit{Put: one("both", "x"), Delete: []string{"both"}})
		n := 0
		if err := s.Range(t.Context(), "many/", "", func(e Entry) error {
			if want := fmt.Sprintf("many/%05d", n); e.Key != want {
				return fmt.Errorf("%s stands where %s should", e.Key, want)
			}
			n++
			return nil
		}); err != nil || n != maxKeys {
			t.Errorf("%d keys, %v", n, err)
		}
	})
}

func TestRange(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		c := Commit{Put: map[string][]byte{}}
		for _, k := range []string{"a", "b/1", "b/2", "b/3", "b/30", "b0", "c"} {
			c.Put[k] = []byte(k)
		}
		put(t, s, c)
		f := func(prefix, from string, want ...string) {
			t.Helper()
			var got []string
			err := s.Range(t.Context(), prefix, from, func(e Entry) error {
				got = append(got, e.Key)
				if string(e.Value) != e.Key || e.Rev == 0 {
					t.Errorf("entry %+v", e)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("Range(%q, %q): -want +got\n%s", prefix, from, d)
			}
		}
		f("b/", "", "b/1", "b/2", "b/3", "b/30")
		f("b/", "b/2", "b/2", "b/3", "b/30")
		f("b/", "b/31")
		f("b/", "a", "b/1", "b/2", "b/3", "b/30") // from below the prefix
		f("b", "", "b/1", "b/2", "b/3", "b/30", "b0")
		f("d", "")
		f("", "", "a", "b/1", "b/2", "b/3", "b/30", "b0", "c") // everything, and nothing that is the backend's own
		n := 0
		if err := s.Range(t.Context(), "b/", "", func(Entry) error { n++; return ErrStop }); err != nil || n != 1 {
			t.Errorf("ErrStop: %d calls, %v", n, err)
		}
		boom := errors.New("boom")
		if err := s.Range(t.Context(), "b/", "", func(Entry) error { return boom }); !errors.Is(err, boom) {
			t.Errorf("fn's error becomes %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Range(ctx, "b/", "", func(Entry) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled range ends with %v", err)
		}
	})
}

func TestWait(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		rev := put(t, s, Commit{Put: one("a", "1")})
		if got, err := s.Wait(t.Context(), rev-1); err != nil || got != rev {
			t.Fatalf("Wait = %d, %v", got, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // far above one commit
		defer cancel()
		got := make(chan uint64, 1)
		go func() {
			r, err := s.Wait(ctx, rev)
			if err != nil {
				r = 0
			}
			got <- r
		}()
		next := put(t, s, Commit{Put: one("a", "2")})
		if r := <-got; r != next {
			t.Fatalf("the waiter saw %d, want %d", r, next)
		}
		gone, stop := context.WithCancel(t.Context())
		stop()
		if _, err := s.Wait(gone, next); !errors.Is(err, context.Canceled) {
			t.Fatalf("a cancelled wait says %v", err)
		}
		if _, err := s.Commit(t.Context(), Commit{If: []Guard{{Key: "a"}}}); !errors.Is(err, ErrConflict) {
			t.Fatal(err)
		}
		if r, err := s.Wait(t.Context(), 0); err != nil || r != next {
			t.Fatalf("a refused commit moved the revision to %d, %v", r, err)
		}
	})
}

// Many writers append to one head: each number is taken once, by one of them, and none is left out (promise 3).
func TestConcurrentAppends(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		const writers, each = 8, 10
		var conflicts atomic.Int64
		var g sync.WaitGroup
		for w := range writers {
			g.Go(func() {
				for done := 0; done < each; {
					var guard Guard
					e, err := s.Get(t.Context(), "head")
					if err != nil && !errors.Is(err, ErrAbsent) {
						t.Error(err)
						return
					}
					guard = Guard{"head", e.Rev}
					n := 0
					fmt.Sscan(string(e.Value), &n)
					_, err = s.Commit(t.Context(), Commit{If: []Guard{guard}, Put: map[string][]byte{
						"head": fmt.Append(nil, n+1), fmt.Sprintf("chain/%04d", n+1): fmt.Append(nil, w),
					}})
					switch {
					case err == nil:
						done++
					case errors.Is(err, ErrConflict):
						conflicts.Add(1)
					default:
						t.Error(err)
						return
					}
				}
			})
		}
		g.Wait()
		next := 1
		err := s.Range(t.Context(), "chain/", "", func(e Entry) error {
			if e.Key != fmt.Sprintf("chain/%04d", next) {
				return fmt.Errorf("%s stands where %d should", e.Key, next)
			}
			next++
			return nil
		})
		if err != nil || next != writers*each+1 {
			t.Fatalf("%d entries, %v", next-1, err)
		}
		t.Logf("%d conflicts", conflicts.Load())
	})
}

func TestReopen(t *testing.T) {
	for name, open := range backends() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			put(t, s, Commit{Put: one("a", "1")})
			rev := put(t, s, Commit{Put: one("b", "2")})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			defer s.Close()
			if r, err := s.Wait(t.Context(), 0); err != nil || r != rev {
				t.Errorf("after opening again the revision is %d, %v; want %d", r, err, rev)
			}
			if r := put(t, s, Commit{Put: one("a", "3")}); r <= rev {
				t.Errorf("revision %d follows %d", r, rev)
			}
		})
	}
}
