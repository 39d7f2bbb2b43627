package document

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// TrustChain verifies the trust stream. The first document is believed because its digest equals Pin (join token, or the
// coordinator's own init) and its own roots signed it; each later one is signed by the roots of the one before, and by the
// announced next set too when the roots change. A document that the announced set signed alone counts only where Accepted names it.
type TrustChain struct {
	Pin  intent.Digest
	Head intent.Head
	Body *intent.TrustBody // of the head; nil when empty; do not modify
	// Floored is the newest document that lowered the time floor. What was signed before it may bear the time of a wrong clock.
	Floored uint64
	// Accepted are the documents of an announced set alone that a person let count, in any order. Never written in place.
	Accepted []intent.Digest

	past []place // from the pinned document to the head; shared by copies, never written in place
}

// place is one document of a chain.
type place struct {
	hash intent.Digest
	body *intent.TrustBody
}

// ErrOffered says that the announced roots alone signed a document: the old ones are lost, or somebody wants us to believe so. It
// counts once a person accepted it.
var ErrOffered = errors.New("only the announced roots signed it; it counts when a person with role security accepts it: skerry pki trust accept")

// Accept verifies env and moves the head onto it. On an error the chain is as it was.
// Errors: ErrSigner, ErrOffered, ErrKnown, ErrReplay, ErrGap, ErrFork, ErrKey, ErrSize, ErrType, intent.Problems.
func (c *TrustChain) Accept(env *intent.Envelope) (*intent.TrustBody, error) {
	if env == nil {
		return nil, fmt.Errorf("cannot accept no trust document: %w", ErrSize)
	}
	digest := env.Digest()
	if i := slices.IndexFunc(c.past, func(p place) bool { return p.hash == digest }); i >= 0 {
		// Known by its payload, whatever signed it since: after a change of roots the old signatures would not count any more.
		if i == len(c.past)-1 {
			return nil, ErrKnown
		}
		return nil, fmt.Errorf("cannot accept trust %d: the head is %d: %w", c.past[i].body.Seq, c.Head.Seq, ErrReplay)
	}
	if c.Body == nil {
		return c.begin(env)
	}
	err := openByRoots(env, c.Body.Roots)
	if err != nil {
		return c.beside(env, err)
	}
	t := &intent.TrustBody{}
	if err := decodeTrust(env, t); err != nil {
		return nil, err
	}
	if err := c.checkRotation(env, t); err != nil {
		return nil, err
	}
	if t.Seq < c.Head.Seq {
		return nil, fmt.Errorf("cannot accept trust %d: another document of the roots has its place: %w", t.Seq, ErrFork)
	}
	if err := link(c.Head, t.Header, digest); err != nil {
		return nil, err
	}
	if t.Domain != c.Body.Domain {
		return nil, fmt.Errorf("cannot accept trust %d: domain %q, was %q: %w", t.Seq, t.Domain, c.Body.Domain, ErrOtherSite)
	}
	c.push(c.past, place{digest, t})
	return t, nil
}

// begin takes the pinned document. Its place is its own: a pin behind the first one says that nothing before it counts.
func (c *TrustChain) begin(env *intent.Envelope) (*intent.TrustBody, error) {
	if env.Digest() != c.Pin {
		return nil, fmt.Errorf("cannot accept first trust document %s: the pin says %s: %w", env.Digest().Short(), c.Pin.Short(), ErrSigner)
	}
	// The pin already vouches for these very bytes, so they may be parsed before their signatures are counted.
	t := &intent.TrustBody{}
	if err := decodeTrust(env, t); err != nil {
		return nil, err
	}
	if err := openByRoots(env, t.Roots); err != nil {
		return nil, err
	}
	if t.Seq == 1 {
		if err := link(c.Head, t.Header, env.Digest()); err != nil {
			return nil, err
		}
	}
	c.push(nil, place{env.Digest(), t})
	return t, nil
}

// push makes p the head behind past.
func (c *TrustChain) push(past []place, p place) {
	c.past = append(slices.Clip(past), p)
	c.Head, c.Body, c.Floored = intent.Head{Seq: p.body.Seq, Hash: p.hash}, p.body, 0
	for _, x := range c.past {
		if x.body.Floor != nil {
			c.Floored = x.body.Seq
		}
	}
}

