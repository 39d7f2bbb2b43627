package replica

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
	"github.com/skerry-metal/skerry/storage/state"
)

// Sources are where envelopes come from that cannot be read here any more.
type Sources struct {
	// Intent are who may have the site's chain, best first. Each calls fn for envelopes from seq on, in order, as far as it has
	// them, and passes on what fn returns.
	Intent []func(ctx context.Context, from uint64, fn func(*intent.Envelope) error) error
	// Trust returns trust documents in order, as far as they are known.
	Trust func(ctx context.Context) []*intent.Envelope
	// Revocations returns documents of the revocation stream, of any source.
	Revocations func(ctx context.Context) []*intent.Envelope
}

// Buckets lists the buckets that Repair puts right.
func Buckets() []string {
	return []string{bucketMeta, bucketTrust, bucketIntent, bucketObject, bucketTomb, bucketAck, bucketSealed, bucketRoster, bucketRevocation}
}

// Repair puts right what is damaged of the signed state. Everything follows from the chain, and the chain from its head: each
// entry names the hash of the one before, so an envelope counts as the lost one only if it has that hash, whoever gave it.
// Objects, tombstones, secrets and roster are then worked out again from the first entry on. Errors name what is still missing.
func (s *Replica) Repair(ctx context.Context, from Sources) error {
	head := s.anchor()
	found, err := s.refetch(ctx, head, from)
	if err != nil {
		return err
	}
	trust, revoked := from.Trust(ctx), from.Revocations(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chain.Head == (intent.Head{}) {
		s.chain.Head = head
	}
	if err := s.db.Repair(bucketIntent, s.entries(found)); err != nil {
		return err
	}
	if err := s.relive(); err != nil {
		return err
	}
	s.bump()
	return errors.Join(s.repairTrust(trust), s.repairRevocations(revoked), s.repairDerived(), s.refreshView())
}

// anchor returns the staged head: the hash that everything is checked against. It bears a MAC in the store, or in the marks.
func (s *Replica) anchor() intent.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chain.Head != (intent.Head{}) {
		return s.chain.Head
	}
	return s.mark.Heads[intent.StreamIntent]
}

// read returns one stored envelope. Errors: state.ErrDamaged for one that is lost or no envelope.
func (s *Replica) read(seq uint64) (*intent.Envelope, error) {
	var env *intent.Envelope
	err := s.db.View(func(tx *state.Tx) error {
		b, err := tx.Get(bucketIntent, seqKey(seq))
		if err != nil {
			return fmt.Errorf("%w: %w", state.ErrDamaged, err)
		}
		env, err = document.Decode(b)
		return err
	})
	return env, err
}

// refetch gets the envelopes up to head that cannot be read here, and follows the hashes from head down to the first.
func (s *Replica) refetch(ctx context.Context, head intent.Head, from Sources) (map[uint64]*intent.Envelope, error) {
	lost := map[uint64]bool{}
	first := uint64(0)
	for seq := head.Seq; seq > 0; seq-- {
		if _, err := s.read(seq); err != nil {
			lost[seq], first = true, seq
		}
	}
	err := s.linked(head, nil)
	if err == nil {
		return nil, nil
	}
	for _, source := range from.Intent {
		found := map[uint64]*intent.Envelope{}
		serr := source(ctx, first, func(env *intent.Envelope) error {
			e, err := intent.DecodeEntry(env.Payload)
			if err != nil {
				return err
			}
			if lost[e.Seq] {
				found[e.Seq] = env
			}
			if len(found) == len(lost) || e.Seq >= head.Seq {
				return state.ErrStop
			}
			return nil
		})
		if err = s.linked(head, found); err == nil {
			return found, nil
		}
		if !errors.Is(serr, state.ErrStop) {
			err = errors.Join(err, serr)
		}
	}
	return nil, fmt.Errorf("cannot repair intent: %w", err)
}

// linked follows the hashes from head down, through found and the store. Who holds the lock gives no found: it takes it.
func (s *Replica) linked(head intent.Head, found map[uint64]*intent.Envelope) error {
	want := head.Hash.String()
	for seq := head.Seq; seq > 0; seq-- {
		env := found[seq]
		if env == nil {
			var err error
			if env, err = s.read(seq); err != nil {
				return fmt.Errorf("entry %d is lost: %w", seq, err)
			}
		}
		if env.Digest().String() != want {
			return fmt.Errorf("entry %d is not the one that its successor names: %w", seq, document.ErrFork)
		}
		e, err := intent.DecodeEntry(env.Payload)
		if err != nil {
			return fmt.Errorf("entry %d: %w", seq, err)
		}
		if found[seq] != nil {
			if err := s.signed(env, e); err != nil {
				return fmt.Errorf("entry %d: %w", seq, err)
			}
		}
		want = e.Prev
	}
	return nil
}

