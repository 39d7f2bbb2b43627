package document

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// What a chain says about a document that was validly signed but does not fit. A caller branches on them: ErrKnown is
// a no-op, ErrGap means fetch what is missing, ErrFork stops the stream and keeps both as evidence, the rest are refused
// and audited.
var (
	ErrKnown     = errors.New("already the head")
	ErrReplay    = errors.New("older than the head")
	ErrGap       = errors.New("entries before it are missing")
	ErrFork      = errors.New("chain forked")
	ErrOtherSite = errors.New("for another site")
	ErrSigner    = errors.New("not signed by a key that may sign it")
	ErrEpoch     = errors.New("epoch does not fit the writer or lies below the head's")
)

// Refused tells whether err lies in a document: the same one is refused again, however often it is tried. Anything else, a line
// that broke or a disk that was full, may be better later.
func Refused(err error) bool {
	for _, is := range []error{ErrReplay, ErrGap, ErrFork, ErrOtherSite, ErrSigner, ErrOffered, ErrRetired, ErrEpoch, ErrSize, ErrType, ErrSignature, ErrKey} {
		if errors.Is(err, is) {
			return true
		}
	}
	_, wrong := errors.AsType[intent.Problems](err)
	return wrong
}

// link applies chain rules 1 and 2 to one verified document: same stream, epoch not below, seq one above, prev the hash.
// The zero head is the empty chain: the first document has seq 1 and an empty prev.
// Source: trust.md section 4.
func link(head intent.Head, h intent.Header, hash intent.Digest) error {
	if h.Seq == head.Seq && head.Seq > 0 {
		if hash == head.Hash {
			return ErrKnown
		}
		return fmt.Errorf("cannot accept %s %d: hash %s, the head has %s: %w", h.Stream, h.Seq, hash.Short(), head.Hash.Short(), ErrFork)
	}
	switch {
	case h.Seq < head.Seq || h.Seq == 0:
		return fmt.Errorf("cannot accept %s %d: the head is %d: %w", h.Stream, h.Seq, head.Seq, ErrReplay)
	case h.Epoch < head.Epoch:
		return fmt.Errorf("cannot accept %s %d.%d: the head has epoch %d: %w", h.Stream, h.Epoch, h.Seq, head.Epoch, ErrEpoch)
	case h.Seq > head.Seq+1:
		return fmt.Errorf("cannot accept %s %d: the head is %d: %w", h.Stream, h.Seq, head.Seq, ErrGap)
	}
	want := ""
	if head.Seq > 0 {
		want = head.Hash.String()
	}
	if h.Prev != want {
		return fmt.Errorf("cannot accept %s %d: it follows another entry than the head %s: %w", h.Stream, h.Seq, head.Hash.Short(), ErrFork)
	}
	return nil
}

// Follow returns the header of the document that comes after head in stream. epoch is 0 for trust; issued is kept in UTC to
// the second.
func Follow(head intent.Head, stream string, epoch uint64, issued time.Time) intent.Header {
	h := intent.Header{Stream: stream, Epoch: epoch, Seq: head.Seq + 1, Issued: issued.UTC().Truncate(time.Second)}
	if head.Seq > 0 {
		h.Prev = head.Hash.String()
	}
	return h
}

// writerKeys returns the keys of the writers and, by key id, what each may sign.
func writerKeys(ws []intent.Writer) ([]ed25519.PublicKey, map[string]intent.Writer) {
	keys := make([]ed25519.PublicKey, 0, len(ws))
	by := make(map[string]intent.Writer, len(ws))
	for _, w := range ws {
		k, err := ParseKey(w.Key)
		if err != nil {
			continue // a key that cannot be parsed signs nothing; TrustChain refuses it before it comes here
		}
		keys = append(keys, k)
		by[KeyID(k)] = w
	}
	return keys, by
}

// openByWriter verifies env as signed by one of the writers and returns that writer.
func openByWriter(env *intent.Envelope, payloadType string, ws []intent.Writer) (intent.Writer, []byte, error) {
	keys, by := writerKeys(ws)
	k, err := SignedBy(env, payloadType, keys)
	if err != nil {
		if errors.Is(err, ErrSignature) {
			err = fmt.Errorf("%w: %w", ErrSigner, err)
		}
		return intent.Writer{}, nil, err
	}
	return by[KeyID(k)], env.Payload, nil
}

// IntentChain verifies one site's intent. The zero Head is an empty chain. Writers come from the verified trust document
// and are replaced by the owner when it moves on.
type IntentChain struct {
	Site    string
	Head    intent.Head
	Writers []intent.Writer
}

