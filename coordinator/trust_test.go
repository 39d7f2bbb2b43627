package coordinator

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
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
	ended := make(chan struct{})
	go func() { defer close(ended); _ = both[1].follow(t.Context()) }()
	t.Cleanup(func() { <-ended }) // before the store is closed
	one := nextTrust(t, data, both[0].trust, nil)
	if _, err := both[0].rotation.AddTrust(t.Context(), api.Caller{User: "admin"}, one); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond) // etcd tells it
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); both[1].trust.Head() != both[0].trust.Head(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the second coordinator does not follow")
		}
	}
	if len(both[1].trust.From(1)) != 2 {
		t.Error("it does not give the documents out")
	}
}

// The figure of issue 3: the keys of 1,000 sites of two agents in under 2 s.
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
	if len(st.Sites) != 1001 || len(st.Agents()) != 2001 || took > 2*time.Second {
		t.Errorf("%d sites, %d agents in %v", len(st.Sites), len(st.Agents()), took)
	}
	t.Logf("1,001 sites in %v", took)
}
