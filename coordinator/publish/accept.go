package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

const (
	offeredKey     = "offered/trust"   // the document of the announced roots alone that waits for a person
	acceptedPrefix = "accepted/trust/" // digest: Acceptance. Sorts before the stream: who reads a backup knows it by then
)

// Acceptance is a document of the announced roots alone that a person let count.
type Acceptance struct {
	Digest intent.Digest `json:"digest"`
	Seq    uint64        `json:"seq"`
	By     string        `json:"by"`
	At     time.Time     `json:"at"`
}

// ErrNotOffered says that the document that is to be accepted does not wait here.
var ErrNotOffered = errors.New("no such document is offered here")

// Record returns the key and value that keep a.
func (a Acceptance) Record() (key string, v []byte, err error) {
	if v, err = json.Marshal(a); err != nil {
		return "", nil, fmt.Errorf("cannot encode acceptance: %w", err)
	}
	return acceptedPrefix + a.Digest.Hex(), v, nil
}

// besides reads what was accepted, by digest, and what is offered.
func (t *Trust) besides(ctx context.Context) (accepted []intent.Digest, offer *intent.Envelope, err error) {
	err = t.st.Range(ctx, acceptedPrefix, "", func(e store.Entry) error {
		d, err := DecodeAcceptance(e.Value)
		accepted = append(accepted, d)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	e, err := t.st.Get(ctx, offeredKey)
	if errors.Is(err, store.ErrAbsent) {
		return accepted, nil, nil
	}
	if err == nil {
		offer, err = document.Decode(e.Value)
	}
	return accepted, offer, err
}

// DecodeAcceptance reads the value of a record and returns which document counts.
func DecodeAcceptance(v []byte) (intent.Digest, error) {
	var a Acceptance
	if err := json.Unmarshal(v, &a); err != nil {
		return a.Digest, fmt.Errorf("cannot read what was accepted: %w", err)
	}
	return a.Digest, nil
}

// Offered returns the document that waits for Accept; nil for none.
func (t *Trust) Offered() *intent.Envelope {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting()
}

// waiting returns the offered document as long as it can be accepted.
func (t *Trust) waiting() *intent.Envelope {
	if t.offer == nil {
		return nil
	}
	chain := t.chain
	if _, err := chain.Accept(t.offer); !errors.Is(err, document.ErrOffered) {
		return nil
	}
	return t.offer
}

// keepOffer keeps env, which was verified, with more. The caller holds the lock.
func (t *Trust) keepOffer(ctx context.Context, env *intent.Envelope, more store.Commit) error {
	byPerson := len(more.Put) > 0
	if have := t.waiting(); have != nil && (!byPerson || have.Digest() == env.Digest()) {
		if byPerson {
			_, err := t.st.Commit(ctx, more)
			return err
		}
		return nil
	}
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	if more.Put == nil {
		more.Put = map[string][]byte{}
	}
	more.Put[offeredKey] = wire
	if _, err := t.st.Commit(ctx, more); err != nil {
		return fmt.Errorf("cannot keep offered trust document: %w", err)
	}
	t.offer = env
	return nil
}

// Rehearse returns the chain as it would be after Accept. Errors: ErrNotOffered.
func (t *Trust) Rehearse(d intent.Digest) (document.TrustChain, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	chain, _, err := t.rehearse(d)
	return chain, err
}

func (t *Trust) rehearse(d intent.Digest) (chain document.TrustChain, env *intent.Envelope, err error) {
	if env = t.waiting(); env == nil || env.Digest() != d {
		return chain, nil, fmt.Errorf("cannot accept trust document %s: %w", d.Short(), ErrNotOffered)
	}
	chain = t.chain
	// In the order in which they are read again.
	i, _ := slices.BinarySearchFunc(chain.Accepted, d, func(a, b intent.Digest) int { return slices.Compare(a[:], b[:]) })
	chain.Accepted = slices.Insert(slices.Clone(chain.Accepted), i, d)
	_, err = chain.Accept(env)
	return chain, env, err
}

// Accept lets the offered document of that digest count, with more: documents of the old roots from its place on become evidence.
// Errors: ErrNotOffered; store.ErrConflict when another coordinator was faster.
func (t *Trust) Accept(ctx context.Context, d intent.Digest, by string, at time.Time, more store.Commit) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	chain, env, err := t.rehearse(d)
	if err != nil {
		return err
	}
	wire, err := document.Encode(env)
	if err != nil {
		return err
	}
	key, v, err := Acceptance{Digest: d, Seq: chain.Head.Seq, By: by, At: at.UTC().Truncate(time.Second)}.Record()
	if err != nil {
		return err
	}
	if more.Put == nil {
		more.Put = map[string][]byte{}
	}
	forks := t.forks
	for seq := chain.Head.Seq; seq <= t.chain.Head.Seq; seq++ {
		e, err := t.st.Get(ctx, TrustKey(seq))
		if err != nil {
			return err
		}
		gone, err := document.Decode(e.Value)
		if err != nil {
			return err
		}
		more.If = append(more.If, store.Guard{Key: e.Key, Rev: e.Rev})
		if forks < maxForks {
			more.Put[forkKey(seq, gone.Digest())] = e.Value
			forks++
		}
		if seq > chain.Head.Seq {
			more.Delete = append(more.Delete, e.Key)
		}
	}
	more.If = append(more.If, store.Guard{Key: TrustKey(max(chain.Head.Seq, t.chain.Head.Seq+1))}, store.Guard{Key: key})
	more.Put[TrustKey(chain.Head.Seq)], more.Put[key] = wire, v
	more.Delete = append(more.Delete, offeredKey)
	if _, err := t.st.Commit(ctx, more); err != nil {
		return fmt.Errorf("cannot keep accepted trust %d: %w", chain.Head.Seq, err)
	}
	first := chain.First()
	t.chain, t.envs, t.forks, t.offer = chain, append(slices.Clip(t.envs[:chain.Head.Seq-first]), env), forks, nil
	return nil
}
