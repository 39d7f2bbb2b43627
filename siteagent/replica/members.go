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

// Order is a quarantine, or its end.
type Order struct {
	N  uint64 `json:"n"`            // the highest counts
	On bool   `json:"on"`           // quarantined
	By string `json:"by,omitempty"` // the agent that signed it; empty: kept before this was noted
}

// Outranks tells whether o counts where p stands: the higher N, at a tie the one that is on.
func (o Order) Outranks(p Order) bool { return o.N > p.N || o.N == p.N && o.On && !p.On }

// Admission is a spare that took an agent's place.
type Admission struct {
	Replaces string   `json:"replaces"`
	Addr     []string `json:"addr"`
	Boot     []string `json:"boot"`
}

// Decisions are what the site decided by itself about its agents, while the coordinator may be out of reach. They change who
// counts as an agent; the signed roster stays as it is. Both maps are by agent, the one that is meant or the spare.
type Decisions struct {
	Quarantined map[string]Order     `json:"quarantined"`
	Admitted    map[string]Admission `json:"admitted"`
}

// Clone returns a copy with maps of its own, never nil.
func (d Decisions) Clone() Decisions {
	c := Decisions{Quarantined: map[string]Order{}, Admitted: map[string]Admission{}}
	maps.Copy(c.Quarantined, d.Quarantined)
	maps.Copy(c.Admitted, d.Admitted)
	return c
}

// Count is how many decisions there were; it only rises, because the N of each agent does and no admission ends.
func (d Decisions) Count() uint64 {
	n := uint64(len(d.Admitted))
	for _, o := range d.Quarantined {
		n += o.N
	}
	return n
}

// cuts tells whether agent is cut off, as self sees it: an order about oneself does not count while oneself has its signer in
// quarantine. Else a stolen agent that a peer is to cut off would only have to be the first.
func (d Decisions) cuts(agent, self string) bool {
	o := d.Quarantined[agent]
	return o.On && (agent != self || !d.Quarantined[o.By].On)
}

// Effective returns the agents that count, as agent self sees it: those of the signed roster that stand there as agents, and
// admitted spares, without those that were replaced, revoked or quarantined. Each local decision adds one to the generation, so
// that new claims outrank old ones. Of two spares for one agent the lower id counts. When quarantines would leave nobody, the
// agent of the lowest rank stays. An admission has done its work once the signed roster lists its spare as an agent.
// Source: trust.md sections 3 and 6.
func Effective(site, self string, r *intent.RosterBody, revoked *trust.RevocationSet, d Decisions) *intent.RosterBody {
	out := &intent.RosterBody{Generation: r.Generation + d.Count()}
	agents, replaced := seats(r, d), map[string]bool{}
	gone := func(a intent.RosterAgent) bool {
		return revoked.Has(intent.RevokeAgent, site+"/"+a.ID) || keyRevoked(revoked, a)
	}
	for _, a := range agents {
		if d.admits(r, a.ID) && !gone(a) && !d.cuts(a.ID, self) {
			replaced[d.Admitted[a.ID].Replaces] = true
		}
	}
	var cut []intent.RosterAgent
	for _, a := range agents {
		switch {
		case gone(a) || replaced[a.ID]:
		case d.cuts(a.ID, self):
			cut = append(cut, a)
		default:
			out.Agents = append(out.Agents, a)
		}
	}
	if len(out.Agents) == 0 && len(cut) > 0 {
		out.Agents = append(out.Agents, slices.MinFunc(cut, func(a, b intent.RosterAgent) int { return int(a.Rank) - int(b.Rank) }))
	}
	return out
}

// neighbours returns members and agent self, which has its place on the network also while it does not count.
func neighbours(r, members *intent.RosterBody, d Decisions, self string) *intent.RosterBody {
	is := func(a intent.RosterAgent) bool { return a.ID == self }
	all := seats(r, d)
	if i := slices.IndexFunc(all, is); i >= 0 && !slices.ContainsFunc(members.Agents, is) {
		return &intent.RosterBody{Generation: members.Generation, Agents: append(slices.Clone(members.Agents), all[i])}
	}
	return members
}

// admits tells whether the admission of spare counts still.
func (d Decisions) admits(r *intent.RosterBody, spare string) bool {
	_, admitted := d.Admitted[spare]
	return admitted && slices.ContainsFunc(r.Agents, func(a intent.RosterAgent) bool { return a.ID == spare && a.State == intent.StateSpare })
}