// beside judges a document that the roots of the head did not sign; why says so. Those who may have signed it stand in it alone, or at
// its place: it is parsed first, within its bounds.
func (c *TrustChain) beside(env *intent.Envelope, why error) (*intent.TrustBody, error) {
	t := &intent.TrustBody{}
	if env.PayloadType != intent.PayloadTrust || len(env.Signatures) == 0 || len(env.Signatures) > intent.MaxSignatures || decodeTrust(env, t) != nil {
		return nil, why
	}
	i := slices.IndexFunc(c.past, func(p place) bool { return p.body.Seq+1 == t.Seq && p.hash.String() == t.Prev })
	if i < 0 || t.Domain != c.Body.Domain {
		return nil, why
	}
	before := c.past[i].body
	switch {
	case t.Roots.Digest() == before.Next && !t.Roots.Equal(before.Roots) && openByRoots(env, t.Roots) == nil:
		if slices.ContainsFunc(c.past, func(p place) bool { return p.body.Roots.Equal(t.Roots) }) {
			// They took over already, here or later: a set does so once.
			return nil, fmt.Errorf("cannot accept trust %d: its roots took over by another document: %w", t.Seq, ErrFork)
		}
		if !slices.Contains(c.Accepted, env.Digest()) {
			return nil, fmt.Errorf("cannot accept trust %d (%s): %w", t.Seq, env.Digest().Short(), ErrOffered)
		}
		c.push(c.past[:i+1], place{env.Digest(), t})
		return t, nil
	case !t.Roots.Equal(before.Roots) && openByRoots(env, t.Roots) == nil:
		return nil, fmt.Errorf("cannot accept trust %d: its own roots signed it, and they are not the announced ones: %w", t.Seq, ErrSigner)
	case t.Seq <= c.Head.Seq && openByRoots(env, before.Roots) == nil:
		return nil, fmt.Errorf("cannot accept trust %d: the roots of before signed it, and another document has its place: %w", t.Seq, ErrFork)
	}
	return nil, why
}

// First is the place of the pinned document; 0 for an empty chain.
func (c *TrustChain) First() uint64 {
	if len(c.past) == 0 {
		return 0
	}
	return c.past[0].body.Seq
}

// At returns the document at a place, nil for none; do not modify.
func (c *TrustChain) At(seq uint64) *intent.TrustBody {
	if first := c.First(); first > 0 && seq >= first && seq <= c.Head.Seq {
		return c.past[seq-first].body
	}
	return nil
}

// HashAt returns the digest of the document at a place; zero for none.
func (c *TrustChain) HashAt(seq uint64) intent.Digest {
	if c.At(seq) == nil {
		return intent.Digest{}
	}
	return c.past[seq-c.First()].hash
}

// Lone lists the documents of the chain that count by Accepted.
func (c *TrustChain) Lone() (out []intent.Digest) {
	for _, p := range c.past {
		if slices.Contains(c.Accepted, p.hash) {
			out = append(out, p.hash)
		}
	}
	return out
}

// Anchor is what a newcomer may begin at: the newest document that counts by acceptance, because none before it vouches for it; else
// the pin.
func (c *TrustChain) Anchor() intent.Digest {
	if lone := c.Lone(); len(lone) > 0 {
		return lone[len(lone)-1]
	}
	return c.Pin
}

// Needs is the document that an entry of intent must wait for. One that was accepted and changed nothing but roots is not waited for:
// where nobody accepted it yet, all goes on.
func (c *TrustChain) Needs() uint64 {
	i := len(c.past) - 1
	for ; i > 0 && slices.Contains(c.Accepted, c.past[i].hash); i-- {
		was, is := *c.past[i-1].body, *c.past[i].body
		is.Header, is.Roots, is.Next, is.Floor = was.Header, was.Roots, was.Next, was.Floor
		a, err1 := json.Marshal(was)
		b, err2 := json.Marshal(is)
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) || c.past[i].body.Floor != nil {
			break
		}
	}
	if i < 0 {
		return 0
	}
	return c.past[i].body.Seq
}

// Believe walks docs as somebody else has them in force: what he accepted is accepted here too. It is for who judges the chain by the
// roots that it leads to: holders, and who rebuilds a coordinator with them.
func Believe(docs []*intent.Envelope) (*TrustChain, error) {
	c := &TrustChain{}
	for i, env := range docs {
		if i == 0 && env != nil {
			c.Pin = env.Digest()
		}
		head := c.Head
		_, err := c.Accept(env)
		if errors.Is(err, ErrOffered) {
			c.Accepted = append(slices.Clip(c.Accepted), env.Digest())
			_, err = c.Accept(env)
		}
		if err == nil && i > 0 && c.Head.Seq != head.Seq+1 { // one in force replaces none that is shown
			err = ErrFork
		}
		if err != nil {
			return nil, fmt.Errorf("cannot follow document %d of the trust chain: %w", i+1, err)
		}
	}
	return c, nil
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
