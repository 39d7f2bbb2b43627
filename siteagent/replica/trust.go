package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/storage/state"
)

// Forked documents are kept beside the trust stream: their keys sort after every sequence number that there will be.
const (
	forkPrefix  = "fork/"
	intentForks = forkPrefix + "intent/"
	maxForks    = 16 // of each stream: one proves it, more come from whoever holds the keys anyway
)

// AddTrust takes trust documents in order; known ones are skipped. What it returned nil for is on disk and in the marks. A fork is
// refused and kept as evidence; one that only the announced roots signed is kept for AcceptTrust, unless another one is. Errors: of the
// first document that was refused, as document.TrustChain.Accept; those before it count.
func (s *Replica) AddTrust(envs []*intent.Envelope) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.trust.Head
	var refused error
	for _, env := range envs {
		if refused = s.addTrust(env); refused != nil {
			break
		}
	}
	if s.trust.Head == before {
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

func (s *Replica) addTrust(env *intent.Envelope) error {
	chain := s.trust
	body, err := chain.Accept(env)
	switch {
	case errors.Is(err, document.ErrKnown), errors.Is(err, document.ErrReplay):
		return nil
	case errors.Is(err, document.ErrFork):
		return errors.Join(err, s.keepFork(forkPrefix, env))
	case errors.Is(err, document.ErrOffered):
		return errors.Join(err, s.keepOffer(env, false))
	case err != nil:
		return err
	}
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	s.floor.Observe(body.Issued)
	if body.Floor != nil { // in the marks before the document is kept: once known it is not read again
		s.floor.Lower(*body.Floor)
		if err := s.saveMarks(); err != nil {
			return err
		}
	}
	if err := s.db.UpdateSigned(func(tx *state.Tx) error { return tx.Put(bucketTrust, seqKey(body.Seq), wire) }); err != nil {
		return fmt.Errorf("cannot keep trust %d: %w", body.Seq, err)
	}
	s.trust = chain
	s.chain.Writers, s.revocation.Writers = body.Writers, body.Writers
	return nil
}

// keepFork keeps a document that its writers or roots signed for a place that another has.
func (s *Replica) keepFork(prefix string, env *intent.Envelope) error {
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	key := prefix + env.Digest().Hex()
	return s.db.UpdateSigned(func(tx *state.Tx) error {
		n, known := 0, false
		err := walkForks(tx, prefix, func(k string, _ []byte) error {
			n, known = n+1, known || k == key
			return nil
		})
		if err != nil || known || n >= maxForks {
			return err
		}
		return tx.Put(bucketTrust, key, wire)
	})
}

// walkForks calls fn for the forks of one stream.
func walkForks(tx *state.Tx, prefix string, fn func(key string, b []byte) error) error {
	return tx.Walk(bucketTrust, prefix, func(key string, b []byte) error {
		if prefix == forkPrefix && strings.HasPrefix(key, intentForks) {
			return nil
		}
		return fn(key, b)
	})
}

// TrustForks returns the trust documents that the roots signed for a place that another has.
func (s *Replica) TrustForks() ([]*intent.Envelope, error) { return s.forks(forkPrefix) }

// TrustEvidence is a number of the set that TrustForks returns, by the contents alone: 0 for none, or while it cannot be read.
func (s *Replica) TrustEvidence() (sum uint64) {
	envs, err := s.TrustForks()
	if err != nil {
		return 0
	}
	for _, env := range envs { // a set has no order
		d := env.Digest()
		sum ^= binary.BigEndian.Uint64(d[:])
	}
	return sum
}

// IntentForks returns the entries of this site that a writer signed for a place that another has.
func (s *Replica) IntentForks() ([]*intent.Envelope, error) { return s.forks(intentForks) }

func (s *Replica) forks(prefix string) (envs []*intent.Envelope, err error) {
	err = s.db.View(func(tx *state.Tx) error {
		return walkForks(tx, prefix, func(_ string, b []byte) error {
			env, err := document.Decode(b)
			envs = append(envs, env)
			return err
		})
	})
	return envs, err
}

// TrustFeed calls fn for the documents of the stream from seq on, in order. It begins at the pinned one.
func (s *Replica) TrustFeed(from uint64, fn func(*intent.Envelope) error) error {
	chain := s.TrustChain()
	return s.db.View(func(tx *state.Tx) error {
		for seq := max(from, chain.First(), 1); seq <= chain.Head.Seq; seq++ {
			b, err := tx.Get(bucketTrust, seqKey(seq))
			if err != nil {
				return fmt.Errorf("cannot read trust %d: %w", seq, err)
			}
			env, err := document.Decode(b)
			if err != nil {
				return err
			}
			if err := fn(env); err != nil {
				return err
			}
		}
		return nil
	})
}

// TrustChain returns the chain at its head; do not modify what it points to.
func (s *Replica) TrustChain() document.TrustChain {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trust
}

// TrustHead returns the head of the trust stream.
func (s *Replica) TrustHead() intent.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trust.Head
}

// Coordinators lists the coordinators of the trust document; do not modify.
func (s *Replica) Coordinators() []intent.Coordinator {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trust.Body == nil {
		return nil
	}
	return s.trust.Body.Coordinators
}