// seats lists the agents of the roster and, as agents where they are now, the spares that were admitted: one for each agent.
func seats(r *intent.RosterBody, d Decisions) []intent.RosterAgent {
	var out []intent.RosterAgent
	taken := map[string]string{} // replaced agent -> lowest spare
	for id, a := range d.Admitted {
		if low, ok := taken[a.Replaces]; d.admits(r, id) && (!ok || id < low) {
			taken[a.Replaces] = id
		}
	}
	for _, a := range r.Agents {
		if a.State == intent.StateSpare {
			if s, ok := d.Admitted[a.ID]; ok && taken[s.Replaces] == a.ID {
				a.State, a.Addr, a.Boot = intent.StateAgent, s.Addr, s.Boot
			}
		}
		if a.State == intent.StateAgent {
			out = append(out, a)
		}
	}
	return out
}

func keyRevoked(revoked *trust.RevocationSet, a intent.RosterAgent) bool {
	return slices.ContainsFunc(a.TLS, func(spki []byte) bool { return revoked.Has(intent.RevokeSPKI, intent.DigestOf(spki).Hex()) })
}

// Obey takes verified decisions. Quarantines that outrank what stands, and admissions that are new, are on disk and in force
// when it returns; changed tells whether there were any. The first admission of a spare stands.
func (s *Replica) Obey(d Decisions) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.decisions.Clone()
	for agent, o := range d.Quarantined {
		if o.Outranks(next.Quarantined[agent]) {
			next.Quarantined[agent], changed = o, true
		}
	}
	for spare, a := range d.Admitted {
		if _, known := next.Admitted[spare]; !known {
			next.Admitted[spare], changed = a, true
		}
	}
	if !changed {
		return false, nil
	}
	if err := s.db.UpdateVital(func(tx *state.Tx) error { return putJSON(tx, bucketMeta, "decisions", next) }); err != nil {
		return false, fmt.Errorf("cannot keep decisions of the site: %w", err)
	}
	s.decisions = next
	err = s.refreshView()
	s.bump()
	return true, err
}

// Decisions returns what the site decided by itself.
func (s *Replica) Decisions() Decisions {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decisions.Clone()
}

// AddRevocations takes documents of the revocation stream. What is validly signed acts at once, also across a gap and on both
// sides of a fork: the set only grows. The head moves along the chain. What it returned nil for is on disk.
// Errors: of the first document that was refused, those before it count; document.ErrFork, and all of them count.
func (s *Replica) AddRevocations(envs []*intent.Envelope) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var refused error
	before, head := s.revoked.Len(), s.revocation.Head
	for _, env := range envs {
		err := s.addRevocation(env)
		refused = errors.Join(refused, err)
		if err != nil && !errors.Is(err, document.ErrFork) {
			break
		}
	}
	if s.revoked.Len() == before && s.revocation.Head == head {
		return refused
	}
	if err := s.saveMarks(); err != nil {
		return errors.Join(refused, err)
	}
	err := s.refreshView()
	s.bump()
	s.goOn()
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
	// By digest too, so that both sides of a fork stay as evidence.
	key, stored, forked := seqKey(body.Seq)+"/"+env.Digest().Hex(), false, error(nil)
	err := s.db.View(func(tx *state.Tx) error {
		return tx.Walk(bucketRevocation, seqKey(body.Seq)+"/", func(other string, _ []byte) error {
			if other == key {
				stored = true
			} else {
				forked = fmt.Errorf("revocation %d has two documents: %w", body.Seq, document.ErrFork)
			}
			return nil
		})
	})
	if err == nil && (!stored || chain.Head != s.revocation.Head) { // else it came again: who repeats it makes us write nothing
		err = s.keepRevocation(key, env, chain.Head)
	}
	if err != nil {
		return fmt.Errorf("cannot keep revocation %d: %w", body.Seq, err)
	}
	s.revocation = chain
	if slices.ContainsFunc(body.Entries, func(e intent.Revocation) bool { return !s.revoked.Has(e.Kind, e.ID) }) {
		s.revoked = s.revoked.With(body.Entries)
	}
	return forked
}

// keepRevocation puts a document and the head on disk.
func (s *Replica) keepRevocation(key string, env *intent.Envelope, head intent.Head) error {
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	return s.db.UpdateSigned(func(tx *state.Tx) error {
		if err := tx.Put(bucketRevocation, key, wire); err != nil {
			return err
		}
		return putJSON(tx, bucketMeta, "revocation", head)
	})
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
		return tx.WalkFrom(bucketRevocation, "", seqKey(from), func(_ string, b []byte) error {
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
	damaged := getJSON(tx, bucketMeta, "revocation", &s.revocation.Head)
	return errors.Join(damaged, tx.Walk(bucketRevocation, "", func(_ string, b []byte) error {
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
	}))
}
