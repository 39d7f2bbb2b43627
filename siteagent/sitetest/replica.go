package sitetest

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/pkitest"
	"github.com/skerry-metal/skerry/pki/seal"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/siteagent/replica"
	"github.com/skerry-metal/skerry/storage/state"
)

// OpenReplica opens the replica of an agent of the author's site in dir, with the trust document. The agent has new keys: what was
// sealed to it before stays closed. The caller closes the store.
func OpenReplica(t testing.TB, dir string, a *Author, agent string) (*replica.Replica, *state.DB) {
	t.Helper()
	keys, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return OpenReplicaOf(t, dir, a, agent, keys)
}

// OpenReplicaOf is OpenReplica for an agent that holds keys.
func OpenReplicaOf(t testing.TB, dir string, a *Author, agent string, keys *seal.Keys) (*replica.Replica, *state.DB) {
	t.Helper()
	return OpenReplicaWith(t, dir, a, agent, seal.NewRing(seal.Binding{Domain: pkitest.Name, Site: a.Site, Agent: agent}, keys))
}

// OpenReplicaWith is OpenReplica for an agent whose data keys go to ring.
func OpenReplicaWith(t testing.TB, dir string, a *Author, agent string, ring *seal.Ring) (*replica.Replica, *state.DB) {
	t.Helper()
	key := make([]byte, 32)
	log := slog.New(slog.DiscardHandler)
	db, err := state.Open(state.Config{Dir: filepath.Join(dir, "state"), Key: key, Logger: log, UserFree: 1, VitalFree: 1, StopFree: 1, UserFraction: -1})
	if err != nil {
		t.Fatal(err)
	}
	marks, mark, err := state.OpenMarks(dir, key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := replica.Open(replica.Config{
		DB: db, Marks: marks, Mark: mark, Site: a.Site, Self: agent, Pin: a.Env.Digest(), Log: log,
		Ring:  ring,
		Floor: trust.NewFloor(pkitest.Now(), mark.Floor, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddTrust([]*intent.Envelope{a.Env}); err != nil {
		t.Fatal(err)
	}
	return s, db
}