// signed tells whether a writer of the entry's epoch signed env: the hash covers the payload alone, and a lost signature would make
// every peer refuse the entry. Where no writer of that epoch is listed any more, nobody can tell, and the hash decides.
func (s *Replica) signed(env *intent.Envelope, e *intent.Entry) error {
	s.mu.Lock()
	writers := s.chain.Writers
	s.mu.Unlock()
	var keys []ed25519.PublicKey
	for _, w := range writers {
		if k, err := document.ParseKey(w.Key); err == nil && w.Epoch == e.Epoch {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	_, err := document.SignedBy(env, intent.PayloadIntent, keys)
	return err
}

// entries yields the whole chain as it is stored. The caller holds the lock.
func (s *Replica) entries(found map[uint64]*intent.Envelope) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for seq := uint64(1); seq <= s.chain.Head.Seq; seq++ {
			env := found[seq]
			if env == nil {
				var err error
				if env, err = s.read(seq); err != nil {
					continue // Repair of the store finds it unreadable and says so
				}
			}
			if b, err := document.Encode(env); err == nil && !yield(seqKey(seq), b) {
				return
			}
		}
	}
}

// relive works out the active state again from the first entry of the chain. The caller holds the lock or is alone. On an error
// the state stays as it was read.
func (s *Replica) relive() error {
	unknown := s.active == (intent.Head{})
	if s.chain.Head == (intent.Head{}) {
		s.chain.Head = s.mark.Heads[intent.StreamIntent]
	}
	upTo := s.active
	if unknown {
		upTo = s.chain.Head
		if len(s.objects) > 0 {
			s.active = upTo // if the chain does not tell, what was read stands; entries are not laid over it twice
		}
	}
	if err := s.linked(s.chain.Head, nil); err != nil {
		return err
	}
	t := &Replica{db: s.db, id: s.id, self: s.self, ring: s.ring, log: slog.New(slog.DiscardHandler), wake: make(chan struct{})}
	t.empty()
	t.chain.Head = upTo
	// What an active entry requires was here when it became so, and the marks have it: documents themselves may be damaged too.
	t.trust.Head, t.revocation.Head = s.reached(intent.StreamTrust, s.trust.Head), s.reached(intent.StreamRevocation, s.revocation.Head)
	for t.active.Seq < upTo.Seq {
		n, err := t.run(false)
		if n == nil {
			n, err = t.run(true)
		}
		if n == nil {
			if unknown {
				break // it was not active before either
			}
			return fmt.Errorf("cannot work out intent: %w", err)
		}
		t.take(n)
	}
	if !unknown && t.active != upTo {
		return fmt.Errorf("cannot work out intent: the chain leads to %d.%d, active is %d.%d: %w", t.active.Epoch, t.active.Seq, upTo.Epoch, upTo.Seq, state.ErrDamaged)
	}
	roster, err := s.lastRoster()
	if err != nil {
		return err
	}
	if roster != nil {
		s.roster = roster
	}
	s.vain = vain{}
	s.active, s.objects, s.tombs, s.acks, s.sealed, s.deks = t.active, t.objects, t.tombs, t.acks, t.sealed, t.deks
	return nil
}

// reached returns the highest head of a stream that this agent is known to have had.
func (s *Replica) reached(stream string, head intent.Head) intent.Head {
	if m := s.mark.Heads[stream]; m.Compare(head) > 0 {
		return m
	}
	return head
}

// lastRoster returns the newest roster of the chain, staged ones too: rosters act on receipt. Nil: there is none.
func (s *Replica) lastRoster() (*intent.RosterBody, error) {
	for seq := s.chain.Head.Seq; seq > 0; seq-- {
		env, err := s.read(seq)
		if err != nil {
			return nil, err
		}
		e, err := intent.DecodeEntry(env.Payload)
		if err != nil || e.Kind != intent.EntryRoster {
			continue
		}
		r := &intent.RosterBody{}
		return r, intent.DecodeStrict(e.Body, r)
	}
	return nil, nil
}

// repairTrust completes the trust documents from given and checks them from the pin to the head.
func (s *Replica) repairTrust(given []*intent.Envelope) error {
	chain := document.TrustChain{Pin: s.trust.Pin, Accepted: s.trust.Accepted}
	whole := map[string][]byte{}
	for seq := max(s.trust.First(), 1); seq <= s.trust.Head.Seq; seq++ {
		env, err := s.trustDocument(seq, given)
		if err == nil {
			_, err = chain.Accept(env)
		}
		if err != nil {
			return fmt.Errorf("cannot repair trust document %d: %w", seq, err)
		}
		if whole[seqKey(seq)], err = document.Encode(env); err != nil {
			return err
		}
	}
	if chain.Head != s.trust.Head {
		return fmt.Errorf("cannot repair trust: the documents lead to another head: %w", document.ErrFork)
	}
	if err := s.db.View(func(tx *state.Tx) error { // evidence, and what a person decided, stays where it can still be read
		var errs []error
		for _, prefix := range []string{acceptedPrefix, forkPrefix, offeredKey} {
			errs = append(errs, tx.Walk(bucketTrust, prefix, func(key string, b []byte) error {
				whole[key] = slices.Clone(b)
				return nil
			}))
		}
		return errors.Join(errs...)
	}); err != nil && !errors.Is(err, state.ErrDamaged) {
		return err
	}
	return s.db.Repair(bucketTrust, maps.All(whole))
}

