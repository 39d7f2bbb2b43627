package coordinator

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
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

// nextTrust signs the document after head with the root key of data.
func nextTrust(t *testing.T, data string, tr *publish.Trust, change func(*intent.TrustBody)) *intent.Envelope {
	t.Helper()
	root, err := publish.LoadSigner(filepath.Join(data, "keys", fileRootSign))
	if err != nil {
		t.Fatal(err)
	}
	return signTrust(t, root, tr, change)
}

func signTrust(t *testing.T, root ed25519.PrivateKey, tr *publish.Trust, change func(*intent.TrustBody)) *intent.Envelope {
	t.Helper()
	b := *tr.Body()
	b.Header = document.Follow(tr.Head(), intent.StreamTrust, 0, time.Now())
	if change != nil {
		change(&b)
	}
	payload, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	env, err := document.Sign(intent.PayloadTrust, payload, root)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// The API takes the next document of the roots and nothing else; a fork is refused, counted, and kept over a restart. A newcomer
// gets the whole stream.
func TestTrustByAPI(t *testing.T) {
	s := found1(t)
	f := func(env *intent.Envelope, refused string, seq uint64, forks int) {
		t.Helper()
		_, err := s.server().AddTrust(t.Context(), env)
		if (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
			t.Errorf("%v, want %q", err, refused)
		}
		if s.trust.Head().Seq != seq || s.trust.Forks() != forks {
			t.Errorf("head %d, %d forks; want %d, %d", s.trust.Head().Seq, s.trust.Forks(), seq, forks)
		}
	}
	second := nextTrust(t, s.data, s.trust, nil)
	fork := nextTrust(t, s.data, s.trust, func(b *intent.TrustBody) {
		b.Coordinators = []intent.Coordinator{{ID: "evil", Addr: []string{"192.0.2.1:1"}}}
	})
	_, other, _ := ed25519.GenerateKey(nil)
	f(signTrust(t, other, s.trust, nil), "not signed", 1, 0)
	f(second, "", 2, 0)
	f(second, "", 2, 0)
	f(fork, "forked", 2, 1)
	f(fork, "forked", 2, 1)
	f(nextTrust(t, s.data, s.trust, nil), "", 3, 1)
	f(second, "older", 3, 1) // a replay
	s.restart()
	if s.trust.Head().Seq != 3 || s.trust.Forks() != 1 || len(s.trust.From(1)) != 3 || len(s.trust.From(9)) != 0 {
		t.Errorf("after a restart: head %d, %d forks, %d documents", s.trust.Head().Seq, s.trust.Forks(), len(s.trust.From(1)))
	}
}

// The second coordinator of one etcd follows the trust stream, and two documents for one place do not both get in.
func TestTwoCoordinatorsFollowTrust(t *testing.T) {
	both := pair(t, etcd.New(t, 1, etcd.Limits()...))
	data := both[0].cfg.Data
	one := nextTrust(t, data, both[0].trust, nil)
	if _, err := both[0].rotation.AddTrust(t.Context(), api.Caller{User: "admin"}, one); err != nil {
		t.Fatal(err)
	}
	catchesUp(t, both[1], both[0])
	if len(both[1].trust.From(1)) != 2 {
		t.Error("it does not give the documents out")
	}
}

// catchesUp lets x follow until it has the trust stream as y has it.
func catchesUp(t *testing.T, x, y *Coordinator) {
	t.Helper()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = x.follow(t.Context()) }()
	t.Cleanup(func() { <-ended })                 // before the store is closed
	tick := time.NewTicker(20 * time.Millisecond) // etcd tells it
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); x.trust.Head() != y.trust.Head(); <-tick.C { // a read may go on for 20 s
		if time.Now().After(deadline) {
			t.Fatal("the second coordinator does not follow")
		}
	}
}

// A document that another coordinator adds while this one opens, after this one has read the stream, is followed too.
func TestTrustMovesWhileOpening(t *testing.T) {
	both := pair(t, etcd.New(t, 1, etcd.Limits()...))
	cfg := both[1].cfg
	cfg.Data = t.TempDir()
	if err := os.CopyFS(filepath.Join(cfg.Data, "keys"), os.DirFS(filepath.Join(both[1].cfg.Data, "keys"))); err != nil {
		t.Fatal(err)
	}
	_, before := both[0].objects.Snapshot()
	var once sync.Once
	var third *Coordinator
	cfg.Wall = func() time.Time { // asked between trust and objects
		once.Do(func() {
			if _, err := both[0].rotation.AddTrust(t.Context(), api.Caller{User: "admin"}, nextTrust(t, both[0].cfg.Data, both[0].trust, nil)); err != nil {
				t.Error(err)
			}
			if _, err := third.store.Wait(t.Context(), before); err != nil {
				t.Error(err)
			}
		})
		return time.Now()
	}
	third = newCoordinator(cfg)
	open(t, third)
	catchesUp(t, third, both[0])
}

// unread is a store whose reads fail from the moment on when it tells of a trust document.
type unread struct {
	store.Shared
	fail context.CancelFunc
}

func (u unread) Changes(ctx context.Context, prefix string, since uint64, fn func(store.Entry) error) error {
	return u.Shared.Changes(context.WithoutCancel(ctx), prefix, since, func(e store.Entry) error {
		if prefix == "trust/" {
			u.fail()
		}
		return fn(e)
	})
}

