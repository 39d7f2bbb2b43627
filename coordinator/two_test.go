package coordinator

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skerry-metal/skerry/coordinator/publish"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/api"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/test/sim/etcd"
)

// detector keeps every envelope that was ever handed out and finds two that say different things of one place in a chain.
type detector struct {
	mu   sync.Mutex
	seen map[uint64]intent.Digest
	bad  []string
}

func (d *detector) read(t *testing.T, c *Coordinator, site string) {
	err := c.agents.pub.Feed(t.Context(), site, 1, func(env *intent.Envelope) error {
		e, err := intent.DecodeEntry(env.Payload)
		if err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if was, ok := d.seen[e.Seq]; ok && was != env.Digest() {
			d.bad = append(d.bad, fmt.Sprintf("seq %d: %s and %s", e.Seq, was.Short(), env.Digest().Short()))
		}
		d.seen[e.Seq] = env.Digest()
		return nil
	})
	if err != nil && t.Context().Err() == nil {
		t.Logf("feed: %v", err)
	}
}

// pair founds a domain on etcd and opens two coordinators of it: the second has a copy of the first one's keys.
func pair(t *testing.T, c *etcd.Cluster) [2]*Coordinator {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	conf := &store.EtcdConfig{Endpoints: c.Endpoints()}
	dirs := [2]string{t.TempDir(), t.TempDir()}
	found := InitConfig{
		Data: dirs[0], Domain: "edge.example", ID: "c1", Addr: []string{"127.0.0.1:7443", "127.0.0.1:7543"}, Admin: "admin", Logger: log, Etcd: conf,
	}
	if _, err := Init(t.Context(), found); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dirs[1], "keys"), os.DirFS(filepath.Join(dirs[0], "keys"))); err != nil {
		t.Fatal(err)
	}
	found.Data = t.TempDir()
	if _, err := Init(t.Context(), found); err == nil {
		t.Error("a second init below one prefix is taken")
	}
	var out [2]*Coordinator
	for i, dir := range dirs {
		out[i] = newCoordinator(Config{Data: dir, Listen: "127.0.0.1:0", Logger: log, Etcd: conf})
		open(t, out[i])
	}
	return out
}

// open opens a coordinator that will not run.
func open(t *testing.T, x *Coordinator) {
	t.Helper()
	end, err := x.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	if err := x.wire(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.end.Close() }) // never ran
}

// Experiment F16: two coordinators with one writer key change and publish at once while members of etcd die. The chain never
// forks, each change is in it once, and both end with the same catalog.
func TestTwoCoordinators(t *testing.T) {
	c := etcd.New(t, 3, etcd.Limits()...)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	both := pair(t, c)
	admin := api.Caller{User: "admin"}
	s := &scene{TB: t}
	if _, err := both[0].backend.Apply(t.Context(), admin, api.Batch{Put: s.docs(firstSite)}); err != nil {
		t.Fatal(err)
	}
	d := &detector{seen: map[uint64]intent.Digest{}}
	const changes = 25 // of each
	var g, readers sync.WaitGroup
	var mu sync.Mutex
	progress := make(chan int, 2*changes)
	made := map[string]bool{}
	for i, x := range both {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		g.Go(func() {
			for n := range changes {
				// A machine of its own, and one that both change.
				name := fmt.Sprintf("n%d-%d", i, n)
				batch := s.docs(fmt.Sprintf(`{"kind":"Machine","metadata":{"name":%q,"site":"lon1"},"spec":{"nics":[{"mac":"52:54:00:%02x:%02x:01"}]}}
{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":%d},"memoryMiB":{"min":1}}}`, name, i+1, n, 1+rng.IntN(8)))
				for {
					_, err := x.backend.Apply(t.Context(), admin, api.Batch{Put: batch})
					if err == nil {
						break
					}
					if !strings.Contains(err.Error(), "store went away") && !strings.Contains(err.Error(), "no answer") {
						t.Errorf("%s: %v", name, err)
						break
					}
				}
				mu.Lock()
				made[name] = true
				mu.Unlock()
				if err := x.agents.Sync(t.Context(), "lon1"); err != nil {
					t.Logf("sync by %d: %v", i, err)
				}
				progress <- 1
			}
		})
		readers.Go(func() {
			for range changes / 5 {
				d.read(t, x, "lon1")
			}
		})
	}
	rng := rand.New(rand.NewPCG(seed, 9))
	for done, victim := 0, -1; done < 2*changes; done++ {
		<-progress
		switch done {
		case 10:
			victim = rng.IntN(3)
			c.Kill(victim)
		case 22:
			if err := c.Restart(victim); err != nil {
				t.Error(err)
			}
			victim = rng.IntN(3)
			c.Cut(victim, true)
		case 32:
			c.Cut(victim, false)
		}
	}
	g.Wait()
	readers.Wait()
	for i, x := range both {
		if err := x.agents.Sync(t.Context(), "lon1"); err != nil {
			t.Errorf("last sync of %d: %v", i, err)
		}
		d.read(t, x, "lon1")
	}
	for _, b := range d.bad {
		t.Errorf("equivocation: %s", b)
	}
	checkOnce(t, both[1], made)
	a, b := both[0].catalogNow(t), both[1].catalogNow(t)
	if a != b {
		t.Errorf("two catalogs:\n%s\n%s", a, b)
	}
}

