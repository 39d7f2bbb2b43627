package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

func revocationKey(seq uint64) string { return fmt.Sprintf("revocation/%016x", seq) }

// Revocations is the domain's one revocation stream: grow-only, signed by the publisher's writer. Safe for concurrent use.
type Revocations struct {
	pub *Publisher

	mu      sync.Mutex // guards what follows; held over a commit, so that the stream has one writer in this process
	head    intent.Head
	entries []intent.Revocation
}

// OpenRevocations reads the stream from the publisher's store.
func OpenRevocations(ctx context.Context, p *Publisher) (*Revocations, error) {
	r := &Revocations{pub: p}
	if err := r.Load(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// Load takes the documents that the store has beyond what is known here: another coordinator put them there.
func (r *Revocations) Load(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	head, entries := r.head, slices.Clip(r.entries)
	err := r.pub.Store.Range(ctx, "revocation/", revocationKey(head.Seq+1), func(e store.Entry) error {
		env, err := document.Decode(e.Value)
		if err != nil {
			return err
		}
		b := &intent.RevocationBody{}
		if err := intent.DecodeStrict(env.Payload, b); err != nil {
			return err
		}
		head = intent.Head{Epoch: b.Epoch, Seq: b.Seq, Hash: env.Digest()}
		entries = append(entries, b.Entries...)
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot read revocations: %w", err)
	}
	r.head, r.entries = head, entries
	return nil
}

// Head returns the newest document's place; the zero Head when nothing was ever revoked.
func (r *Revocations) Head() intent.Head {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.head
}

// Entries lists all that was revoked, oldest first.
func (r *Revocations) Entries() []intent.Revocation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.entries)
}

// Has tells whether (kind, id) was revoked.
func (r *Revocations) Has(kind intent.RevocationKind, id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.has(kind, id)
}

func (r *Revocations) has(kind intent.RevocationKind, id string) bool {
	return slices.ContainsFunc(r.entries, func(e intent.Revocation) bool { return e.Kind == kind && e.ID == id })
}

// Add signs one document with the entries that are new, together with more; nothing new is no document. What it returns as added
// is on disk. Errors: store.ErrConflict when another coordinator was faster.
func (r *Revocations) Add(ctx context.Context, entries []intent.Revocation, more store.Commit) (added int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries = slices.DeleteFunc(slices.Clone(entries), func(e intent.Revocation) bool { return r.has(e.Kind, e.ID) })
	if len(entries) == 0 {
		return 0, nil
	}
	signer := r.pub.Signer()
	epoch, err := r.pub.Epoch(signer.Public())
	if err != nil {
		return 0, err
	}
	body := intent.RevocationBody{Header: document.Follow(r.head, intent.StreamRevocation, epoch, r.pub.Now()), Entries: entries}
	if err := body.Validate(); err != nil {
		return 0, err
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return 0, fmt.Errorf("cannot encode revocation: %w", err)
	}
	env, err := document.Sign(intent.PayloadRevocation, payload, signer)
	if err != nil {
		return 0, fmt.Errorf("cannot sign revocation: %w", err)
	}
	if _, err := r.pub.Store.Get(ctx, PendingKey); err == nil {
		return 0, errors.New("cannot revoke: this coordinator was restored, and revocations that are newer than its copy may be out; quarantine at the site, or start it with --recovered when there are none")
	} else if !errors.Is(err, store.ErrAbsent) {
		return 0, err
	}
	if err := r.keep(ctx, env, &body, more); err != nil {
		return 0, err
	}
	return len(entries), nil
}

// Take verifies a document that somebody else has beyond the head, and keeps it: this store is an older copy. added is false for
// one that is known. Errors: as document.RevocationChain.Accept; store.ErrConflict when another coordinator was faster.
func (r *Revocations) Take(ctx context.Context, env *intent.Envelope, writers []intent.Writer) (added bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	chain := document.RevocationChain{Head: r.head, Writers: writers}
	body, err := chain.Accept(env)
	if errors.Is(err, document.ErrKnown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, r.keep(ctx, env, body, store.Commit{})
}

// TakeAll takes what fetch gives of the stream beyond the head, and returns how many documents were new. Errors: of the first that
// was refused, those before it count.
func (r *Revocations) TakeAll(ctx context.Context, writers []intent.Writer, fetch func(stream string, take func(*intent.Envelope) error) error) (n int, err error) {
	err = fetch(fmt.Sprintf("revocations?from=%d", r.Head().Seq+1), func(env *intent.Envelope) error {
		added, err := r.Take(ctx, env, writers)
		if added {
			n++
		}
		return err
	})
	return n, err
}

// keep commits a document that follows the head, together with more. The caller holds the lock.
func (r *Revocations) keep(ctx context.Context, env *intent.Envelope, body *intent.RevocationBody, more store.Commit) error {
	wire, err := document.Encode(env)
	if err != nil {
		return fmt.Errorf("cannot encode revocation: %w", err)
	}
	if more.Put == nil {
		more.Put = map[string][]byte{}
	}
	more.Put[revocationKey(body.Seq)] = wire
	more.If = append(more.If, store.Guard{Key: revocationKey(body.Seq)})
	if _, err := r.pub.Store.Commit(ctx, more); err != nil {
		return fmt.Errorf("cannot keep revocation %d: %w", body.Seq, err)
	}
	r.head = intent.Head{Epoch: body.Epoch, Seq: body.Seq, Hash: env.Digest()}
	r.entries = append(slices.Clip(r.entries), body.Entries...)
	return nil
}

// Feed calls fn for the envelopes of the stream from seq on, in order.
func (r *Revocations) Feed(ctx context.Context, from uint64, fn func(*intent.Envelope) error) error {
	return r.pub.Store.Range(ctx, "revocation/", revocationKey(from), func(e store.Entry) error {
		env, err := document.Decode(e.Value)
		if err != nil {
			return fmt.Errorf("cannot read revocations: %w", err)
		}
		return fn(env)
	})
}