// Accept verifies env and moves the head onto it. On an error the chain is as it was. The body of the entry was checked
// for JSON shape only (activation validates it): an entry whose kind this agent does not know still belongs to the chain.
// Errors: ErrSigner, ErrRetired, ErrOtherSite, ErrEpoch, ErrKnown, ErrReplay, ErrGap, ErrFork, ErrSize, ErrType, intent.Problems.
func (c *IntentChain) Accept(env *intent.Envelope) (*intent.Entry, error) {
	es, err := c.AcceptRun([]*intent.Envelope{env})
	if err != nil {
		return nil, err
	}
	return es[0], nil
}

// ErrRetired says that entries of a retired writer are verified and wait: they count when one of a current writer follows them,
// because then it vouches for them by its hash. It is an ErrSigner.
var ErrRetired = fmt.Errorf("its writer is retired, and no entry of a current one follows: %w", ErrSigner)

// Take verifies env and moves the head onto it, as Accept does; counts is false for an entry of a retired writer. A caller takes on
// a copy of the chain, and keeps that once an entry counts. Errors: as Accept, without ErrRetired.
func (c *IntentChain) Take(env *intent.Envelope) (e *intent.Entry, counts bool, err error) {
	e, w, err := c.verify(env)
	if err != nil {
		return nil, false, err
	}
	c.Head = e.Head(env.Payload)
	return e, w.State != intent.KeyRetire, nil
}

// AcceptRun accepts envs in order, all or none. Entries of a retired writer count here when an entry of a current one
// follows them in the run; a run that ends on a retired writer is refused with ErrRetired.
// Errors: as Accept; of a run of several, wrapped with the index.
func (c *IntentChain) AcceptRun(envs []*intent.Envelope) ([]*intent.Entry, error) {
	run, counts := *c, true
	entries := make([]*intent.Entry, 0, len(envs))
	for i, env := range envs {
		e, now, err := run.Take(env)
		if err != nil && len(envs) > 1 {
			err = fmt.Errorf("cannot accept entry %d of the run: %w", i, err)
		}
		if err != nil {
			return nil, err
		}
		entries, counts = append(entries, e), now
	}
	if !counts {
		return nil, fmt.Errorf("cannot accept intent %d.%d: %w", run.Head.Epoch, run.Head.Seq, ErrRetired)
	}
	c.Head = run.Head
	return entries, nil
}

func (c *IntentChain) verify(env *intent.Envelope) (*intent.Entry, intent.Writer, error) {
	w, payload, err := openByWriter(env, intent.PayloadIntent, c.Writers)
	if err != nil {
		return nil, w, err
	}
	e := &intent.Entry{}
	if err := intent.DecodeStrict(payload, e); err != nil {
		return nil, w, fmt.Errorf("cannot decode intent entry: %w", err)
	}
	switch {
	case e.Stream != intent.StreamIntent:
		return nil, w, fmt.Errorf("cannot accept stream %q as intent: %w", e.Stream, ErrType)
	case e.Site != c.Site:
		return nil, w, fmt.Errorf("cannot accept intent %d of site %q at %q: %w", e.Seq, e.Site, c.Site, ErrOtherSite)
	case e.Epoch != w.Epoch:
		return nil, w, fmt.Errorf("cannot accept intent %d.%d: its writer has epoch %d: %w", e.Epoch, e.Seq, w.Epoch, ErrEpoch)
	}
	return e, w, link(c.Head, e.Header, env.Digest())
}

// RevocationChain verifies the revocation stream. Signers are the writers of trust; one in state retire signs nothing new.
type RevocationChain struct {
	Head    intent.Head
	Writers []intent.Writer
}

// Accept verifies env and moves the head onto it. Errors: as IntentChain.Accept, without ErrOtherSite.
func (c *RevocationChain) Accept(env *intent.Envelope) (*intent.RevocationBody, error) {
	r, err := c.Peek(env)
	if err != nil {
		return nil, err
	}
	if err := link(c.Head, r.Header, env.Digest()); err != nil {
		return nil, err
	}
	c.Head = intent.Head{Epoch: r.Epoch, Seq: r.Seq, Hash: env.Digest()}
	return r, nil
}

// Peek verifies the signature and shape of env without moving the head: a revocation acts on receipt, even across a gap.
// Errors: ErrSigner, ErrEpoch, ErrSize, ErrType, intent.Problems.
func (c *RevocationChain) Peek(env *intent.Envelope) (*intent.RevocationBody, error) {
	w, payload, err := openByWriter(env, intent.PayloadRevocation, c.Writers)
	if err != nil {
		return nil, err
	}
	r := &intent.RevocationBody{}
	if err := intent.DecodeStrict(payload, r); err != nil {
		return nil, fmt.Errorf("cannot decode revocation: %w", err)
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if r.Epoch != w.Epoch {
		return nil, fmt.Errorf("cannot accept revocation %d.%d: its writer has epoch %d: %w", r.Epoch, r.Seq, w.Epoch, ErrEpoch)
	}
	return r, nil
}