func (s *Replica) trustDocument(seq uint64, given []*intent.Envelope) (env *intent.Envelope, err error) {
	err = s.db.View(func(tx *state.Tx) error {
		b, err := tx.Get(bucketTrust, seqKey(seq))
		if err == nil {
			env, err = document.Decode(b)
		}
		return err
	})
	if err == nil {
		return env, nil
	}
	for _, env := range given {
		var h struct {
			Seq uint64 `json:"seq"`
		}
		if json.Unmarshal(env.Payload, &h) == nil && h.Seq == seq {
			return env, nil
		}
	}
	return nil, err
}

// repairRevocations completes the stream from given, and counts what comes beyond it: the set only grows.
func (s *Replica) repairRevocations(given []*intent.Envelope) error {
	whole, by := map[string][]byte{}, map[intent.Digest]*intent.RevocationBody{}
	take := func(env *intent.Envelope, own bool) error {
		body := &intent.RevocationBody{}
		if own { // it bears our MAC: its writer may have been retired since
			if err := intent.DecodeStrict(env.Payload, body); err != nil {
				return err
			}
		} else {
			var err error
			if body, err = s.revocation.Peek(env); err != nil {
				return err
			}
		}
		wire, err := document.Encode(env)
		whole[seqKey(body.Seq)+"/"+env.Digest().Hex()], by[env.Digest()] = wire, body
		return err
	}
	err := s.RevocationFeed(0, func(env *intent.Envelope) error { return take(env, true) })
	if err != nil && !errors.Is(err, state.ErrDamaged) {
		return err
	}
	for _, env := range given {
		if err := take(env, false); err != nil {
			s.log.Warn("revocation not taken for a repair", "err", err)
		}
	}
	want := s.revocation.Head.Hash.String()
	for seq := s.revocation.Head.Seq; seq > 0; seq-- {
		d, err := intent.ParseDigest(want)
		if err != nil || by[d] == nil {
			return fmt.Errorf("cannot repair revocations: document %d is lost and nobody gave it: %w", seq, state.ErrDamaged)
		}
		want = by[d].Prev
	}
	for _, body := range by {
		s.revoked = s.revoked.With(body.Entries)
	}
	return s.db.Repair(bucketRevocation, maps.All(whole))
}

// repairDerived writes what was worked out from the chain over what cannot be read. The caller holds the lock.
func (s *Replica) repairDerived() error {
	whole := map[string]map[string]any{
		bucketMeta: {"staged": s.chain.Head}, bucketObject: {}, bucketTomb: {}, bucketAck: {}, bucketSealed: {}, bucketRoster: {},
	}
	if s.active != (intent.Head{}) {
		whole[bucketMeta]["head"] = s.active
	}
	if s.revocation.Head != (intent.Head{}) {
		whole[bucketMeta]["revocation"] = s.revocation.Head
	}
	if s.decisions.Count() > 0 { // a lost one is taken again from the journal
		whole[bucketMeta]["decisions"] = s.decisions
	}
	if len(s.roster.Agents) > 0 && s.roster.Generation > 0 { // a seeded one is no entry of the chain
		whole[bucketRoster]["latest"] = s.roster
	}
	for k, v := range s.objects {
		whole[bucketObject][k] = v
	}
	for k, v := range s.tombs {
		whole[bucketTomb][k] = v
	}
	for k, v := range s.acks {
		whole[bucketAck][k] = v
	}
	for k, v := range s.sealed {
		whole[bucketSealed]["rec/"+k] = v
	}
	for k, v := range s.deks {
		whole[bucketSealed][fmt.Sprintf("dek/%d", k)] = v
	}
	var errs []error
	for bucket, records := range whole {
		encoded := map[string][]byte{}
		for k, v := range records {
			b, err := json.Marshal(v)
			if err != nil {
				return fmt.Errorf("cannot encode %s/%s: %w", bucket, k, err)
			}
			encoded[k] = b
		}
		errs = append(errs, s.db.Repair(bucket, maps.All(encoded)))
	}
	return errors.Join(errs...)
}

// Stored returns the heads that a store holds by stream, and its roster (nil: none), without opening a Replica.
func Stored(db *state.DB) (heads map[string]intent.Head, roster *intent.RosterBody, err error) {
	var staged, revocation intent.Head
	r := &intent.RosterBody{}
	err = db.View(func(tx *state.Tx) error {
		return errors.Join(getJSON(tx, bucketMeta, "staged", &staged), getJSON(tx, bucketMeta, "revocation", &revocation), getJSON(tx, bucketRoster, "latest", r))
	})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read heads: %w", err)
	}
	if len(r.Agents) > 0 {
		roster = r
	}
	return map[string]intent.Head{intent.StreamIntent: staged, intent.StreamRevocation: revocation}, roster, nil
}