// A document that was told of and could not be read is read again: it is not left for the next one.
func TestTrustNotReadIsReadAgain(t *testing.T) {
	both := pair(t, etcd.New(t, 1, etcd.Limits()...))
	if _, err := both[0].rotation.AddTrust(t.Context(), api.Caller{User: "admin"}, nextTrust(t, both[0].cfg.Data, both[0].trust, nil)); err != nil {
		t.Fatal(err)
	}
	x := both[1]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := x.takeChanges(ctx, unread{x.store.(store.Shared), cancel}, x.opened); err == nil || x.trust.Head() == both[0].trust.Head() {
		t.Errorf("%v, head %v", err, x.trust.Head())
	}
	catchesUp(t, x, both[0])
}

// The keys of 1,000 sites of two agents are all shown; how long it takes is logged (asked: 2 s), and no verdict.
func TestKeyStatusOfManySites(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	s.sync("lon1")
	r, err := s.agents.Roster(t.Context(), "lon1")
	if err != nil {
		t.Fatal(err)
	}
	twin := r.Agents[0]
	twin.ID = "a2"
	r.Agents = append(r.Agents, twin)
	v := marshal(t, r)
	for i := range 10 {
		c := store.Commit{Put: map[string][]byte{}}
		for j := range 100 {
			c.Put[rosterKey(fmt.Sprintf("s%03d", i*100+j))] = v
		}
		if _, err := s.store.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	st, err := s.server().KeyStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	if len(st.Sites) != 1001 || len(st.Agents()) != 2001 {
		t.Errorf("%d sites, %d agents", len(st.Sites), len(st.Agents()))
	}
	t.Logf("1,001 sites in %v", took)
}

// A writer changes: the coordinator signs in the epoch of the key that it holds, and with none that is current it signs nothing. A
// document that would leave it without one is refused at its API. An older copy takes over what both writers signed.
func TestWriterByTrust(t *testing.T) {
	s := found1(t)
	s.apply(firstSite)
	s.join("lon1", "a1")
	s.sync("lon1")
	old := s.copyOf()
	s.apply(`{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":2},"memoryMiB":{"min":1}}}`)
	s.sync("lon1")
	file := filepath.Join(s.data, "keys", fileWriter)
	second, err := publish.MakeSigner(filepath.Join(t.TempDir(), fileWriter))
	if err != nil {
		t.Fatal(err)
	}
	writers := func(states ...intent.KeyState) func(*intent.TrustBody) {
		return func(b *intent.TrustBody) {
			b.Writers = []intent.Writer{s.trust.Body().Writers[0], {Key: document.MarshalKey(second.Public().(ed25519.PublicKey)), Epoch: 2, Mode: intent.ModeContinue}}
			for i := range b.Writers {
				b.Writers[i].State = states[i]
			}
		}
	}
	add := func(env *intent.Envelope, refused string) {
		t.Helper()
		_, err := s.rotation.AddTrust(t.Context(), s.admin, env)
		if (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
			t.Errorf("%v, want %q", err, refused)
		}
	}
	add(nextTrust(t, s.data, s.trust, func(b *intent.TrustBody) { b.CAs = nil }), "no agent would speak")
	add(nextTrust(t, s.data, s.trust, writers(intent.KeyUse, intent.KeyAccept)), "")
	add(nextTrust(t, s.data, s.trust, writers(intent.KeyRetire, intent.KeyUse)), "writer key")
	if h := s.head("lon1"); h.Epoch != 1 {
		t.Errorf("head %v", h)
	}
	if err := publish.SaveSigner(file, second); err != nil {
		t.Fatal(err)
	}
	s.restart()
	s.apply(`{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":3},"memoryMiB":{"min":1}}}`)
	if h := s.sync("lon1"); h.Epoch != 2 {
		t.Errorf("head %v after the change of writer", h)
	}
	add(nextTrust(t, s.data, s.trust, writers(intent.KeyRetire, intent.KeyUse)), "")
	s.apply(`{"kind":"MachineType","metadata":{"name":"small"},"spec":{"cpu":{"min":4},"memoryMiB":{"min":1}}}`)
	last := s.sync("lon1")

	old.open()
	for _, env := range s.trust.From(2) {
		if _, err := old.rotation.Trust.Add(t.Context(), env, store.Commit{}); err != nil {
			t.Fatal(err)
		}
	}
	old.apply(`{"kind":"MachineType","metadata":{"name":"big"},"spec":{"cpu":{"min":9},"memoryMiB":{"min":1}}}`)
	if err := old.agents.Sync(t.Context(), "lon1"); !errors.Is(err, publish.ErrNoWriter) {
		t.Errorf("a coordinator with the retired key: %v", err)
	}
	old.sites(s)
	old.recovery.Hear(t.Context(), "lon1", "a1", last)
	if h := old.head("lon1"); h != last {
		t.Errorf("the copy is at %v, the site at %v", h, last)
	}
}

// A store without a trust document, which an embedded one is not and a shared one may be, is told of; nothing starts.
func TestStartWithoutTrust(t *testing.T) {
	s := found1(t)
	if _, err := s.store.Commit(t.Context(), store.Commit{Delete: []string{publish.TrustKey(1)}}); err != nil {
		t.Fatal(err)
	}
	s.close()
	if _, _, err := openAt(t.Context(), Config{Data: s.data}); err == nil || !strings.Contains(err.Error(), "no trust document") {
		t.Errorf("%v", err)
	}
}
