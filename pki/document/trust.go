package document

import (
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// TrustChain verifies the trust stream. The first document is believed because its digest equals Pin (join token, or the
// coordinator's own init) and its own roots signed it; each later one is signed by the roots of the one before, and by the
// announced next set too when the roots change.
type TrustChain struct {
	Pin  intent.Digest
	Head intent.Head
	Body *intent.TrustBody // of the head; nil when empty; do not modify
	// Floored is the newest document that lowered the time floor. What was signed before it may bear the time of a wrong clock.
	Floored uint64

	seen []intent.Digest // of documents 1 to the head; shared by copies, never written in place
}

// Accept verifies env and moves the head onto it. On an error the chain is as it was.
// Errors: ErrSigner, ErrKnown, ErrReplay, ErrGap, ErrFork, ErrKey, ErrSize, ErrType, intent.Problems.
func (c *TrustChain) Accept(env *intent.Envelope) (*intent.TrustBody, error) {
	if env == nil {
		return nil, fmt.Errorf("cannot accept no trust document: %w", ErrSize)
	}
	if i := slices.Index(c.seen, env.Digest()); i >= 0 {
		// Known by its payload, whatever signed it since: after a change of roots the old signatures would not count any more.
		if i == len(c.seen)-1 {
			return nil, ErrKnown
		}
		return nil, fmt.Errorf("cannot accept trust %d: the head is %d: %w", i+1, c.Head.Seq, ErrReplay)
	}
	first := c.Body == nil
	if first && env.Digest() != c.Pin {
		return nil, fmt.Errorf("cannot accept first trust document %s: the pin says %s: %w", env.Digest().Short(), c.Pin.Short(), ErrSigner)
	}
	t := &intent.TrustBody{}
	if first {
		// The pin already vouches for these very bytes, so they may be parsed before their signatures are counted.
		if err := decodeTrust(env, t); err != nil {
			return nil, err
		}
		if err := openByRoots(env, t.Roots); err != nil {
			return nil, err
		}
	} else {
		if err := openByRoots(env, c.Body.Roots); err != nil {
			return nil, err
		}
		if err := decodeTrust(env, t); err != nil {
			return nil, err
		}
		if err := c.checkRotation(env, t); err != nil {
			return nil, err
		}
	}
	if t.Seq > 0 && t.Seq < c.Head.Seq {
		return nil, fmt.Errorf("cannot accept trust %d: another document of the roots has its place: %w", t.Seq, ErrFork)
	}
	if err := link(c.Head, t.Header, env.Digest()); err != nil {
		return nil, err
	}
	if !first && t.Domain != c.Body.Domain {
		return nil, fmt.Errorf("cannot accept trust %d: domain %q, was %q: %w", t.Seq, t.Domain, c.Body.Domain, ErrOtherSite)
	}
	c.Head, c.Body = intent.Head{Seq: t.Seq, Hash: env.Digest()}, t
	if t.Floor != nil {
		c.Floored = t.Seq
	}
	c.seen = append(slices.Clip(c.seen), env.Digest())
	return t, nil
}

// checkRotation holds chain rule 6: new roots are the announced set, and threshold of them signed too.
func (c *TrustChain) checkRotation(env *intent.Envelope, t *intent.TrustBody) error {
	if t.Seq <= c.Head.Seq || t.Roots.Equal(c.Body.Roots) {
		return nil
	}
	if t.Roots.Digest() != c.Body.Next {
		return fmt.Errorf("cannot accept trust %d: its roots are not the announced set: %w", t.Seq, ErrSigner)
	}
	return openByRoots(env, t.Roots)
}

func openByRoots(env *intent.Envelope, set intent.RootSet) error {
	keys := make([]ed25519.PublicKey, 0, len(set.Keys))
	for _, der := range set.Keys {
		k, err := ParseKey(der)
		if err != nil {
			return err
		}
		keys = append(keys, k)
	}
	if _, err := Open(env, intent.PayloadTrust, keys, set.Threshold); err != nil {
		return fmt.Errorf("cannot accept trust document: %w: %w", ErrSigner, err)
	}
	return nil
}

// decodeTrust decodes and validates a trust document; every key and certificate in it must parse.
func decodeTrust(env *intent.Envelope, t *intent.TrustBody) error {
	if len(env.Payload) > intent.MaxEnvelope {
		return fmt.Errorf("cannot decode trust document: %w", ErrSize)
	}
	if err := intent.DecodeStrict(env.Payload, t); err != nil {
		return fmt.Errorf("cannot decode trust document: %w", err)
	}
	if err := t.Validate(); err != nil {
		return err
	}
	for i, w := range t.Writers {
		if _, err := ParseKey(w.Key); err != nil {
			return fmt.Errorf("cannot accept trust %d: writer %d: %w", t.Seq, i, err)
		}
	}
	for i, ca := range t.CAs {
		for _, der := range [][]byte{ca.Cert, ca.Root} {
			if _, err := x509.ParseCertificate(der); err != nil {
				return fmt.Errorf("cannot accept trust %d: CA %d: %w", t.Seq, i, err)
			}
		}
	}
	return nil
}
