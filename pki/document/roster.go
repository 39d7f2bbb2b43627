package document

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/skerry-metal/skerry/mesh/intent"
)

// ErrAdmission says that a document is no admission of a site's spare.
var ErrAdmission = errors.New("not an admission of this site's spare")

// SignedByAgent returns the id of the agent or spare of the roster that signed env. Errors: those of SignedBy.
func SignedByAgent(env *intent.Envelope, payloadType string, roster *intent.RosterBody) (string, error) {
	var keys []ed25519.PublicKey
	signer := map[string]string{}
	for _, a := range roster.Agents {
		for _, der := range a.Sign {
			k, err := ParseKey(der)
			if err != nil {
				continue // a key that cannot be parsed signs nothing
			}
			keys = append(keys, k)
			signer[KeyID(k)] = a.ID
		}
	}
	k, err := SignedBy(env, payloadType, keys)
	if err != nil {
		return "", err
	}
	return signer[KeyID(k)], nil
}

// OpenAdmission verifies that the spare of site which env names signed it, and checks its shape. Whether the agent that it
// replaces exists is the caller's to ask. Errors: ErrAdmission with the cause.
func OpenAdmission(env *intent.Envelope, site string, roster *intent.RosterBody) (*intent.Admission, error) {
	signer, err := SignedByAgent(env, intent.PayloadAdmission, roster)
	if err != nil {
		return nil, fmt.Errorf("cannot accept admission: %w: %w", ErrAdmission, err)
	}
	a := &intent.Admission{}
	if err := intent.DecodeStrict(env.Payload, a); err != nil {
		return nil, fmt.Errorf("cannot decode admission: %w: %w", ErrAdmission, err)
	}
	if err := a.Validate(); err != nil {
		return nil, fmt.Errorf("cannot accept admission: %w: %w", ErrAdmission, err)
	}
	if a.Site != site || a.Spare != signer || a.Spare == a.Replaces {
		return nil, fmt.Errorf("cannot accept admission of %q for %q at %q, signed by %q: %w", a.Spare, a.Replaces, a.Site, signer, ErrAdmission)
	}
	return a, nil
}
