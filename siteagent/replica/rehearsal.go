package replica

import (
	"errors"
	"fmt"
	"maps"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// Rehearsal verifies documents as the replica would, and keeps none of them. It starts where the replica stands and goes its own
// way. Not safe for concurrent use.
type Rehearsal struct {
	trust      document.TrustChain
	revocation document.RevocationChain
	chain      document.IntentChain
	counted    intent.Head // of the last entry that counts
	waits      bool        // entries of a retired writer are beyond it
	next       *next
	wrong      error // why what is staged would not be active
	self       *Replica
}

// Rehearse returns a rehearsal.
func (s *Replica) Rehearse() *Rehearsal {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Rehearsal{
		trust: s.trust, revocation: s.revocation, chain: s.chain, counted: s.chain.Head, self: s,
		next: s.begin(),
	}
	r.next.buried, r.next.acked = maps.Clone(s.tombs), maps.Clone(s.acks) // it goes on without the lock
	if s.active != s.chain.Head {
		r.wrong = errors.New(s.rejected)
	}
	return r
}

// Trust takes one trust document. Errors: as Replica.AddTrust; known is no error.
func (r *Rehearsal) Trust(env *intent.Envelope) (fresh bool, err error) {
	b, err := r.trust.Accept(env)
	if errors.Is(err, document.ErrKnown) || errors.Is(err, document.ErrReplay) {
		return false, nil
	}
	if err == nil {
		r.chain.Writers, r.revocation.Writers = b.Writers, b.Writers
	}
	return err == nil, err
}

// Revocation takes one document of the revocation stream. Errors: as Replica.AddRevocations.
func (r *Rehearsal) Revocation(env *intent.Envelope) (fresh bool, err error) {
	_, err = r.revocation.Accept(env)
	if errors.Is(err, document.ErrKnown) || errors.Is(err, document.ErrReplay) {
		_, err := r.revocation.Peek(env)
		return false, err
	}
	return err == nil, err
}

// Intent takes one entry. Errors: as Replica.Receive.
func (r *Rehearsal) Intent(env *intent.Envelope) (fresh bool, err error) {
	_, counts, err := r.chain.Take(env)
	if errors.Is(err, document.ErrKnown) || errors.Is(err, document.ErrReplay) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if r.waits = !counts; counts {
		r.counted = r.chain.Head
	}
	if r.wrong == nil {
		if aerr := r.self.apply(r.next, env.Payload); aerr != nil {
			r.wrong = fmt.Errorf("entry %d: %w", r.chain.Head.Seq, aerr)
		}
	}
	return true, nil
}

// Outcome is where a rehearsal led.
type Outcome struct {
	Trust, Revocation, Staged intent.Head
	Rejected                  string // why what was verified would not be active
}

// End tells where the streams would be. Errors: document.ErrRetired.
func (r *Rehearsal) End() (o Outcome, err error) {
	wrong := r.wrong
	if wrong == nil {
		wrong = r.next.check()
	}
	if wrong != nil {
		o.Rejected = wrong.Error()
	}
	if r.waits {
		err = fmt.Errorf("cannot take the entries beyond %d: %w", r.counted.Seq, document.ErrRetired)
	}
	o.Trust, o.Revocation, o.Staged = r.trust.Head, r.revocation.Head, r.counted
	return o, err
}
