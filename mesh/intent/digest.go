package intent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Digest is the SHA-256 of some bytes. It is the identity of an asset, a manifest, a chunk and a document payload.
type Digest [sha256.Size]byte

// ErrDigest says that a text is not a digest.
var ErrDigest = errors.New("not a digest (want sha256: and 64 lower-case hex digits)")

const digestPrefix = "sha256:"

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest { return sha256.Sum256(b) }

// ParseDigest reads "sha256:" and 64 lower-case hex digits; the prefix may be missing. Errors: ErrDigest.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	h := strings.TrimPrefix(s, digestPrefix)
	if len(h) != 2*len(d) || strings.ToLower(h) != h {
		return Digest{}, fmt.Errorf("cannot parse digest %q: %w", clip(s, 80), ErrDigest)
	}
	if _, err := hex.Decode(d[:], []byte(h)); err != nil {
		return Digest{}, fmt.Errorf("cannot parse digest %q: %w", clip(s, 80), ErrDigest)
	}
	return d, nil
}

// Hex returns the 64 hex digits, as file names and URL paths use them.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// String returns "sha256:" and the hex digits.
func (d Digest) String() string { return digestPrefix + d.Hex() }

// Short returns the first 12 hex digits, for people.
func (d Digest) Short() string { return d.Hex()[:12] }

// IsZero tells whether d was never set. No known input hashes to zero.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText writes String, or nothing for the zero digest.
func (d Digest) MarshalText() ([]byte, error) {
	if d.IsZero() {
		return nil, nil
	}
	return []byte(d.String()), nil
}

// UnmarshalText reads what MarshalText wrote. Errors: ErrDigest.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	v, err := ParseDigest(string(b))
	if err != nil {
		return err
	}
	*d = v
	return nil
}
