package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// TrustKey is the key of one trust document.
func TrustKey(seq uint64) string { return fmt.Sprintf("trust/%016x", seq) }

func forkKey(seq uint64, d intent.Digest) string {
	return fmt.Sprintf("fork/trust/%016x/%s", seq, d.Hex())
}

// maxForks bounds the evidence that is kept: one proves it, more come from whoever holds the roots anyway.
const maxForks = 16

// Trust is the domain's one trust stream. The roots sign it, elsewhere: here it is checked, kept and given out. Safe for
// concurrent use.
type Trust struct {
	st store.Store

	mu    sync.Mutex // guards what follows; held over a commit, so that the stream has one writer in this process
	chain document.TrustChain
	envs  []*intent.Envelope
	forks int
	offer *intent.Envelope // waits for Accept; nil: none
}

// OpenTrust reads the stream. The own store is the anchor: its first document is the pin.
func OpenTrust(ctx context.Context, st store.Store) (*Trust, error) {
	t := &Trust{st: st}
	if err := t.Load(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// Load takes the documents that the store has beyond what is known here: another coordinator put them there.
func (t *Trust) Load(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	chain, envs, forks := t.chain, slices.Clip(t.envs), 0
	accepted, offer, err := t.besides(ctx)
	if err != nil {
		return fmt.Errorf("cannot read trust: %w", err)
	}
	if !slices.Equal(accepted, chain.Accepted) { // a person may have put documents out of force that were read before
		chain, envs = document.TrustChain{Accepted: accepted}, nil
	}
	err = t.st.Range(ctx, "trust/", TrustKey(chain.Head.Seq+1), func(e store.Entry) error {
		env, err := document.Decode(e.Value)
		if err != nil {
			return err
		}
		if chain.Body == nil {
			chain.Pin = env.Digest()
		}
		envs = append(envs, env)
		_, err = chain.Accept(env)
		return err
	})
	if err == nil {
		err = t.st.Range(ctx, "fork/trust/", "", func(store.Entry) error { forks++; return nil })
	}
	if err != nil {
		return fmt.Errorf("cannot read trust: %w", err)
	}
	t.chain, t.envs, t.forks, t.offer = chain, envs, forks, offer
	return nil
}

// Chain returns the chain at its head; its Body is nil when there is no document at all.
func (t *Trust) Chain() document.TrustChain {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.chain
}

// Head returns the newest document's place.
func (t *Trust) Head() intent.Head { return t.Chain().Head }

// Body returns the newest document; do not modify.
func (t *Trust) Body() *intent.TrustBody { return t.Chain().Body }

// Writers returns the keys of all writers that the newest document names, retired ones too.
func (t *Trust) Writers() [][]byte {
	var out [][]byte
	for _, w := range t.Body().Writers {
		out = append(out, w.Key)
	}
	return out
}

// From returns the documents from seq on, in order; do not modify.
func (t *Trust) From(seq uint64) []*intent.Envelope {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := t.chain.First() // a rebuilt coordinator may know the stream from a later document on
	return t.envs[min(max(seq, first)-first, uint64(len(t.envs))):]
}

// Forks counts the documents that the roots signed for a place that another has.
func (t *Trust) Forks() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.forks
}

// HasFork tells whether the document at a place is kept as evidence.
func (t *Trust) HasFork(ctx context.Context, h intent.Head) bool {
	_, err := t.st.Get(ctx, forkKey(h.Seq, h.Hash))
	return err == nil
}

// Add verifies env, which follows the head, and keeps it; added is false for one that is known. A fork is refused and kept as
// evidence. One that only the announced roots signed is kept for Accept, with more; another that waits stays, unless more is what a
// person wrote. Errors: as document.TrustChain.Accept; store.ErrConflict when another coordinator was faster.
func (t *Trust) Add(ctx context.Context, env *intent.Envelope, more store.Commit) (added bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	chain := t.chain
	body, err := chain.Accept(env)
	if errors.Is(err, document.ErrKnown) {
		return false, nil
	}
	if errors.Is(err, document.ErrFork) {
		return false, errors.Join(err, t.keepFork(ctx, env))
	}
	if errors.Is(err, document.ErrOffered) {
		return false, errors.Join(err, t.keepOffer(ctx, env, more))
	}
	if err != nil {
		return false, err
	}
	wire, err := document.Encode(env)
	if err != nil {
		return false, err
	}
	if more.Put == nil {
		more.Put = map[string][]byte{}
	}
	more.Put[TrustKey(body.Seq)] = wire
	more.If = append(more.If, store.Guard{Key: TrustKey(body.Seq)})
	if _, err := t.st.Commit(ctx, more); err != nil {
		return false, fmt.Errorf("cannot keep trust %d: %w", body.Seq, err)
	}
	t.chain, t.envs = chain, append(slices.Clip(t.envs), env)
	return true, nil
}

func (t *Trust) keepFork(ctx context.Context, env *intent.Envelope) error {
	h := &intent.TrustBody{}
	if err := intent.DecodeStrict(env.Payload, h); err != nil {
		return err
	}
	key := forkKey(h.Seq, env.Digest())
	if _, err := t.st.Get(ctx, key); !errors.Is(err, store.ErrAbsent) || t.forks >= maxForks {
		return err
	}
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	if _, err := t.st.Commit(ctx, store.Commit{Put: map[string][]byte{key: wire}}); err != nil {
		return fmt.Errorf("cannot keep evidence of a fork: %w", err)
	}
	t.forks++
	return nil
}