// What one coordinator revoked, the other obeys without a restart, and what it revokes itself then follows.
func TestRevokedAtTheOther(t *testing.T) {
	both := pair(t, etcd.New(t, 1, etcd.Limits()...))
	admin := api.Caller{User: "admin"}
	spki := func(c string) api.RevokeRequest {
		return api.RevokeRequest{Kind: string(intent.RevokeSPKI), ID: strings.Repeat(c, 64), Reason: "lost"}
	}
	if _, err := both[0].revoker.revoke(t.Context(), admin, spki("a")); err != nil {
		t.Fatal(err)
	}
	if err := both[1].takeChanges(t.Context(), both[1].store.(store.Shared), 0); err != nil {
		t.Fatal(err)
	}
	if a, b := both[0].revoker.stream.Head(), both[1].revoker.stream.Head(); a != b || a.Seq != 1 {
		t.Fatalf("heads %v and %v", a, b)
	}
	if !both[1].revoker.stream.Has(intent.RevokeSPKI, strings.Repeat("a", 64)) {
		t.Error("the other one does not know it")
	}
	if r, err := both[1].revoker.revoke(t.Context(), admin, spki("b")); err != nil || r.Head.Seq != 2 {
		t.Errorf("the next one: %+v, %v", r, err)
	}
}

