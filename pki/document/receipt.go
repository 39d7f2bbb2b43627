package document

import (
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/erasure"
)

// MaxReceipt bounds the payload of one receipt, in octets: with its envelope it stays below what a journal record may have.
const MaxReceipt = 380_000

// SignReceipt checks and signs r. Errors: erasure.ErrProof, ErrSize, the signer's.
func SignReceipt(r *erasure.Receipt, signer crypto.Signer) (*intent.Envelope, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("cannot encode receipt: %w", err)
	}
	if len(payload) > MaxReceipt {
		return nil, fmt.Errorf("cannot sign receipt of %d octets: %w", len(payload), ErrSize)
	}
	return Sign(intent.PayloadReceipt, payload, signer)
}

// OpenReceipt verifies that one of keys signed env, and what the receipt says. Errors: as Open, erasure.ErrProof, intent.Problems.
func OpenReceipt(env *intent.Envelope, keys []ed25519.PublicKey) (*erasure.Receipt, error) {
	payload, err := Open(env, intent.PayloadReceipt, keys, 1)
	if err != nil {
		return nil, err
	}
	return readReceipt(payload)
}

func readReceipt(payload []byte) (*erasure.Receipt, error) {
	if len(payload) > MaxReceipt {
		return nil, fmt.Errorf("cannot accept receipt of %d octets: %w", len(payload), ErrSize)
	}
	r := &erasure.Receipt{}
	if err := intent.DecodeStrict(payload, r); err != nil {
		return nil, fmt.Errorf("cannot read receipt: %w", err)
	}
	return r, r.Check()
}

// ErrUnproven says that nothing in a file of receipts proves that the signer was an agent of the site.
var ErrUnproven = errors.New("no roster that a listed writer signed names the signer's key")

// VerifyReceipt verifies env offline: the receipt names its agent; a roster entry among rosters, signed by a writer of writers, gives that
// agent of that site the key; the key signed. Errors: ErrUnproven, as OpenReceipt.
func VerifyReceipt(env *intent.Envelope, rosters []*intent.Envelope, writers []intent.Writer) (*erasure.Receipt, error) {
	if env == nil {
		return nil, fmt.Errorf("cannot read receipt: %w", ErrUnproven)
	}
	said, err := readReceipt(env.Payload)
	if err != nil {
		return nil, err
	}
	var keys []ed25519.PublicKey
	for _, r := range rosters {
		keys = append(keys, rosterKeys(r, writers, said.Site, said.Agent)...)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("cannot trust receipt %d of %s/%s: %w", said.Seq, said.Site, said.Agent, ErrUnproven)
	}
	return OpenReceipt(env, keys)
}

// rosterKeys returns the keys that a roster entry gives an agent to sign with; none when the entry proves nothing.
func rosterKeys(env *intent.Envelope, writers []intent.Writer, site, agent string) []ed25519.PublicKey {
	if env == nil {
		return nil
	}
	_, payload, err := openByWriter(env, intent.PayloadIntent, writers)
	if err != nil {
		return nil
	}
	var e intent.Entry
	var b intent.RosterBody
	if intent.DecodeStrict(payload, &e) != nil || e.Site != site || e.Kind != intent.EntryRoster || json.Unmarshal(e.Body, &b) != nil {
		return nil
	}
	var keys []ed25519.PublicKey
	for _, a := range b.Agents {
		for _, der := range a.SignKeys() {
			if k, err := ParseKey(der); err == nil && a.ID == agent {
				keys = append(keys, k)
			}
		}
	}
	return keys
}
