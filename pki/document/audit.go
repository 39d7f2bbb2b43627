package document

import (
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// ErrUnsealed says that a signed head names another record than the chain has.
var ErrUnsealed = errors.New("the signed head names another record")

// AuditChain is one writer's audit log up to a record. Its zero value with Site, Agent and Chain set is the empty chain.
type AuditChain struct {
	Site  string        `json:"site,omitempty"` // "" for a coordinator
	Agent string        `json:"agent"`
	Chain string        `json:"chain"`
	Seq   uint64        `json:"seq"`
	Hash  intent.Digest `json:"hash"` // of record Seq
}

// AuditChainAt returns the chain that ends with raw, one record. It is for a writer's own store, which is its anchor.
func AuditChainAt(raw []byte) (AuditChain, error) {
	r := &intent.AuditRecord{}
	if err := intent.DecodeStrict(raw, r); err != nil {
		return AuditChain{}, fmt.Errorf("cannot read audit record: %w", err)
	}
	return AuditChain{Site: r.Site, Agent: r.Agent, Chain: r.Chain, Seq: r.Seq, Hash: intent.DigestOf(raw)}, nil
}

// Next links r onto the chain and returns its bytes; r's place is set here, and its texts are cut to their bounds.
func (c *AuditChain) Next(r intent.AuditRecord) ([]byte, error) {
	r = r.Clip()
	r.Site, r.Agent, r.Chain, r.Seq, r.Prev = c.Site, c.Agent, c.Chain, c.Seq+1, c.prev()
	r.Time = r.Time.UTC()
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("cannot encode audit record: %w", err)
	}
	if len(raw) > intent.MaxAuditRecord {
		return nil, fmt.Errorf("cannot keep audit record of %d octets: %w", len(raw), ErrSize)
	}
	c.Seq, c.Hash = r.Seq, intent.DigestOf(raw)
	return raw, nil
}

func (c *AuditChain) prev() string {
	if c.Seq == 0 {
		return ""
	}
	return c.Hash.String()
}

// Accept verifies that raw is the chain's next record and moves it there. The record is not proven before a head that names it,
// or a later one, is: see Sealed. Errors: ErrSize, ErrKnown, ErrReplay, ErrGap, ErrFork, ErrOtherSite; the chain then stays.
func (c *AuditChain) Accept(raw []byte) (*intent.AuditRecord, error) {
	if len(raw) > intent.MaxAuditRecord {
		return nil, fmt.Errorf("cannot accept audit record of %d octets: %w", len(raw), ErrSize)
	}
	r := &intent.AuditRecord{}
	if err := intent.DecodeStrict(raw, r); err != nil {
		return nil, fmt.Errorf("cannot read audit record: %w", err)
	}
	refuse := func(err error) (*intent.AuditRecord, error) {
		return nil, fmt.Errorf("cannot accept audit record %d of %s after %d: %w", r.Seq, c, c.Seq, err)
	}
	hash := intent.DigestOf(raw)
	switch {
	case r.Site != c.Site || r.Agent != c.Agent || r.Chain != c.Chain:
		return refuse(ErrOtherSite)
	case r.Seq == c.Seq && c.Seq > 0 && hash == c.Hash:
		return refuse(ErrKnown)
	case r.Seq == c.Seq && c.Seq > 0:
		return refuse(ErrFork)
	case r.Seq < c.Seq || r.Seq == 0:
		return refuse(ErrReplay)
	case r.Seq > c.Seq+1:
		return refuse(ErrGap)
	case r.Prev != c.prev():
		return refuse(ErrFork)
	}
	c.Seq, c.Hash = r.Seq, hash
	return r, nil
}

// String returns SITE/AGENT, or the coordinator's id.
func (c AuditChain) String() string {
	if c.Site == "" {
		return c.Agent
	}
	return c.Site + "/" + c.Agent
}

// Seal signs the chain's head.
func (c AuditChain) Seal(signer crypto.Signer, now time.Time) (*intent.Envelope, error) {
	payload, err := json.Marshal(intent.AuditHead{Site: c.Site, Agent: c.Agent, Chain: c.Chain, Seq: c.Seq, Hash: c.Hash, Time: now.UTC()})
	if err != nil {
		return nil, fmt.Errorf("cannot encode audit head: %w", err)
	}
	return Sign(intent.PayloadAudit, payload, signer)
}

// OpenAuditHead verifies that one of keys signed the head. Errors: as Open.
func OpenAuditHead(env *intent.Envelope, keys []ed25519.PublicKey) (*intent.AuditHead, error) {
	payload, err := Open(env, intent.PayloadAudit, keys, 1)
	if err != nil {
		return nil, err
	}
	h := &intent.AuditHead{}
	if err := intent.DecodeStrict(payload, h); err != nil {
		return nil, fmt.Errorf("cannot read audit head: %w", err)
	}
	return h, nil
}

// Sealed verifies that h names the chain as it stands. Errors: ErrOtherSite, ErrUnsealed.
func (c AuditChain) Sealed(h *intent.AuditHead) error {
	switch {
	case h.Site != c.Site || h.Agent != c.Agent || h.Chain != c.Chain:
		return fmt.Errorf("cannot use head %d for audit chain %s: %w", h.Seq, c, ErrOtherSite)
	case h.Seq != c.Seq || h.Hash != c.Hash:
		return fmt.Errorf("cannot use head %d for audit chain %s at %d: %w", h.Seq, c, c.Seq, ErrUnsealed)
	}
	return nil
}
