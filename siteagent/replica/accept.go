package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/storage/state"
)

// What lies beside the trust stream for a document that only the announced roots signed.
const (
	offeredKey     = "offered"   // the one that waits for a person
	acceptedPrefix = "accepted/" // digest: Acceptance
)

// Acceptance is what a person let count, and what it put out of force.
type Acceptance struct {
	Digest intent.Digest `json:"digest"`
	Seq    uint64        `json:"seq"`
	By     string        `json:"by"`
	At     time.Time     `json:"at"`
	Was    intent.Head   `json:"was"` // the head that it took the place of, or followed
}

// ErrNotOffered says that the document that is to be accepted does not wait here.
var ErrNotOffered = errors.New("no such document is offered here")

// OfferTrust takes a document that a person brought: when only the announced roots signed it, it takes the place of another one that is
// offered. Errors: as AddTrust.
func (s *Replica) OfferTrust(env *intent.Envelope) error {
	err := s.AddTrust([]*intent.Envelope{env})
	if !errors.Is(err, document.ErrOffered) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(err, s.keepOffer(env, true))
}

// keepOffer keeps env for a person. One that waits stays, unless it cannot be accepted any more or instead is set. The caller holds the
// lock, and has verified env.
func (s *Replica) keepOffer(env *intent.Envelope, instead bool) error {
	if have := s.waiting(); have != nil && (!instead || have.Digest() == env.Digest()) {
		return nil
	}
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	if err := s.db.UpdateSigned(func(tx *state.Tx) error { return tx.Put(bucketTrust, offeredKey, wire) }); err != nil {
		return fmt.Errorf("cannot keep offered trust document: %w", err)
	}
	s.offered = env
	s.bump()
	return nil
}

// waiting returns the offered document as long as it can be accepted.
func (s *Replica) waiting() *intent.Envelope {
	if s.offered == nil {
		return nil
	}
	chain := s.trust
	if _, err := chain.Accept(s.offered); !errors.Is(err, document.ErrOffered) {
		return nil
	}
	return s.offered
}

// OfferedTrust returns the document that waits for AcceptTrust; nil for none.
func (s *Replica) OfferedTrust() *intent.Envelope {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting()
}

// AcceptTrust lets the offered document of that digest count: from then on this agent follows it, also after a restart. Documents of the
// old roots from its place on go to the evidence. was and is are the documents in force before and then; do not modify. With dryRun
// nothing changes. Errors: ErrNotOffered; nothing changed then.
func (s *Replica) AcceptTrust(d intent.Digest, by string, at time.Time, dryRun bool) (was, is *intent.TrustBody, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	env := s.waiting()
	if env == nil || env.Digest() != d {
		return nil, nil, fmt.Errorf("cannot accept trust document %s: %w", d.Short(), ErrNotOffered)
	}
	old, chain := s.trust, s.trust
	chain.Accepted = append(slices.Clip(chain.Accepted), d)
	body, err := chain.Accept(env)
	if err != nil || dryRun {
		return old.Body, body, err
	}
	s.floor.Observe(body.Issued)
	if body.Floor != nil { // in the marks before the document is kept, as addTrust does
		s.floor.Lower(*body.Floor)
		if err := s.saveMarks(); err != nil {
			return nil, nil, err
		}
	}
	if err := s.replace(Acceptance{Digest: d, Seq: body.Seq, By: by, At: at.UTC().Truncate(time.Second), Was: old.Head}, env, old.Head.Seq); err != nil {
		return nil, nil, err
	}
	// Who dies here starts with marks that may name a head that is out of force: the acceptance says so.
	s.trust, s.offered = chain, nil
	s.was = append(s.was, old.Head.Hash)
	s.chain.Writers, s.revocation.Writers = body.Writers, body.Writers
	if err := s.saveMarks(); err != nil {
		return nil, nil, err
	}
	err = s.refreshView()
	s.bump()
	s.goOn()
	return old.Body, body, err
}

// replace writes the acceptance with its document in one transaction, and moves what was in force from there on to the evidence.
func (s *Replica) replace(a Acceptance, env *intent.Envelope, last uint64) error {
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	// The offered copy stays until another takes its place: a bucket on hold takes signed documents, and deletes nothing.
	err = s.db.UpdateSigned(func(tx *state.Tx) error {
		n := 0
		if err := walkForks(tx, forkPrefix, func(string, []byte) error { n++; return nil }); err != nil {
			return err
		}
		for seq := a.Seq; seq <= last; seq++ {
			b, err := tx.Get(bucketTrust, seqKey(seq))
			if err != nil {
				return err
			}
			gone, err := document.Decode(b)
			if err != nil {
				return err
			}
			if n++; n <= maxForks {
				err = tx.Put(bucketTrust, forkPrefix+gone.Digest().Hex(), slices.Clone(b))
			}
			if err == nil {
				err = tx.Delete(bucketTrust, seqKey(seq))
			}
			if err != nil {
				return err
			}
		}
		return errors.Join(putJSON(tx, bucketTrust, acceptedPrefix+a.Digest.Hex(), a), tx.Put(bucketTrust, seqKey(a.Seq), wire))
	})
	if err != nil {
		return fmt.Errorf("cannot keep accepted trust %d: %w", a.Seq, err)
	}
	return nil
}

// loadAccepted reads what was accepted and what is offered, before the stream is walked.
func (s *Replica) loadAccepted(tx *state.Tx) error {
	err := tx.Walk(bucketTrust, acceptedPrefix, func(key string, b []byte) error {
		var a Acceptance
		if err := json.Unmarshal(b, &a); err != nil {
			return fmt.Errorf("cannot read %s/%s: %w", bucketTrust, key, err)
		}
		s.trust.Accepted, s.was = append(s.trust.Accepted, a.Digest), append(s.was, a.Was.Hash)
		return nil
	})
	b, gerr := tx.Get(bucketTrust, offeredKey)
	switch {
	case errors.Is(gerr, state.ErrAbsent):
		return err
	case gerr == nil:
		s.offered, gerr = document.Decode(b)
	}
	return errors.Join(err, gerr)
}

// outOfForce tells whether h was the head when an acceptance put it out of force: a mark at it is no sign of an older copy.
func (s *Replica) outOfForce(h intent.Head) bool {
	return slices.Contains(s.was, h.Hash) && h.Seq >= s.trust.Head.Seq && h.Hash != s.trust.Head.Hash
}
