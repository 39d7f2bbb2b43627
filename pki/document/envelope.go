package document

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// What can be wrong with one envelope.
var (
	ErrSize      = errors.New("envelope too large or malformed")
	ErrType      = errors.New("payload type is another")
	ErrSignature = errors.New("not enough valid signatures")
	ErrKey       = errors.New("not an Ed25519 key")
)

// KeyID returns the hex SHA-256 of pub's PKIX DER, as Signature.KeyID carries it.
func KeyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(MarshalKey(pub))
	return hex.EncodeToString(sum[:])
}

// MarshalKey returns the PKIX DER of pub (44 octets).
func MarshalKey(pub ed25519.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		panic("document: an Ed25519 key did not marshal: " + err.Error()) // it has no way to fail
	}
	return der
}

// ParseKey reads what MarshalKey wrote. Errors: ErrKey.
func ParseKey(der []byte) (ed25519.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("cannot parse key: %w: %w", ErrKey, err)
	}
	pub, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("cannot use key of type %T: %w", k, ErrKey)
	}
	return pub, nil
}

// Sign wraps payload in a DSSE v1 envelope with one signature per signer, in their order. payload is not copied. Each
// signer must hold an Ed25519 key. Errors: ErrKey, ErrSize, the signer's.
// Source: DSSE v1.0.0, protocol.md.
func Sign(payloadType string, payload []byte, signers ...crypto.Signer) (*intent.Envelope, error) {
	if len(signers) == 0 || len(signers) > intent.MaxSignatures {
		return nil, fmt.Errorf("cannot sign %s: %d signers, want 1-%d", payloadType, len(signers), intent.MaxSignatures)
	}
	env := &intent.Envelope{PayloadType: payloadType, Payload: payload}
	for _, s := range signers {
		if err := AddSignature(env, s); err != nil {
			return nil, err
		}
	}
	if b, err := json.Marshal(env); err != nil || len(b) > intent.MaxEnvelope {
		return nil, fmt.Errorf("cannot sign %s: %d octets of payload: %w", payloadType, len(payload), ErrSize)
	}
	return env, nil
}

// AddSignature adds one more signature to env; it does not move its digest. Errors: ErrKey, ErrSize, the signer's.
func AddSignature(env *intent.Envelope, signer crypto.Signer) error {
	pub, ok := signer.Public().(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("cannot sign %s with a key of type %T: %w", env.PayloadType, signer.Public(), ErrKey)
	}
	if len(env.Signatures) >= intent.MaxSignatures {
		return fmt.Errorf("cannot add a signature: %w", ErrSize)
	}
	sig, err := signer.Sign(rand.Reader, dsse.PAE(env.PayloadType, env.Payload), crypto.Hash(0))
	if err != nil {
		return fmt.Errorf("cannot sign %s: %w", env.PayloadType, err)
	}
	env.Signatures = append(env.Signatures, intent.Signature{KeyID: KeyID(pub), Sig: sig})
	return nil
}

// Open returns env's payload when at least threshold different keys of keys signed it under payloadType. A key counts once
// however often it stands in keys or signed. Signatures by unknown keys are ignored. The payload is not copied.
// Errors: ErrSize, ErrType, ErrSignature.
func Open(env *intent.Envelope, payloadType string, keys []ed25519.PublicKey, threshold int) ([]byte, error) {
	switch {
	case env == nil || len(env.Signatures) == 0 || len(env.Signatures) > intent.MaxSignatures || len(env.Payload) > intent.MaxEnvelope:
		return nil, fmt.Errorf("cannot open %s: %w", payloadType, ErrSize)
	case env.PayloadType != payloadType:
		return nil, fmt.Errorf("cannot open %s: %w", payloadType, ErrType)
	case threshold < 1:
		return nil, fmt.Errorf("cannot open %s with threshold %d: %w", payloadType, threshold, ErrSignature)
	}
	pae := dsse.PAE(env.PayloadType, env.Payload)
	good := make(map[string]bool, len(keys))
	for _, k := range keys {
		if len(k) != ed25519.PublicKeySize {
			continue
		}
		id := KeyID(k)
		for _, s := range env.Signatures {
			if s.KeyID == id && ed25519.Verify(k, pae, s.Sig) {
				good[id] = true
				break
			}
		}
	}
	if len(good) < threshold {
		return nil, fmt.Errorf("cannot open %s: %d of %d: %w", payloadType, len(good), threshold, ErrSignature)
	}
	return env.Payload, nil
}

// SignedBy returns the first of keys that signed env under payloadType. Errors: as Open.
func SignedBy(env *intent.Envelope, payloadType string, keys []ed25519.PublicKey) (ed25519.PublicKey, error) {
	for _, k := range keys {
		if _, err := Open(env, payloadType, []ed25519.PublicKey{k}, 1); err == nil {
			return k, nil
		}
	}
	_, err := Open(env, payloadType, keys, 1)
	if err == nil {
		err = ErrSignature
	}
	return nil, err
}

// Encode returns the wire form of env: one JSON object, no newline.
func Encode(env *intent.Envelope) ([]byte, error) {
	b, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("cannot encode envelope: %w", err)
	}
	if len(b) > intent.MaxEnvelope {
		return nil, fmt.Errorf("cannot encode envelope of %d octets: %w", len(b), ErrSize)
	}
	return b, nil
}

// Decode reads what Encode wrote. It verifies nothing. Errors: ErrSize, and intent.Problems for what is malformed.
func Decode(b []byte) (*intent.Envelope, error) {
	if len(b) > intent.MaxEnvelope {
		return nil, fmt.Errorf("cannot decode envelope of %d octets: %w", len(b), ErrSize)
	}
	env := &intent.Envelope{}
	if err := intent.DecodeStrict(b, env); err != nil {
		return nil, fmt.Errorf("cannot decode envelope: %w", err)
	}
	if len(env.Signatures) == 0 || len(env.Signatures) > intent.MaxSignatures {
		return nil, fmt.Errorf("cannot decode envelope with %d signatures: %w", len(env.Signatures), ErrSize)
	}
	return env, nil
}
