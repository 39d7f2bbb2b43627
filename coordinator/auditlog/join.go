package auditlog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/skerry-metal/skerry/coordinator/store"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/pki/document"
)

// Bounds of one bundle; with its chain's state it fits into one commit of 2 MiB.
const (
	maxBundle      = 8192
	maxBundleBytes = 1_900_000
)

// ErrBroken says that a chain does not go on from what was brought before: other records in their place, or some left out.
var ErrBroken = errors.New("the chain is broken")

// Places lists how far we have a site's chains.
func (a *Log) Places(ctx context.Context, site string) ([]intent.AuditPlace, error) {
	states, err := a.states(ctx, site)
	out := []intent.AuditPlace{}
	for _, s := range states {
		out = append(out, intent.AuditPlace{Agent: s.st.Agent, Chain: s.st.Chain, Seq: s.st.Seq, Broken: s.st.Broken})
	}
	return out, err
}

// Join takes records of one chain of a site. Whoever brings them, they count because the agent that wrote them signed the head that
// names the last, with a key of the roster. What it returned nil for is on disk. A chain whose agent signed two different records in
// one place, or brings records with some left out, is closed: what is there stays, the other record is kept beside it, and our own
// chain says so. Errors: ErrBroken; else what is malformed, or not signed by its agent.
func (a *Log) Join(ctx context.Context, site, from string, b intent.AuditBundle) error {
	keys, err := a.Keys(ctx, site)
	if err != nil {
		return err
	}
	chains, err := openBundle(site, b, keys[b.Agent])
	if err != nil {
		return fmt.Errorf("cannot join audit of %s/%s: %w", site, b.Agent, err)
	}
	broken, err := a.joinSealed(ctx, site, from, b, chains, keys[b.Agent])
	if err != nil || broken == "" {
		return err
	}
	r := intent.AuditRecord{User: from, Via: "session", Verb: "audit.join", Object: "chain " + auditPlace(site, b.Agent, b.Chain), Result: intent.AuditRefused, Reason: broken}
	if _, err := a.Commit(ctx, r, store.Commit{}); err != nil {
		return err
	}
	return fmt.Errorf("cannot join audit of %s/%s: %s: %w", site, b.Agent, broken, ErrBroken)
}

// Verify tells whether Join could take b by its own merits: signed by its agent, whole in itself. Nothing is kept.
func (a *Log) Verify(ctx context.Context, site string, b intent.AuditBundle) error {
	keys, err := a.Keys(ctx, site)
	if err != nil {
		return err
	}
	_, err = openBundle(site, b, keys[b.Agent])
	return err
}

// openBundle verifies a bundle by itself, its records one after the other up to the sealed head, and returns the chain after each.
func openBundle(site string, b intent.AuditBundle, ders [][]byte) ([]document.AuditChain, error) {
	if len(b.Records) == 0 || len(b.Records) > maxBundle || !intent.IsLabel(b.Agent) || !intent.IsLabel(b.Chain) {
		return nil, fmt.Errorf("%d records are out of bounds", len(b.Records))
	}
	var keys []ed25519.PublicKey
	for _, der := range ders {
		if k, err := document.ParseKey(der); err == nil {
			keys = append(keys, k)
		}
	}
	head, err := document.OpenAuditHead(b.Head, keys)
	if err != nil {
		return nil, fmt.Errorf("not sealed by a key of the roster: %w", err)
	}
	first := intent.AuditRecord{}
	if err := intent.DecodeStrict(b.Records[0], &first); err != nil {
		return nil, err
	}
	chain := document.AuditChain{Site: site, Agent: b.Agent, Chain: b.Chain}
	if first.Seq > 1 {
		chain.Seq = first.Seq - 1
		if chain.Hash, err = intent.ParseDigest(first.Prev); err != nil {
			return nil, err
		}
	}
	size := 0
	var out []document.AuditChain
	for _, raw := range b.Records {
		if size += len(raw); size > maxBundleBytes {
			return nil, fmt.Errorf("more than %d octets at once", maxBundleBytes)
		}
		if _, err := chain.Accept(raw); err != nil {
			return nil, err
		}
		out = append(out, chain)
	}
	return out, chain.Sealed(head)
}

// joinSealed compares a verified bundle with what is here and stores what is new; broken says why it does not fit.
func (a *Log) joinSealed(ctx context.Context, site, from string, b intent.AuditBundle, chains []document.AuditChain, keys [][]byte) (broken string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	place := auditPlace(site, b.Agent, b.Chain)
	st, guard, err := a.state(ctx, place)
	if err != nil {
		return "", err
	}
	if st.Broken != "" {
		return st.Broken, nil
	}
	if st.Seq == 0 {
		st.AuditChain = document.AuditChain{Site: site, Agent: b.Agent, Chain: b.Chain}
	}
	c := store.Commit{If: []store.Guard{guard}, Put: map[string][]byte{}}
	for i, end := range chains {
		raw := b.Records[i]
		switch _, err := st.Accept(raw); {
		case err == nil:
			c.Put[auditKey(place, end.Seq)] = raw
		case errors.Is(err, document.ErrGap):
			what := fmt.Sprintf("records %d to %d are missing", st.Seq+1, end.Seq-1)
			if from != b.Agent { // a peer may leave out what its agent has
				return what, nil
			}
			return what, a.breakChain(ctx, st, guard, place, what, nil)
		default: // it lies at or below our head: the same, or a fork
			if have, gerr := a.Store.Get(ctx, auditKey(place, end.Seq)); gerr == nil && bytes.Equal(have.Value, raw) {
				continue // told twice: the answer was lost
			}
			what := fmt.Sprintf("it forked at record %d", end.Seq)
			return what, a.breakChain(ctx, st, guard, place, what, map[string][]byte{fmt.Sprintf("auditfork/%s/%016x", place, end.Seq): raw})
		}
	}
	if len(c.Put) == 0 {
		return "", nil
	}
	wire, err := document.Encode(b.Head)
	if err != nil {
		return "", err
	}
	st.Sealed, st.Joined = st.Seq, a.Now().UTC()
	for _, k := range keys {
		if !slices.ContainsFunc(st.Keys, func(h []byte) bool { return bytes.Equal(h, k) }) {
			st.Keys = append(st.Keys, k)
		}
	}
	c.Put[auditHeadKey(place, st.Seq)] = wire
	if err := st.put(c, place); err != nil {
		return "", err
	}
	_, err = a.Store.Commit(ctx, c)
	return "", err
}

// breakChain closes a chain; evidence is kept with it.
func (a *Log) breakChain(ctx context.Context, st auditState, guard store.Guard, place, why string, evidence map[string][]byte) error {
	if e, err := a.Store.Get(ctx, guard.Key); err == nil { // st may have gone on over records that are not kept
		if err := json.Unmarshal(e.Value, &st); err != nil {
			return fmt.Errorf("cannot read audit chain %s: %w", place, err)
		}
	}
	st.Broken = why
	c := Merge(store.Commit{If: []store.Guard{guard}}, store.Commit{Put: evidence})
	if err := st.put(c, place); err != nil {
		return err
	}
	_, err := a.Store.Commit(ctx, c)
	return err
}