// checkOnce replays the chain: every put of an object is a higher generation than the one before, and every machine is there.
func checkOnce(t *testing.T, c *Coordinator, made map[string]bool) {
	t.Helper()
	chain := document.IntentChain{Site: "lon1", Writers: c.trust.Body().Writers}
	revs, puts := map[string]uint64{}, map[string]int{}
	err := c.agents.pub.Feed(t.Context(), "lon1", 1, func(env *intent.Envelope) error {
		e, err := chain.Accept(env)
		if err != nil {
			return err
		}
		body, err := e.DecodeBody()
		if err != nil {
			return err
		}
		put, ok := body.(*intent.PutBody)
		if !ok {
			return nil
		}
		for _, p := range put.Objects {
			o, err := intent.DecodeObject(p.Doc)
			if err != nil {
				return err
			}
			if p.Rev <= revs[p.UID] {
				t.Errorf("seq %d: %s at generation %d follows %d", e.Seq, o.Key(), p.Rev, revs[p.UID])
			}
			revs[p.UID] = p.Rev
			puts[o.Metadata.Name]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range made {
		if puts[name] != 1 {
			t.Errorf("%s is in the chain %d times", name, puts[name])
		}
	}
	t.Logf("%d entries, %d machines", chain.Head.Seq, len(made))
}

func (c *Coordinator) catalogNow(t *testing.T) string {
	t.Helper()
	if err := c.objects.fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	cat, _ := c.objects.Snapshot()
	out := ""
	for _, o := range cat.List("") {
		out += fmt.Sprintf("%s@%d ", o.Key(), o.Metadata.Rev)
	}
	return out
}

// New keys of the writer are made at one of two coordinators. The other signs nothing from the moment that a chain goes on under them,
// and says why, until it has the keys too; the chain is one all the time.
func TestRotateWriterAtTheOther(t *testing.T) {
	both := pair(t, etcd.New(t, 1, etcd.Limits()...))
	admin := api.Caller{User: "admin"}
	s := &scene{TB: t, Coordinator: both[0], admin: admin}
	d := &detector{seen: map[uint64]intent.Digest{}}
	n := 0
	change := func(x *Coordinator) error {
		n++
		doc := fmt.Sprintf(`{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":%d},"memoryMiB":{"min":1}}}`, n)
		if _, err := x.backend.Apply(t.Context(), admin, api.Batch{Put: s.docs(doc)}); err != nil {
			return err
		}
		err := x.agents.Sync(t.Context(), "lon1")
		d.read(t, x, "lon1")
		return err
	}
	follow := func(x *Coordinator) {
		t.Helper()
		if err := x.takeChanges(t.Context(), x.store.(store.Shared), 0); err != nil {
			t.Fatal(err)
		}
	}
	turn := func(x *Coordinator) (*api.RotationStatus, error) {
		return x.rotation.Rotate(t.Context(), admin, api.RotateRequest{What: api.RotateWriter})
	}
	s.apply(firstSite)
	s.join("lon1", "a1")
	before := s.sync("lon1")
	follow(both[1])
	for _, x := range both {
		if err := change(x); err != nil {
			t.Fatal(err)
		}
	}
	s.report("lon1", "a1", 1, before)
	if st, err := turn(both[0]); err != nil || st.Phase != api.PhaseUse || !strings.Contains(st.Next, "copy keys/") {
		t.Fatalf("%+v, %v", st, err)
	}
	follow(both[1])
	if err := change(both[1]); !errors.Is(err, publish.ErrNoWriter) || !strings.Contains(err.Error(), "copy keys/") {
		t.Errorf("the other one goes on under the old writer: %v", err)
	}
	if st, err := turn(both[1]); err == nil || !strings.Contains(err.Error(), "another coordinator") {
		t.Errorf("the other one makes a third key: %+v, %v", st, err)
	}
	if err := change(both[0]); err != nil {
		t.Error(err)
	}

	// As docs/operations.md says: the keys are copied, and the other one is started again.
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "keys"), os.DirFS(filepath.Join(both[0].cfg.Data, "keys"))); err != nil {
		t.Fatal(err)
	}
	cfg := both[1].cfg
	cfg.Data = dir
	again := newCoordinator(cfg)
	end, err := again.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if err := again.wire(); err != nil {
		t.Fatal(err)
	}
	defer again.end.Close()
	for _, x := range []*Coordinator{again, both[0], again} {
		if err := change(x); err != nil {
			t.Error(err)
		}
	}
	s.report("lon1", "a1", 2, s.head("lon1"))
	follow(again)
	if st, err := turn(again); err != nil || st.Phase != api.PhaseDone {
		t.Errorf("the other one goes on with it: %+v, %v", st, err)
	}
	follow(both[0])
	for _, x := range []*Coordinator{again, both[0]} {
		if err := change(x); err != nil {
			t.Error(err)
		}
	}
	for _, b := range d.bad {
		t.Errorf("equivocation: %s", b)
	}
	if got := (&scene{TB: t, Coordinator: again}).chain("lon1"); len(got) != len(d.seen) || uint64(len(got)) != s.head("lon1").Seq {
		t.Errorf("%d entries verify, %d were seen, the head is %v", len(got), len(d.seen), s.head("lon1"))
	}
}
