package replica

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/pki/trust"
	"github.com/skerry-metal/skerry/storage/state"
)

// Order is what the site decided by itself about one of its agents, while the coordinator may be out of reach. It changes who
// counts as an agent; the signed roster stays as it is.
type Order struct {
	N  uint64 `json:"n"`  // the highest counts
	On bool   `json:"on"` // quarantined
}

// Outranks tells whether o counts where p stands: the higher N, at a tie the one that is on.
func (o Order) Outranks(p Order) bool { return o.N > p.N || o.N == p.N && o.On && !p.On }

// Effective returns the agents that count: those of the signed roster that are neither revoked nor quarantined. Each local
// decision adds one to the generation, so that new claims outrank old ones. When quarantines would leave nobody, the agent of
// the lowest rank stays. Source: trust.md sections 3 and 6.
func Effective(site string, r *intent.RosterBody, revoked *trust.RevocationSet, orders map[string]Order) *intent.RosterBody {
	out := &intent.RosterBody{Generation: r.Generation + changes(orders)}
	var cut []intent.RosterAgent
	for _, a := range r.Agents {
		switch {
		case revoked.Has(intent.RevokeAgent, site+"/"+a.ID) || keyRevoked(revoked, a):
		case orders[a.ID].On:
			cut = append(cut, a)
		default:
			out.Agents = append(out.Agents, a)
		}
	}
	stands := func(a intent.RosterAgent) bool { return a.State == "agent" }
	if !slices.ContainsFunc(out.Agents, stands) {
		cut = slices.DeleteFunc(cut, func(a intent.RosterAgent) bool { return !stands(a) })
		if len(cut) > 0 {
			out.Agents = append(out.Agents, slices.MinFunc(cut, func(a, b intent.RosterAgent) int { return int(a.Rank) - int(b.Rank) }))
		}
	}
	return out
}

func keyRevoked(revoked *trust.RevocationSet, a intent.RosterAgent) bool {
	return slices.ContainsFunc(a.TLS, func(spki []byte) bool { return revoked.Has(intent.RevokeSPKI, intent.DigestOf(spki).Hex()) })
}

// changes counts the decisions of the site; it only rises, because the N of each agent does.
func changes(orders map[string]Order) (n uint64) {
	for _, o := range orders {
		n += o.N
	}
	return n
}

// Obey takes verified orders, by agent. Those that outrank what stands are on disk and in force when it returns; changed tells
// whether there were any.
func (s *Replica) Obey(orders map[string]Order) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(s.orders)
	for agent, o := range orders {
		if o.Outranks(next[agent]) {
			next[agent], changed = o, true
		}
	}
	if !changed {
		return false, nil
	}
	if err := s.db.UpdateVital(func(tx *state.Tx) error { return putJSON(tx, bucketMeta, "quarantine", next) }); err != nil {
		return false, fmt.Errorf("cannot keep quarantine: %w", err)
	}
	s.orders = next
	err = s.refreshView()
	s.bump()
	return true, err
}

// Orders returns what the site decided, by agent, and how many decisions there were.
func (s *Replica) Orders() (orders map[string]Order, decisions uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.orders), changes(s.orders)
}

// AddRevocations takes documents of the revocation stream. What is validly signed acts at once, also across a gap and on both
// sides of a fork: the set only grows. The head moves along the chain. What it returned nil for is on disk.
// Errors: of the first document that was refused, those before it count; document.ErrFork, and all of them count.
func (s *Replica) AddRevocations(envs []*intent.Envelope) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var refused error
	before := s.revoked.Len()
	for _, env := range envs {
		err := s.addRevocation(env)
		refused = errors.Join(refused, err)
		if err != nil && !errors.Is(err, document.ErrFork) {
			break
		}
	}
	if s.revoked.Len() == before {
		return refused
	}
	if err := s.saveMarks(); err != nil {
		return errors.Join(refused, err)
	}
	err := s.refreshView()
	s.bump()
	return errors.Join(refused, err)
}

func (s *Replica) addRevocation(env *intent.Envelope) error {
	chain := s.revocation
	body, chained := chain.Accept(env)
	switch {
	case errors.Is(chained, document.ErrKnown):
		return nil
	case errors.Is(chained, document.ErrGap), errors.Is(chained, document.ErrReplay), errors.Is(chained, document.ErrFork):
		var err error
		if body, err = chain.Peek(env); err != nil {
			return err
		}
	case chained != nil:
		return chained
	}
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	// By digest too, so that both sides of a fork stay as evidence.
	key, forked := seqKey(body.Seq)+"/"+env.Digest().Hex(), error(nil)
	err = s.db.Update(func(tx *state.Tx) error {
		if err := tx.Walk(bucketRevocation, seqKey(body.Seq)+"/", func(other string, _ []byte) error {
			if other != key {
				forked = fmt.Errorf("revocation %d has two documents: %w", body.Seq, document.ErrFork)
			}
			return nil
		}); err != nil {
			return err
		}
		if err := tx.Put(bucketRevocation, key, wire); err != nil {
			return err
		}
		return putJSON(tx, bucketMeta, "revocation", chain.Head)
	})
	if err != nil {
		return fmt.Errorf("cannot keep revocation %d: %w", body.Seq, err)
	}
	s.revocation = chain
	s.revoked = s.revoked.With(body.Entries)
	s.floor.Observe(body.Issued)
	return forked
}

// RevocationHead returns how far this agent has the revocation stream without a gap.
func (s *Replica) RevocationHead() intent.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revocation.Head
}

// Revoked tells whether (kind, id) was revoked.
func (s *Replica) Revoked(kind intent.RevocationKind, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked.Has(kind, id)
}

// Revocations returns the set of what is revoked; do not modify.
func (s *Replica) Revocations() *trust.RevocationSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked
}

// RevocationFeed calls fn for the documents of the stream from seq on, in order.
func (s *Replica) RevocationFeed(from uint64, fn func(*intent.Envelope) error) error {
	return s.db.View(func(tx *state.Tx) error {
		return tx.WalkFrom(bucketRevocation, seqKey(from), func(_ string, b []byte) error {
			env, err := document.Decode(b)
			if err != nil {
				return err
			}
			return fn(env)
		})
	})
}

// loadRevocations reads what was kept. Our own store is its anchor: the documents were verified when they came.
func (s *Replica) loadRevocations(tx *state.Tx) error {
	if err := getJSON(tx, bucketMeta, "revocation", &s.revocation.Head); err != nil {
		return err
	}
	return tx.Walk(bucketRevocation, "", func(_ string, b []byte) error {
		env, err := document.Decode(b)
		if err != nil {
			return err
		}
		body := &intent.RevocationBody{}
		if err := intent.DecodeStrict(env.Payload, body); err != nil {
			return err
		}
		s.revoked = s.revoked.With(body.Entries)
		return nil
	})
}
