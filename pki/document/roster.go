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
		for _, der := range a.SignKeys() {
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

// OpenQuarantine verifies that the agent of site which env names as its signer signed it, and that it is not about itself: a stolen
// box does not let itself back. Errors: those of SignedByAgent, ErrSigner, ErrOtherSite, intent.Problems.
func OpenQuarantine(env *intent.Envelope, site string, roster *intent.RosterBody) (*intent.Quarantine, error) {
	signer, err := SignedByAgent(env, intent.PayloadQuarantine, roster)
	if err != nil {
		return nil, err
	}
	q := &intent.Quarantine{}
	if err := intent.DecodeStrict(env.Payload, q); err != nil {
		return nil, fmt.Errorf("cannot decode quarantine: %w", err)
	}
	if q.Agent != signer || q.Agent == q.Target.Agent || q.N == 0 {
		return nil, fmt.Errorf("cannot accept quarantine %d by %q: %w", q.N, q.Agent, ErrSigner)
	}
	if q.Site != site {
		return nil, fmt.Errorf("cannot accept quarantine %d of site %q at %q: %w", q.N, q.Site, site, ErrOtherSite)
	}
	return q, nil
}
