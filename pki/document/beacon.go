package document

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// Beacon is the payload with which a coordinator says to one agent that it is there, and how far the streams are. The agent chose
// the nonce, so that nobody plays an old one. Source: trust.md sections 2 and 4.
type Beacon struct {
	Who        string      `json:"who"` // coordinator
	To         string      `json:"to"`  // SITE/AGENT that asked
	Time       time.Time   `json:"time"`
	Nonce      string      `json:"nonce"`
	Trust      intent.Head `json:"trust"`
	Revocation intent.Head `json:"revocation"`
	Intent     intent.Head `json:"intent"` // of the site's chain
}

// The octets of a nonce in hex.
const (
	minNonce = 32
	maxNonce = 64
)

// MaxBeacon bounds the wire form of a beacon, and of the question for one: some 900 octets.
const MaxBeacon = 4096

// ErrBeacon says that a document is no answer to this agent's question.
var ErrBeacon = errors.New("not the beacon that was asked for")

// Sign signs b. Errors: ErrBeacon for a nonce out of bounds, the signer's.
func (b Beacon) Sign(signer crypto.Signer) (*intent.Envelope, error) {
	if len(b.Nonce) < minNonce || len(b.Nonce) > maxNonce {
		return nil, fmt.Errorf("cannot sign beacon over a nonce of %d octets: %w", len(b.Nonce), ErrBeacon)
	}
	payload, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("cannot encode beacon: %w", err)
	}
	return Sign(intent.PayloadBeacon, payload, signer)
}

// OpenBeacon verifies that a current writer signed env, for the agent to (SITE/AGENT) and over its nonce. Errors: ErrBeacon, ErrSigner,
// ErrSize, ErrType, intent.Problems.
func OpenBeacon(env *intent.Envelope, writers []intent.Writer, to, nonce string) (*Beacon, error) {
	current := slices.DeleteFunc(slices.Clone(writers), func(w intent.Writer) bool { return w.State == intent.KeyRetire })
	_, payload, err := openByWriter(env, intent.PayloadBeacon, current)
	if err != nil {
		return nil, err
	}
	if len(payload) > MaxBeacon {
		return nil, fmt.Errorf("cannot accept beacon of %d octets: %w", len(payload), ErrSize)
	}
	b := &Beacon{}
	if err := intent.DecodeStrict(payload, b); err != nil {
		return nil, fmt.Errorf("cannot decode beacon: %w", err)
	}
	if len(nonce) < minNonce || b.Nonce != nonce || b.To != to || !intent.IsLabel(b.Who) {
		return nil, fmt.Errorf("cannot accept beacon of %q for %q: %w", b.Who, b.To, ErrBeacon)
	}
	return b, nil
}
