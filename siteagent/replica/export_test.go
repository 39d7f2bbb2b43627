package replica

import (
	"log/slog"
	"maps"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/state"
)

// StageOnly is Receive up to where an agent could die before it activates.
func (s *Replica) StageOnly(env *intent.Envelope) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.chain.Accept(env)
	if err != nil {
		return err
	}
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	return s.stage([]received{{e, wire, e.Head(env.Payload)}})
}

// Looks is how often a run of entries was checked over all objects.
func (s *Replica) Looks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks
}

// DataKeys lists the data keys that are kept, in memory.
func (s *Replica) DataKeys() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.deks))
}

// Floor is what this agent knows to have passed.
func (s *Replica) Floor() *trust.Floor { return s.floor }

// Lose forgets an active object, in memory and on disk, as an agent with a fault might.
func (s *Replica) Lose(uid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, uid)
	return s.db.UpdateSigned(func(tx *state.Tx) error { return tx.Delete(bucketObject, uid) })
}

// LogTo says where it logs from now on.
func (s *Replica) LogTo(log *slog.Logger) { s.log = log }
